"""The whole pipeline at toy size, through Snakemake, as a user runs it."""

import json
import os
import signal
import subprocess
import time

import mlflow
import pandas
import pytest

from pipeline import command, environment, planned_rules, snakemake

STAGES = {
    "prepare_prompts",
    "train_target",
    "generate_responses",
    "train_draft",
    "profile_latency",
    "record_traces",
    "train_policy",
    "tune",
    "benchmark",
    "report",
}


@pytest.fixture(scope="module")
def reproduction(tmp_path_factory):
    """A folder in which the pipeline has run."""
    folder = tmp_path_factory.mktemp("reproduction")
    result = snakemake(folder)
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-5000:]
    return folder


@pytest.fixture(scope="module")
def results(reproduction):
    """The experiment's folder."""
    return reproduction / "results/smoke"


def test_every_method_is_measured_and_lossless(results):
    summary = pandas.read_csv(results / "benchmark/summary.csv")
    measured = summary[summary["source"] == "measured"]
    assert {"autoregressive", "eagle3", "eagle3_grid", "ltd:paper", "ltd"} <= set(measured["method"])
    assert measured["lossless"].all()
    assert "oracle" in set(summary.loc[summary["source"] == "replay", "method"])


def test_parts_of_a_cycle_add_up_to_the_wall_time(results):
    cycles = pandas.read_parquet(results / "benchmark/cycles.parquet")
    wall = pandas.read_parquet(results / "benchmark/runs.parquet")["seconds"].sum()
    parts = cycles[["draft_ms", "verify_ms", "policy_ms", "rest_ms"]].to_numpy()
    assert (parts >= 0).all()
    assert parts.sum() / 1000 == pytest.approx(wall, rel=0.02)
    assert (cycles["verified"] <= cycles["size"]).all()


def test_report_shows_every_measured_method(results):
    report = (results / "report/report.md").read_text()
    for method in ("autoregressive", "eagle3_grid", "ltd:paper", "oracle"):
        assert method in report


def test_mlflow_holds_one_parent_and_every_stage(reproduction, results):
    mlflow.set_tracking_uri(f"sqlite:///{reproduction}/results/mlflow.db")
    runs = mlflow.search_runs(experiment_names=["smoke"])
    parents = runs[runs["tags.stage"] == "reproduction"]
    assert len(parents) == 1 and parents.iloc[0]["status"] == "FINISHED"
    children = runs[runs["tags.mlflow.parentRunId"] == parents.iloc[0]["run_id"]]
    assert set(children["tags.stage"]) >= STAGES
    assert set(children["status"]) == {"FINISHED"}
    assert json.loads((results / "mlflow_parent.json").read_text())["run_id"] == parents.iloc[0]["run_id"]


def test_finished_run_has_nothing_left_to_do(reproduction):
    assert "Nothing to be done" in snakemake(reproduction, "--dry-run").stdout


def test_changed_key_reruns_only_what_depends_on_it(reproduction, tmp_path):
    changed = tmp_path / "changed.yaml"
    changed.write_text("rl: {learning_rate: 0.0123}\n")
    rules = planned_rules(reproduction, [changed])
    assert {"train_initial_policy", "benchmark", "report"} <= rules
    upstream = ("prepare_prompts", "train_target", "train_draft", "profile_latency", "record_traces_of_split")
    assert not rules & set(upstream)


def test_typo_stops_before_any_work(reproduction, tmp_path):
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("rl: {learning_rat: 0.1}\n")
    result = snakemake(reproduction, config=[wrong])
    assert result.returncode != 0
    assert "config: rl.learning_rat: unknown key; did you mean learning_rate?" in result.stderr


def test_killed_training_goes_on_from_its_checkpoint(reproduction, results, tmp_path):
    longer = tmp_path / "longer.yaml"
    longer.write_text("draft: {epochs: 40}\n")
    checkpoint = results / "state/train_draft/checkpoint.pt"
    run = subprocess.Popen(
        command("train_draft", config=[longer]),
        cwd=reproduction,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not checkpoint.is_file():
        assert run.poll() is None, "finished before it could be killed"
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert not (results / "draft/model.safetensors").exists()
    assert snakemake(reproduction, "--unlock", config=[longer]).returncode == 0
    result = snakemake(reproduction, "train_draft", config=[longer])
    assert result.returncode == 0, result.stderr[-5000:]
    log = (results / "logs/train_draft.log").read_text()
    assert "epoch 1/40" not in log and "epoch 40/40" in log
    mlflow.set_tracking_uri(f"sqlite:///{reproduction}/results/mlflow.db")
    runs = mlflow.search_runs(experiment_names=["smoke"], filter_string="tags.stage = 'train_draft'")
    assert sorted(runs["status"]) == ["FINISHED", "FINISHED", "KILLED"]
