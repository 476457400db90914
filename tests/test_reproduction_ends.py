"""How a call of Snakemake begins and ends: parent runs, what is kept, and what is printed."""

from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest

from ltd import made_with, reproduction, tracking
from ltd.errors import InputError

TABLE = Path("results/alpha/report/summary.txt")


@pytest.fixture
def experiments(tmp_path, monkeypatch):
    """Two experiments of one run, whose models nobody looks at."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("ltd.preflight.check", lambda config: None)
    return {f"{name}_": {"experiment": name, "seed": 1} for name in ("alpha", "beta")}


class Job:
    def __init__(self, rule):
        self.rule = SimpleNamespace(name=rule)


def graph(*rules, left=()):
    """As much of Snakemake's DAG as is looked at."""
    jobs = [Job(rule) for rule in rules]
    return SimpleNamespace(jobs=jobs, needrun_jobs=lambda: [job for job in jobs if job.rule.name in left])


def status_of(experiment):
    run_id = tracking.read_json(Path("results", experiment, tracking.PARENT_FILE))["run_id"]
    return mlflow.get_run(run_id).info.status


def test_where_one_of_several_is_refused_none_is_left_running(experiments):
    reproduction.begin(experiments)
    mlflow.delete_experiment(mlflow.get_experiment_by_name("beta").experiment_id)
    Path("results/alpha", made_with.UNFINISHED).unlink()
    with pytest.raises(InputError, match=r"^experiment: beta was deleted in MLflow"):
        reproduction.begin(experiments)
    assert status_of("alpha") == "FAILED"
    assert not Path("results/alpha", made_with.UNFINISHED).exists()


def test_one_experiments_failure_is_not_anothers(experiments):
    reproduction.begin(experiments)
    reproduction.end(experiments, graph("alpha_report", "beta_report", left=["beta_report"]), "FAILED")
    assert (status_of("alpha"), status_of("beta")) == ("FINISHED", "FAILED")
    assert Path("results/alpha", made_with.FILE).is_file()
    assert not Path("results/beta", made_with.FILE).exists()


def test_a_failure_beside_a_finished_report_is_one_where_the_experiment_is_alone(experiments):
    alone = {"": experiments["alpha_"]}
    reproduction.begin(alone)
    reproduction.end(alone, graph("report", "transfer", left=["transfer"]), "FAILED")
    assert status_of("alpha") == "FAILED" and Path("results/alpha", made_with.FILE).is_file()


def test_the_table_is_printed_where_it_is_this_runs(experiments, monkeypatch):
    words = ("report", TABLE, "results/alpha/report/report.md")
    assert reproduction.last_words(graph("report"), *words) == ""
    reproduction.begin(experiments)  # MLflow leaves its address in the environment
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    TABLE.write_text("0.8–0.9\n", encoding="utf-8")
    said = reproduction.last_words(graph("report"), *words)
    assert said.splitlines()[0] == "0.8–0.9" and "report: results/alpha/report/report.md" in said
    assert said.endswith("MLflow: make ui, then http://127.0.0.1:5000")
    for dag in (graph("train_draft"), graph("report", left=["report"])):
        said = reproduction.last_words(dag, *words)
        assert said.startswith("results/alpha/report/report.md: not brought up to date by this run")
        assert "0.8" not in said


def test_the_servers_address_is_not_printed(experiments, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@host:5000")
    TABLE.parent.mkdir(parents=True)
    TABLE.touch()
    said = reproduction.last_words(graph("report"), "report", TABLE, "report.md")
    assert said.endswith("MLflow: the server of MLFLOW_TRACKING_URI") and "secret" not in said


def test_a_server_that_is_gone_is_named_without_its_password(experiments, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(InputError, match=r"^MLFLOW_TRACKING_URI: nothing answers there") as refusal:
        reproduction.begin(experiments)
    assert "secret" not in str(refusal.value)
