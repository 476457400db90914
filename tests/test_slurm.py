"""The profile for clusters: it names rules that there are, and on a real SLURM a job runs through it."""

import re
import subprocess
import sys

import pytest
import yaml

from pipeline import ROOT
from slurm_cluster import NotInstalled, cluster, find_programs

PROFILE = ROOT / "profiles/slurm"


def test_profile_limits_rules_that_there_are():
    text = "".join(file.read_text() for file in (ROOT / "workflow/rules").glob("*.smk"))
    rules = set(re.findall(r"^\s*rule (\w+):", text, re.MULTILINE))
    profile = yaml.safe_load((PROFILE / "config.yaml").read_text())
    limited = set(profile["set-resources"]) | set(profile["set-threads"])
    assert limited <= rules, f"unknown: {limited - rules}"
    # What holds the target asks for a GPU in its rule; time and memory are the cluster's.
    gpu = {name for name, body in split_rules(text) if "gpu=" in body}
    own = {rule for rule, limits in profile["set-resources"].items() if {"mem_mb", "runtime"} <= set(limits)}
    assert gpu and gpu <= own, f"without limits: {gpu - own}"


def split_rules(text):
    """Name and body of every rule."""
    parts = re.split(r"^\s*rule (\w+):", text, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def test_a_job_runs_on_slurm(tmp_path):
    try:
        find_programs()
    except NotInstalled as error:
        pytest.skip(str(error))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    command += ["--workflow-profile", str(PROFILE), "--slurm-status-command", "squeue"]
    command += ["--seconds-between-status-checks", "5", "results/smoke/prompts/test"]
    command += ["--configfile", str(ROOT / "tests/config.yaml")]
    with cluster() as found:
        slurm = {key: value for key, value in found.items() if not key.startswith("MLFLOW")}
        result = subprocess.run(command, cwd=tmp_path, env=slurm, capture_output=True, text=True, timeout=600)
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
        jobs = subprocess.run(
            ["squeue", "--states=all", "--noheader", "--format=%T %C %m %l %k"],
            env=slurm,
            capture_output=True,
            text=True,
        )
    # One core and the profile's memory and time: not those of profiles/default.
    *limits, comment = jobs.stdout.split()
    assert limits == ["COMPLETED", "1", "16000M", "2:00:00"]
    assert comment.startswith("rule_prepare_prompts_of_split")
    assert (tmp_path / "results/smoke/prompts/test/chat.jsonl").is_file()
