"""Running the pipeline at toy size through Snakemake, as a user runs it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATIENCE = 3600  # seconds: ten times what the longest run takes on two cores


def command(*arguments, config=()):
    """Snakemake's command line with the toy configuration and files over it."""
    fixed = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "all"]
    # Last, because --configfile takes everything that follows it for a file.
    return [*fixed, *arguments, "--configfile", str(ROOT / "tests/config.yaml"), *map(str, config)]


def environment():
    """Environment in which the stores of MLflow and Optuna are the pipeline's own."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW", "OPTUNA"))}


def snakemake(folder, *arguments, config=()):
    """Run the pipeline in `folder`; return the finished process."""
    return subprocess.run(
        command(*arguments, config=config),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=PATIENCE,
    )


def planned_rules(folder, *arguments, config=()):
    """Names of the rules that a dry run would execute."""
    result = snakemake(folder, "--dry-run", *arguments, config=config)
    assert result.returncode == 0, result.stdout + result.stderr
    lines = (result.stdout + result.stderr).splitlines()
    return {line.split()[1].rstrip(":") for line in lines if line.startswith(("rule ", "localrule "))}


def pretend_finished(folder, config=()):
    """Put empty files and folders in the place of all results, up to date as far as Snakemake sees."""
    listed = snakemake(folder, "--summary", config=config)
    assert listed.returncode == 0, listed.stderr
    for line in listed.stdout.splitlines()[1:]:
        path = folder / line.split("\t")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix:
            path.touch()
        else:
            path.mkdir(exist_ok=True)
    # All of them: a job that is not touched has no record of the keys that it was made with.
    touched = snakemake(folder, "--touch", "--forceall", config=config)
    assert touched.returncode == 0, touched.stderr


def killed(folder, reached: Callable[[], bool], *arguments, config=()):
    """Run the pipeline in `folder` and kill all of its processes as soon as `reached` says so."""
    run = subprocess.Popen(
        command(*arguments, config=config),
        cwd=folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    end = time.monotonic() + PATIENCE
    while not reached() and time.monotonic() < end:
        assert run.poll() is None, "finished before it could be killed"
        time.sleep(0.01)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert time.monotonic() < end, "did not get there"
