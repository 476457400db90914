"""How a call of Snakemake begins and ends: parent runs, what is kept of configurations, the last words.

An experiment is known by the prefix of its rules: none where it is alone, `alpha_` among several.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ltd import made_with, preflight, tracking
from ltd.errors import InputError
from ltd.stage_jobs import is_up_to_date

Config = dict[str, Any]
Experiments = Mapping[str, Config]


def begin(experiments: Experiments) -> None:
    """Look at all models, open the parent run of every experiment, and keep its configuration.

    Raises InputError for the first that is refused; what was opened before it is marked FAILED.
    """
    for config in experiments.values():
        preflight.check(config)
    opened: list[Path] = []
    try:
        for config in experiments.values():
            tracking.open_parent(folder_of(config), config)
            opened.append(folder_of(config))
    except InputError:
        for folder in opened:
            with suppress(InputError):  # the server that refused one may be gone for all
                tracking.close_parent(folder, "FAILED")
        raise
    for config in experiments.values():
        made_with.begin(folder_of(config), config)


def end(experiments: Experiments, dag: Any, status: str) -> None:
    """Close the parent runs with MLflow's `status`, and keep the configurations of finished reports.

    Of several experiments those with a finished report are FINISHED: what failed is another's.
    """
    for prefix, config in experiments.items():
        is_whole = is_up_to_date(dag, f"{prefix}report")
        if is_whole:
            made_with.finish(folder_of(config))
        try:
            own = "FINISHED" if is_whole and len(experiments) > 1 else status
            tracking.close_parent(folder_of(config), own)
        except InputError as error:
            print(error)


def last_words(dag: Any, rule: str, table: Path, report: str) -> str:
    """What is printed after a run without errors, where there is a table: that, and where to look next.

    Args:
        dag: Snakemake's, of the run.
        rule: the rule that makes `table`.
        table: the file to print.
        report: where the report is.
    """
    if not table.is_file():
        return ""
    if not is_up_to_date(dag, rule):
        return f"{report}: not brought up to date by this run; `snakemake --cores all` does that"
    # The address itself may hold a password.
    tracked = "the server of MLFLOW_TRACKING_URI" if tracking.is_elsewhere(Path("results")) else _LOCAL
    return f"{table.read_text(encoding='utf-8')}\nreport: {report}\nMLflow: {tracked}"


_LOCAL = "make ui, then http://127.0.0.1:5000"


def folder_of(config: Config) -> Path:
    """The folder of an experiment's results."""
    return Path("results", config["experiment"])
