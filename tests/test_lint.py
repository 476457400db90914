"""The code is as `make lint` wants it, and Snakemake warns of nothing in the workflow."""

import subprocess
import sys

import pytest

from pipeline import ROOT, snakemake

RULES = ("Snakefile", "workflow/experiment.smk", "workflow/experiments.smk", "workflow/rules")


@pytest.mark.parametrize(
    "command",
    [("ruff", "check", "."), ("ruff", "format", "--check", "."), ("snakefmt", "--check", *RULES)],
    ids=" ".join,
)
def test_code_is_formatted_and_free_of_warnings(command):
    result = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_snakemake_finds_nothing_to_warn_of(tmp_path):
    result = snakemake(tmp_path, "--lint", config=(ROOT / "config.yaml",))
    assert result.returncode == 0, result.stderr
