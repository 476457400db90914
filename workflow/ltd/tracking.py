"""MLflow: one parent run per reproduction, one child run per stage.

The parent's id lives in `results/<experiment>/mlflow_parent.json`, because stages are processes of their own,
perhaps on other machines. Machines that share a server but no files have experiments of the same name there;
which folder a run belongs to says its tag `folder`, the id in `results/<experiment>/mlflow_folder.json`.
Without MLflow installed (a bare GPU machine) every call is a no-op.
"""

import dataclasses
import hashlib
import json
import os
import re
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ltd.errors import InputError
from ltd.files import alone, read_json, write_json

# Set before mlflow is imported: it neither reports usage nor mistakes an undeclared id for ours.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "5")

try:
    import mlflow
    from mlflow.tracking import MlflowClient
except ImportError:
    mlflow = None

PARENT_FILE = "mlflow_parent.json"
FOLDER_FILE = "mlflow_folder.json"
LARGEST_BATCH = 1000  # metrics in a call
MOST_RUNS = 10_000  # of an experiment, looked through for the newest of every stage


@dataclasses.dataclass(frozen=True)
class FinishedStage:
    """A run in MLflow that ended well: its stage, its name (stage and output), run id, commit and day."""

    stage: str
    name: str
    run_id: str
    commit: str
    day: str


class StageRun:
    """What a stage logs to; every method is a no-op when tracking is off."""

    def __init__(self, active: bool = False) -> None:
        self.active = active

    def metrics(self, values: dict[str, float], step: int | None = None) -> None:
        """Log numbers, all of a step together."""
        if self.active:
            _log_metrics(values, step=step)

    def params(self, values: dict[str, Any]) -> None:
        """Log settings as text."""
        if self.active:
            mlflow.log_params({key: str(value)[:500] for key, value in values.items()})

    def artifact(self, path: str | Path) -> None:
        """Attach a file or a folder."""
        if self.active:
            log = mlflow.log_artifacts if Path(path).is_dir() else mlflow.log_artifact
            log(str(path), *([Path(path).name] if Path(path).is_dir() else []))

    def figure(self, figure: Any, name: str) -> None:
        """Attach a matplotlib figure under `name`."""
        if self.active:
            mlflow.log_figure(figure, name)

    def text(self, text: str, name: str) -> None:
        """Attach a text file under `name`."""
        if self.active:
            mlflow.log_text(text, name)

    def json(self, values: dict[str, Any], name: str) -> None:
        """Attach a JSON file under `name`."""
        if self.active:
            mlflow.log_dict(values, name)

    def outcome(self, values: dict[str, float], folder: Path) -> None:
        """Log numbers here and on the parent run, where reproductions are compared; attach a folder there."""
        self.metrics(values)
        parent = self.active and mlflow.active_run().data.tags.get("mlflow.parentRunId")
        if parent:
            _log_metrics(values, run_id=parent)
            MlflowClient().log_artifacts(parent, str(folder), folder.name)

    def finished_stages(self) -> list[FinishedStage]:
        """The newest finished run of every output of this experiment's folder, in order of their ends; none
        when tracking is off.
        """
        if not self.active:
            return []
        own = mlflow.active_run()
        ours = f"attributes.status = 'FINISHED' and tags.folder = '{own.data.tags['folder']}'"
        order = ["attributes.end_time DESC"]
        runs = MlflowClient().search_runs(
            [own.info.experiment_id], ours, max_results=MOST_RUNS, order_by=order
        )
        newest = {run.data.tags["stage_name"]: run for run in reversed(runs) if "stage_name" in run.data.tags}
        ordered = sorted(newest.items(), key=lambda item: item[1].info.end_time)
        return [_finished(name, run) for name, run in ordered]


def _finished(name: str, run: Any) -> FinishedStage:
    day = datetime.fromtimestamp(run.info.end_time / 1000, UTC).date().isoformat()
    tags = run.data.tags
    return FinishedStage(tags["stage"], name, run.info.run_id, tags["git_commit"], day)


def _log_metrics(values: dict[str, float], **where: Any) -> None:
    """Log numbers in as many calls as MLflow needs: it takes so many at once."""
    pairs = [(key, float(value)) for key, value in values.items()]
    for start in range(0, len(pairs), LARGEST_BATCH):
        mlflow.log_metrics(dict(pairs[start : start + LARGEST_BATCH]), **where)


def tracking_uri(results: Path) -> str:
    """Return MLFLOW_TRACKING_URI when set, otherwise the SQLite file under `results`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or _local_uri(results)


def is_elsewhere(results: Path) -> bool:
    """Whether runs go to another place than the SQLite file under `results`."""
    # MLflow itself sets the variable, to that file too, once it is connected.
    return tracking_uri(results.resolve()) != _local_uri(results.resolve())


def _local_uri(results: Path) -> str:
    return f"sqlite:///{results / 'mlflow.db'}"


def _connect(experiment: Path) -> tuple[str, str]:
    """Select the store and the MLflow experiment of `results/<experiment>`; return the id of the experiment
    in MLflow and that of the folder.
    """
    results = experiment.resolve().parent
    results.mkdir(parents=True, exist_ok=True)
    mlflow.set_tracking_uri(tracking_uri(results))
    # Two processes that create the database, the experiment or the folder's id at once would collide.
    with alone(results / ".mlflow.lock"):
        return _experiment_id(experiment.name, results), _folder_id(experiment)


def _folder_id(experiment: Path) -> str:
    """What tells the runs of `results/<experiment>` from those of other folders of that name; made once."""
    path = experiment / FOLDER_FILE
    if not path.is_file():
        experiment.mkdir(parents=True, exist_ok=True)
        write_json(path, {"folder": uuid.uuid4().hex})
    return read_json(path)["folder"]


def _experiment_id(name: str, results: Path) -> str:
    try:
        with _few_retries():
            known = mlflow.get_experiment_by_name(name)
    except Exception as error:  # of MLflow, of the network, of the database's driver
        # MLflow repeats the address, which may hold a password.
        line = re.sub(r"//[^/\s]*@", "//", str(error).strip().splitlines()[0])[:200]
        raise InputError(
            f"MLFLOW_TRACKING_URI: nothing answers there ({line}); start it, correct it, or unset it for "
            f"{results / 'mlflow.db'}"
        ) from error
    if known is not None and known.lifecycle_stage == "deleted":
        raise InputError(
            f"experiment: {name} was deleted in MLflow; bring it back with `mlflow experiments "
            f"restore --experiment-id {known.experiment_id}`, or take another name"
        )
    if known is not None:
        return known.experiment_id
    # A server decides itself where artifacts go; for a database the folder is named, because MLflow would
    # otherwise record the working directory of whoever came first.
    server = tracking_uri(results).startswith("http")
    location = None if server else (results / "mlflow_artifacts" / name).as_uri()
    return mlflow.create_experiment(name, artifact_location=location)


@contextmanager
def _few_retries() -> Iterator[None]:
    """The first contact: MLflow's own patience of minutes is for servers that are known to be there."""
    name = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
    chosen = name in os.environ
    if not chosen:
        os.environ[name] = "2"
    try:
        yield
    finally:
        if not chosen:
            del os.environ[name]


def config_hash(config: dict[str, Any]) -> str:
    """Return 12 hexadecimal digits that identify a configuration, seed included."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:12]


def git_commit() -> str:
    """Return the short commit of the code that runs, with `+` when the tree has changes, or `unknown`."""
    folder = Path(__file__).parent
    try:
        commit = _git(folder, "rev-parse", "--short", "HEAD")
        return commit + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(folder: Path, *arguments: str) -> str:
    result = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return result.stdout.strip()


def open_parent(experiment: Path, config: dict[str, Any]) -> None:
    """Open the parent run of a reproduction, or re-open it when the configuration is the same as last time.

    What a killed reproduction of another configuration left RUNNING is marked KILLED.
    """
    if mlflow is None:
        return
    experiment_id, folder = _connect(experiment)
    client, path, digest = MlflowClient(), experiment / PARENT_FILE, config_hash(config)
    if path.is_file():
        parent = read_json(path)
        known = _exists(client, parent["run_id"])
        if known and parent["config_hash"] == digest:
            client.update_run(parent["run_id"], status="RUNNING")
            return
        if known:
            _close_killed_parent(client, experiment_id, parent["run_id"])
    tags = {
        "stage": "reproduction",
        "experiment": experiment.name,
        "folder": folder,
        "config_hash": digest,
        "git_commit": git_commit(),
    }
    run = client.create_run(
        experiment_id, tags=tags, run_name=f"{experiment.name}-seed{config.get('seed', 0)}-{digest}"
    )
    client.log_dict(run.info.run_id, config, "config.json")
    write_json(path, {"run_id": run.info.run_id, "config_hash": digest})


def close_parent(experiment: Path, status: str) -> None:
    """Mark the parent run FINISHED or FAILED, where nobody has deleted it; raises InputError when the server
    is gone.
    """
    path = experiment / PARENT_FILE
    if mlflow is not None and path.is_file():
        _connect(experiment)
        client, run_id = MlflowClient(), read_json(path)["run_id"]
        if _exists(client, run_id):
            client.set_terminated(run_id, status)


def _exists(client: "MlflowClient", run_id: str) -> bool:
    try:
        return client.get_run(run_id).info.lifecycle_stage == "active"
    except mlflow.exceptions.MlflowException:
        return False


def _close_killed_parent(client: "MlflowClient", experiment_id: str, run_id: str) -> None:
    """Mark a reproduction that a killed process left RUNNING, and its stages that it left so."""
    children = client.search_runs([experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")
    for run in (client.get_run(run_id), *children):
        if run.info.status == "RUNNING":
            client.set_terminated(run.info.run_id, "KILLED")


def _close_killed(experiment_id: str, folder: str, name: str) -> None:
    """Mark runs of this name that a killed process left RUNNING: they would run for ever in the UI."""
    client = MlflowClient()
    ours = f"attributes.status = 'RUNNING' and tags.stage_name = '{name}' and tags.folder = '{folder}'"
    for run in client.search_runs([experiment_id], ours):
        client.set_terminated(run.info.run_id, "KILLED")


@contextmanager
def stage_run(stage: str, options: Any) -> Iterator[StageRun]:
    """Open the child run of a stage; `options` are logged as its parameters.

    A stage that runs several times within a reproduction (one policy after another) is told apart by its
    `output` option, which becomes part of the run's name.
    """
    # Of several processes of one training the first speaks for all.
    if mlflow is None or int(os.environ.get("RANK", "0")) > 0:
        yield StageRun(active=False)
        return
    experiment = Path(options.experiment)
    experiment_id, folder = _connect(experiment)
    parent_path = experiment / PARENT_FILE
    parent = read_json(parent_path) if parent_path.is_file() else {}
    if parent and not _exists(MlflowClient(), parent["run_id"]):
        parent = {}
    name = _run_name(stage, options, experiment)
    _close_killed(experiment_id, folder, name)
    values = {key: str(value) for key, value in dataclasses.asdict(options).items()}
    tags = {
        "stage": stage,
        "stage_name": name,
        "experiment": experiment.name,
        "folder": folder,
        "git_commit": git_commit(),
        "config_hash": parent.get("config_hash", config_hash(values)),
    }
    with mlflow.start_run(
        experiment_id=experiment_id,
        run_name=name,
        parent_run_id=parent.get("run_id"),
        tags=tags,
        log_system_metrics=True,
    ):
        mlflow.log_params({key: value[:500] for key, value in values.items()} | _versions())
        yield StageRun(active=True)


def _run_name(stage: str, options: Any, experiment: Path) -> str:
    output = getattr(options, "output", None)
    if output is None:
        return stage
    path = Path(output)
    # What ends in a number is a folder, benchmark/t0.5 say.
    parts = (path if path.suffix[1:].isdigit() else path.with_suffix("")).parts
    tail = parts[parts.index(experiment.name) + 1 :] if experiment.name in parts else parts[-1:]
    return f"{stage} {'/'.join(tail)}"


def _versions() -> dict[str, str]:
    """Return what a measurement depends on: library versions, processor or GPU."""
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from ltd.devices import device_name, resolve_device

    versions = {"machine": device_name(torch.device("cpu")), "cores": str(len(os.sched_getaffinity(0)))}
    if torch.cuda.is_available():
        versions["gpu"] = device_name(resolve_device("cuda"))
    for package in ("torch", "transformers", "stable-baselines3", "optuna", "snakemake"):
        try:
            versions[f"version.{package}"] = version(package)
        except PackageNotFoundError:
            versions[f"version.{package}"] = "absent"
    return versions
