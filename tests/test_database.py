"""A real PostgreSQL holds the runs, also behind a tracking server, and the study of several workers, which a
journal file holds, too.
"""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from threading import Barrier, local
from urllib.error import URLError
from urllib.request import urlopen

import mlflow
import pytest

from ltd import tracking, tune
from ltd.errors import InputError
from ltd.files import read_json
from ltd.tracking import StageRun
from postgres import postgres
from slurm_cluster import free_ports, wait_for
from test_tracking import Options, children
from test_tune import base, options  # noqa: F401 (a fixture)


@pytest.fixture(scope="module")
def database():
    with postgres() as new:
        yield new


@pytest.fixture(params=["journal", "database"])
def kept_in(request, monkeypatch):
    """Where workers find their study."""
    if request.param == "database":
        new = request.getfixturevalue("database")
        monkeypatch.setenv("OPTUNA_STORAGE", new(request.node.originalname))
    return request.param


class Meeting(StageRun):
    """Waits after a worker's first trial until the other has finished one, too."""

    def __init__(self, barrier):
        super().__init__()
        self.barrier, self.here = barrier, local()

    def metrics(self, values, step=None):
        if not hasattr(self.here, "met"):
            self.here.met = self.barrier.wait(timeout=120)


def test_workers_share_a_study(options, kept_in):  # noqa: F811
    parts = [replace(options, worker=worker, output=options.state / f"{worker}.json") for worker in (0, 1)]
    with ThreadPoolExecutor(2) as workers:
        runs = [Meeting(Barrier(2))] * 2
        list(workers.map(tune.tune, [replace(part, trials=4) for part in parts], runs))
    own = [read_json(part.output)["trials"] for part in parts]
    assert all(own) and not set(own[0]) & set(own[1])
    study = tune.open_study(options, base(options))
    done = sorted(trial.number for trial in study.get_trials(states=tune.DONE))
    assert done == sorted([*own[0], *own[1]]) and 4 <= len(done) <= 5
    tune.tune(replace(options, trials=4), StageRun())  # writes the results, adds nothing
    assert read_json(options.output / "best.json")["trials"] == len(done)
    assert (options.state / "journal.log").exists() == (kept_in == "journal")


@pytest.mark.usefixtures("kept_in")
def test_a_worker_leaves_the_trials_of_others_alone(options):  # noqa: F811
    first, second = (replace(options, worker=worker) for worker in (0, 1))
    study = tune.open_study(second, base(options))
    trial = study.ask()
    trial.set_user_attr("worker", 1)
    assert tune.open_study(first, base(options)).trials[trial.number].state.name == "RUNNING"
    assert tune.open_study(second, base(options)).trials[trial.number].state.name == "FAIL"


def tracked_artifact(experiment):
    """Track a stage with one artifact as the pipeline does; the address of the child's artifacts."""
    tracking.open_parent(experiment, {"seed": 1})
    with tracking.stage_run("train_draft", Options(experiment, experiment / "draft")) as run:
        run.metrics({"loss": 0.5}, step=3)
        run.text("text", "note.txt")
    tracking.close_parent(experiment, "FINISHED")
    child = children(experiment).iloc[0]
    assert child["metrics.loss"] == 0.5 and child["status"] == "FINISHED"
    assert mlflow.get_run(child["tags.mlflow.parentRunId"]).info.status == "FINISHED"
    assert mlflow.artifacts.load_text(f"{child['artifact_uri']}/note.txt") == "text"
    assert not (experiment.parent / "mlflow.db").exists()
    return child["artifact_uri"]


def test_runs_are_tracked(tmp_path, database, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database("tracking"))
    experiment = tmp_path / "results/toy"
    assert tracked_artifact(experiment).startswith((tmp_path / "results/mlflow_artifacts/toy").as_uri())


@contextmanager
def tracking_server(backend, artifacts, log):
    """The server that docs/many-machines.md starts; yields its address."""
    port = free_ports(1)[0]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", backend, "--artifacts-destination", str(artifacts)]

    def answers():
        try:
            with urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as reply:
                return reply.status == 200
        except (URLError, OSError):
            assert server.poll() is None, log.read_text()[-2000:]
            return False

    with log.open("w") as stream:
        server = subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)
        try:
            wait_for(answers, log, seconds=120)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(server.pid, signal.SIGTERM)  # its workers, too
            server.wait()


def test_a_server_keeps_runs_in_a_database_and_artifacts_in_a_store(tmp_path, database, monkeypatch):
    store = tmp_path / "store"
    with tracking_server(database("server"), store, tmp_path / "log") as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        assert tracked_artifact(tmp_path / "results/toy").startswith("mlflow-artifacts:")
    assert [path.read_text() for path in store.rglob("note.txt")] == ["text"]
    assert not (tmp_path / "results/mlflow_artifacts").exists()


def test_no_database_is_said_in_one_line(options, tmp_path, monkeypatch):  # noqa: F811
    nowhere = f"postgresql+psycopg2://ltd:secret@/study?host={tmp_path}"
    monkeypatch.setenv("OPTUNA_STORAGE", nowhere)
    with pytest.raises(InputError, match="OPTUNA_STORAGE: no database there") as refusal:
        tune.tune(options, StageRun())
    assert "\n" not in str(refusal.value) and "secret" not in str(refusal.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="MLFLOW_TRACKING_URI: nothing answers there") as refusal:
        tracking.open_parent(tmp_path / "results/toy", {})
    assert "\n" not in str(refusal.value)
