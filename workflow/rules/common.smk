# What the rules share: paths, options of a stage from its block of config.yaml, checks, the tracking parent.
import os
import sys
from pathlib import Path

from ltd import configuration, tracking
from ltd.errors import InputError
from ltd.options import command_line

# `python` in a shell command is the one that runs Snakemake, also when its environment is not activated.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

RESULTS = f"results/{config['experiment']}"


wildcard_constraints:
    split=r"train|validation|test",
    temperature=r"[0-9.]+",
    beam=r"\d+",
    chain=r"default|paper|ltd",
    iteration=r"\d+",


def check_configuration():
    """Stop with one line before any work is done when the configuration is wrong."""
    try:
        configuration.check(config, Path(workflow.basedir) / "workflow/schemas/config.schema.yaml")
    except InputError as error:
        sys.exit(f"config: {error}")


def options(block, leave_out=()):
    """Render one block of the configuration as flags, together with the options every stage has."""
    common = {
        "experiment": RESULTS,
        "seed": config["seed"],
        "threads": config["threads"],
        "device": config["device"],
    }
    own = {key: value for key, value in config[block].items() if key not in leave_out}
    return command_line(common | own)


def open_parent_run():
    tracking.open_parent(Path(RESULTS), config)


def close_parent_run(status):
    tracking.close_parent(Path(RESULTS), status)


def print_outcome():
    """Print the summary table, when this run has made it, and where to look next."""
    table = Path(RESULTS) / "report/summary.txt"
    if table.is_file():
        print(table.read_text())
        print(f"report: {RESULTS}/report/report.md")
        print("MLflow: make ui, then http://127.0.0.1:5000")


def existing_folder(path):
    """Return `path` as an input of a rule when it is a local folder; a hub id is no file and is left out."""
    return [path] if Path(path).is_dir() else []
