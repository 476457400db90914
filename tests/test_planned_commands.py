"""The commands that Snakemake plans: with which options."""

import re
from collections import Counter

import pytest

from pipeline import snakemake

# What computes with target or head: these take the threads of the configuration, all others one.
THREADED = {
    "prepare_prompts",
    "train_target",
    "generate_responses",
    "train_draft",
    "profile_latency",
    "record_traces",
    "benchmark",
}


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """Stage and options of every command of a whole run."""
    folder = tmp_path_factory.mktemp("planned")
    file = folder / "three.yaml"
    file.write_text("threads: 3\nablations: {run: [seeds]}\n")
    result = snakemake(folder, "--dry-run", "--printshellcmds", config=[file])
    assert result.returncode == 0, result.stderr
    return re.findall(r"python -m ltd\.(\w+) (.*)", result.stdout + result.stderr)


def test_replay_takes_one_thread(commands):
    threaded = {stage for stage, options in commands if "--threads 3" in options}
    single = {stage for stage, options in commands if "--threads 1" in options}
    assert threaded == THREADED
    assert {"grid_search", "train_policy", "tune", "evaluate_ablation", "report"} <= single
    assert not threaded & single


def test_no_option_is_given_twice(commands):
    for stage, options in commands:
        counts = Counter(re.findall(r"--[a-z-]+", options))
        assert max(counts.values()) == 1, (stage, options)


def test_a_variant_of_the_seed_is_combined_with_its_own(commands):
    combined = {options for stage, options in commands if stage == "combine_policies"}
    assert any("ltd-seed-2/" in options and "--seed 2 " in options for options in combined)
