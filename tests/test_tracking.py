"""MLflow: stages nest under one parent, killed ones are marked, a new configuration opens a new parent."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from ltd import tracking
from ltd.errors import InputError
from ltd.evaluate_ablation import log
from ltd.files import read_json
from ltd.reporting.provenance import provenance, provenance_rows


@dataclass(frozen=True)
class Options:
    """The options a tracked stage needs at least."""

    experiment: Path
    output: Path


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """An experiment folder with a store of its own."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "results" / "toy"
    folder.mkdir(parents=True)
    return folder


def children(experiment):
    """All runs of the experiment that have a parent, as a data frame."""
    runs = mlflow.search_runs(experiment_names=[experiment.name])
    return runs[runs["tags.mlflow.parentRunId"].notna()]


def test_stage_is_a_child_of_the_parent(experiment):
    tracking.open_parent(experiment, {"seed": 1})
    options = Options(experiment, experiment / "policies/ltd/iteration-1")
    with tracking.stage_run("train_policy", options) as run:
        run.metrics({"reward": 0.5}, step=3)
    tracking.close_parent(experiment, "FINISHED")
    parent = read_json(experiment / "mlflow_parent.json")["run_id"]
    child = children(experiment).iloc[0]
    assert child["tags.mlflow.parentRunId"] == parent
    assert child["tags.mlflow.runName"] == "train_policy policies/ltd/iteration-1"
    assert child["metrics.reward"] == 0.5
    assert mlflow.get_run(parent).info.status == "FINISHED"


def test_stages_started_at_once_share_a_store(experiment):
    script = "import sys; from pathlib import Path; from ltd import tracking; "
    script += "print(tracking._connect(Path(sys.argv[1])))"
    command = [sys.executable, "-c", script, experiment]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    stages = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answers = {stage.communicate()[0] for stage in stages}
    assert [stage.returncode for stage in stages] == [0, 0, 0] and len(answers) == 1


def test_usage_is_not_reported():
    """Also where no variable of the environment says so."""
    script = "from ltd import tracking; from mlflow.telemetry import get_telemetry_client; "
    script += "assert tracking.mlflow and get_telemetry_client() is None"
    clean = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", script], env=clean, check=True)


@pytest.mark.parametrize("output", ["benchmark/t0.5", "traces/test-t0.5-w4", "latency/slower-10"])
def test_name_of_a_run_keeps_numbers(experiment, output):
    suffix = "" if output.startswith("benchmark") else ".json"
    options = Options(experiment, experiment / f"{output}{suffix}")
    assert tracking._run_name("a_stage", options, experiment) == f"a_stage {output}"


def test_same_configuration_keeps_the_parent_and_a_new_seed_opens_one(experiment):
    parents = []
    for seed in (1, 1, 2):
        tracking.open_parent(experiment, {"seed": seed})
        parents.append(read_json(experiment / "mlflow_parent.json")["run_id"])
    assert parents[0] == parents[1] != parents[2]


def leave_running(stage, options):
    """Leave the run of a stage as SIGKILL does: nobody ends it, as long as what is returned is kept."""
    stage = tracking.stage_run(stage, options)
    stage.__enter__()
    mlflow.tracking.fluent._active_run_stack.get().clear()
    return stage


def test_killed_stage_is_marked_when_it_runs_again(experiment):
    tracking.open_parent(experiment, {})
    options = Options(experiment, experiment / "draft")
    _killed = leave_running("train_draft", options)
    tracking.open_parent(experiment, {})
    with tracking.stage_run("train_draft", options):
        pass
    assert sorted(children(experiment)["status"]) == ["FINISHED", "KILLED"]


def test_folders_of_one_name_share_a_server_and_no_runs(experiment, tmp_path, monkeypatch):
    """Of two machines: neither takes the other's running stage for killed, nor its outputs for its own."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'server.db'}")
    elsewhere = tmp_path / "elsewhere" / "results" / experiment.name
    with tracking.stage_run("profile_latency", Options(elsewhere, elsewhere / "latency")):
        pass
    _runs = leave_running("train_draft", Options(elsewhere, elsewhere / "draft"))
    with tracking.stage_run("train_draft", Options(experiment, experiment / "draft")):
        pass
    with tracking.stage_run("report", Options(experiment, experiment / "report")) as run:
        assert [stage.name for stage in run.finished_stages()] == ["train_draft draft"]
    runs = mlflow.search_runs(experiment_names=[experiment.name])
    assert sorted(runs[runs["tags.stage"] == "train_draft"]["status"]) == ["FINISHED", "RUNNING"]
    assert runs["tags.folder"].nunique() == 2


def test_killed_reproduction_is_marked_when_one_of_another_configuration_starts(experiment):
    tracking.open_parent(experiment, {"seed": 1})
    with tracking.stage_run("prepare_prompts", Options(experiment, experiment / "prompts")):
        pass
    _killed = leave_running("train_draft", Options(experiment, experiment / "draft"))
    tracking.open_parent(experiment, {"seed": 2})
    runs = mlflow.search_runs(experiment_names=[experiment.name]).set_index("tags.mlflow.runName")["status"]
    assert runs["train_draft draft"] == "KILLED" and runs["prepare_prompts prompts"] == "FINISHED"
    parents = runs[runs.index.str.startswith("toy-seed")]
    assert sorted(parents) == ["KILLED", "RUNNING"] and parents.filter(like="toy-seed2").item() == "RUNNING"


def test_a_parent_that_is_gone_is_no_parent(experiment):
    tracking.open_parent(experiment, {"seed": 1})
    mlflow.delete_run(read_json(experiment / "mlflow_parent.json")["run_id"])
    with tracking.stage_run("train_draft", Options(experiment, experiment / "draft")):
        pass
    runs = mlflow.search_runs(experiment_names=["toy"])
    assert len(runs) == 1 and "tags.mlflow.parentRunId" not in runs


def test_a_deleted_experiment_is_said_to_be(experiment):
    tracking.open_parent(experiment, {"seed": 1})
    mlflow.delete_experiment(mlflow.get_experiment_by_name("toy").experiment_id)
    with pytest.raises(InputError, match=r"experiment: toy was deleted in MLflow; bring it back with"):
        tracking.open_parent(experiment, {"seed": 1})


def test_failed_stage_is_marked_failed(experiment):
    with pytest.raises(ValueError), tracking.stage_run("tune", Options(experiment, experiment / "tuning")):
        raise ValueError
    runs = mlflow.search_runs(experiment_names=[experiment.name])
    assert list(runs["status"]) == ["FAILED"]


def test_outcome_stands_on_the_parent_too(experiment):
    """Also more numbers than MLflow takes in one call, as of many methods on many tasks."""
    values = {f"speedup/ltd/task-{number}": number / 2 for number in range(1203)}
    folder = experiment / "report"
    folder.mkdir(parents=True)
    (folder / "report.md").write_text("text")
    tracking.open_parent(experiment, {"seed": 0})
    with tracking.stage_run("report", Options(experiment, folder)) as run:
        run.outcome(values, folder)
    parent = read_json(experiment / "mlflow_parent.json")["run_id"]
    child = children(experiment).iloc[0]["run_id"]
    for run_id in (parent, child):
        metrics = mlflow.get_run(run_id).data.metrics
        assert {name: metrics[name] for name in values} == values
    client = mlflow.MlflowClient()
    assert [entry.path for entry in client.list_artifacts(parent, "report")] == ["report/report.md"]


def test_the_readme_finds_the_best_reward(experiment, monkeypatch, capsys):
    """Its code, run in a folder with an experiment `default` whose ablation was evaluated twice."""
    default = experiment.with_name("default")
    tracking.open_parent(default, {"seed": 0})
    columns = ["method", "task", "speedup", "acceptance_length", "gap_share"]
    for speedup in (1.1, 1.4):
        rows = [
            ("ltd:reward-time", "mean", 1.2, 2.0, 0.1),
            ("ltd:reward-marginal", "mean", speedup, 2.0, 0.2),
            ("ltd:reward-acceptance", "chat", 1.9, 2.0, 0.3),
            ("oracle", "mean", 1.9, 2.0, 1.0),
        ]
        options = Options(default, default / "ablations" / "rewards.csv")
        with tracking.stage_run("evaluate_ablation", options) as run:
            log(run, pd.DataFrame(rows, columns=columns), 0.0)
    text = (Path(__file__).parents[1] / "docs/ablations.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(experiment.parents[1])
    capsys.readouterr()
    exec(code, {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["metrics.speedup/ltd-reward-marginal/mean", "1.4"]
    assert lines[1].split() == ["metrics.speedup/ltd-reward-time/mean", "1.2"]
    assert not any("oracle" in line or "chat" in line for line in lines)


def test_report_knows_the_newest_run_of_every_output(experiment):
    def options(output):
        return Options(experiment, experiment / output)

    for output in ("traces/train", "traces/test", "traces/train"):
        with tracking.stage_run("record_traces", options(output)):
            pass
    with pytest.raises(ValueError), tracking.stage_run("tune", options("tuning")):
        raise ValueError
    with tracking.stage_run("report", options("report")) as run:
        stages = run.finished_stages()
    runs = mlflow.search_runs(experiment_names=["toy"], filter_string="attributes.status = 'FINISHED'")
    newest = runs[runs["tags.stage"] == "record_traces"].groupby("tags.stage_name")["run_id"].first()
    assert [stage.name for stage in stages] == ["record_traces traces/test", "record_traces traces/train"]
    assert {stage.name: stage.run_id for stage in stages} == newest.to_dict()
    rows = provenance_rows(stages)
    assert list(rows["output"]) == ["traces/test", "traces/train"]
    assert set(rows["commit"]) == {tracking.git_commit()}
    many = [replace(stages[0], name=f"record_traces traces/{number}") for number in range(7)]
    assert list(provenance_rows(many)["output"]) == ["7 outputs"]
    assert provenance([]) == [] and tracking.StageRun().finished_stages() == []
