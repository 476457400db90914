"""What Snakemake reruns: dry runs over empty files that stand for a finished experiment."""

import json
import os
import re
import subprocess
from itertools import product

import numpy as np
import pytest
from safetensors.numpy import save_file

from checked_configuration import saved_model
from ltd.files import write_json
from ltd.stage_jobs import JOBS, with_jobs
from pipeline import ROOT, planned_rules, pretend_finished, snakemake

# Everything at or below a stage, stage by stage from the end of the pipeline to its beginning.
REPORT = {"report", "all"}
BENCHMARK = {"benchmark_at_temperature", "benchmark", "evaluate_ablation", "walk_answer", *REPORT}
GRID = {"grid_search", *BENCHMARK}
TUNE = {*JOBS["train_policies"], "tune", *BENCHMARK}
REPLAY = {"grid_search", "fit_baseline", "fit_opponent", *TUNE}
DRAFT = {"train_draft", "profile_latency", "record_traces_of_split", *REPLAY}
RESPONSES = {"generate_responses_of_split", *DRAFT}
RERUN = {
    "prepare_prompts": {"prepare_prompts_of_split", "train_target", *RESPONSES},
    "train_target": {"train_target", *RESPONSES},
    "generate_responses": RESPONSES,
    "train_draft": DRAFT,
    "profile_latency": {"profile_latency", *REPLAY},
    "record_traces": {"record_traces_of_split", *REPLAY},
    "grid_search": GRID,
    "train_policies": TUNE,
    "tune": TUNE,
    "fit_baselines": {"fit_baseline", *BENCHMARK},
    "fit_opponents": {"fit_opponent", *BENCHMARK},
    "benchmark": BENCHMARK,
    "evaluate_ablations": {"evaluate_ablation", *REPORT},
    "report": REPORT,
}


@pytest.fixture(scope="module")
def asking(tmp_path_factory):
    """Configuration that asks for a baseline and an opponent too."""
    file = tmp_path_factory.mktemp("asking") / "asking.yaml"
    methods = "autoregressive, eagle3, eagle3_grid, svip, supervised, 'ltd:paper', ltd"
    file.write_text(f"benchmark: {{methods: [{methods}]}}\n")
    return file


@pytest.fixture(scope="module")
def finished(tmp_path_factory, asking):
    """A folder in which nothing is left to do."""
    folder = tmp_path_factory.mktemp("finished")
    pretend_finished(folder, config=[asking])
    assert not planned_rules(folder, config=[asking])
    return folder


# Stages with jobs of their own, and one without: of those Snakemake itself knows what to do.
@pytest.mark.parametrize("stage", ["train_draft", *sorted(RERUN.keys() & JOBS)])
def test_forcing_a_stage_reruns_its_jobs_and_what_depends_on_them(finished, asking, stage):
    # Rules that only gather files have nothing to do but appear, being asked for.
    gathering = {name for name in JOBS if name not in ("tune", "benchmark")}
    assert planned_rules(finished, "-R", stage, config=[asking]) - gathering == RERUN[stage]


def test_every_stage_is_a_target(tmp_path, asking):
    assert set().union(*RERUN.values()) - {"all"} <= planned_rules(tmp_path, *RERUN, config=[asking])


def test_stages_of_several_experiments_have_their_names_before_them():
    forced = with_jobs({"alpha_benchmark", "results/alpha/latency/profile.json"}, ["alpha_", "beta_"])
    assert forced == {
        "alpha_benchmark",
        "alpha_benchmark_at_temperature",
        "results/alpha/latency/profile.json",
    }


def test_the_papers_training_takes_the_traces_that_are_there(finished, asking):
    """`make paper-rl` after a reproduction."""
    planned = snakemake(finished, "--dry-run", "train_paper_policies", config=[asking])
    rules = set(re.findall(r"^(?:local)?rule (\w+):", planned.stdout + planned.stderr, re.MULTILINE))
    assert rules == {*JOBS["train_policies"], "train_paper_policies"}, planned.stderr
    commands = re.findall(r"python -m ltd.train_policy .*", planned.stdout + planned.stderr)
    assert len(commands) == 3 and all("policies/paper-full/" in command for command in commands)
    assert all(command.split("--preset ")[-1].startswith("paper ") for command in commands)


@pytest.mark.parametrize(
    ("change", "rerun"),
    [
        ("rl: {learning_rate: 0.0123}", TUNE),  # opponents learn nothing by reinforcement
        ("rl: {depth_network: [16]}", {"fit_opponent", *TUNE}),
        ("opponents: {fit_rounds: 3}", {"fit_opponent", *BENCHMARK}),
        ("grid: {max_size: 12}", GRID),
        # What takes less memory or other threads makes the same; what takes the time of things sees it.
        (
            "{traces: {chunk: 7}, draft: {feature_cache_gib: 1.5}, responses: {batch_size: 5}, "
            "target: {checkpoint_every: 7}}",
            set(),
        ),
        ("threads: 2", {"profile_latency", *REPLAY}),
    ],
)
def test_changed_key_reruns_only_what_depends_on_it(finished, asking, tmp_path, change, rerun):
    (tmp_path / "changed.yaml").write_text(change)
    assert planned_rules(finished, config=[asking, tmp_path / "changed.yaml"]) == rerun


def test_other_test_prompts_make_nothing_to_learn_from_again(finished, asking, tmp_path):
    (tmp_path / "changed.yaml").write_text("prompts: {test: 5}")
    planned = snakemake(finished, "--dry-run", config=[asking, tmp_path / "changed.yaml"])
    rules = re.findall(r"^(?:local)?rule (\w+):", planned.stdout + planned.stderr, re.MULTILINE)
    followed = ("prepare_prompts_of_split", "generate_responses_of_split", "record_traces_of_split")
    assert [rules.count(rule) for rule in followed] == [1, 1, 1]
    assert set(rules) == {*followed, *BENCHMARK}
    assert "ltd.prepare_prompts --split test " in planned.stdout + planned.stderr


def test_a_published_head_is_not_imported_again_for_other_threads(tmp_path):
    head, changed = tmp_path / "head.yaml", tmp_path / "changed.yaml"
    head.write_text(f"draft: {{path: {saved_model(tmp_path / 'head')}}}\n")
    pretend_finished(tmp_path, config=[head])
    changed.write_text("threads: 2")
    not_asked_for = {"fit_baseline", "fit_opponent"}
    planned = planned_rules(tmp_path, config=[head, changed])
    assert planned == {"profile_latency", *REPLAY} - not_asked_for


def test_what_a_preset_fixes_trains_the_papers_policies_not_again(finished, asking, tmp_path):
    (tmp_path / "changed.yaml").write_text("rl: {learning_rate: 0.0123}")
    planned = snakemake(finished, "--dry-run", config=[asking, tmp_path / "changed.yaml"])
    outputs = r"train_policy --policy .* --output \S+/policies/(\w+)/"
    assert set(re.findall(outputs, planned.stdout + planned.stderr)) == {"default", "ltd"}


def test_another_round_goes_on_from_those_that_are_there(finished, asking, tmp_path):
    (tmp_path / "changed.yaml").write_text("rl: {rounds: 2}")
    planned = snakemake(finished, "--dry-run", config=[asking, tmp_path / "changed.yaml"])
    outputs = re.findall(
        r"train_policy --policy .* --output \S+/policies/(\S+)", planned.stdout + planned.stderr
    )
    # Those of `ltd` wait for a study, which begins with the best of `default`.
    assert {name for name in outputs if not name.startswith("ltd/")} == {
        "default/iteration-2",
        "paper/iteration-2",
    }


def test_make_prints_the_outcome_once_where_nothing_is_left_to_do(finished, asking):
    (finished / "results/smoke/report/summary.txt").write_text("the main table\n")
    assert snakemake(finished, "--touch", config=[asking]).returncode == 0
    # Under `make test` this make is one of another's, and would say so on lines of its own.
    plan = ["make", "--no-print-directory", "--dry-run", "reproduce"]
    planned = subprocess.run(plan, cwd=ROOT, capture_output=True, text=True)
    arguments = planned.stdout.splitlines()[-1].split()[1:]
    result = snakemake(finished, *arguments, config=[asking])
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("the main table") == 1
    assert result.stdout.count("report: results/smoke/report/report.md") == 1
    assert "1 of 1 steps (100%) done" in result.stderr


def test_without_the_policies_nothing_of_theirs_is_drawn(tmp_path):
    (tmp_path / "static.yaml").write_text("benchmark: {methods: [autoregressive, eagle3, eagle3_grid]}\n")
    listed = [snakemake(tmp_path, "--summary", config=files).stdout for files in ([], ["static.yaml"])]
    for figure in ("tradeoff", "choices"):
        assert [f"report/{figure}.svg" in outputs for outputs in listed] == [True, False]
    assert "report/speedups.svg" in listed[1]


@pytest.mark.parametrize("trained", [True, False])
def test_a_head_that_was_published_has_no_training_to_draw_where_it_is_reused(tmp_path, trained):
    pretend_finished(tmp_path)
    finished = tmp_path / "results/smoke"
    write_json(finished / "latency/profile.json", {"beam": 4, "max_depth": 4})
    write_json(finished / "benchmark/grid.json", {"grids": [{"temperature": 0.0}]})
    save_file({"entropy": np.zeros(1)}, finished / "traces/train-t0-w4.safetensors")
    for split, task in product(("train", "test"), ("chat", "maths")):
        (finished / f"prompts/{split}/{task}.jsonl").write_text("{}\n" * 2)
    write_json(finished / "target/training.json", {})
    if trained:
        write_json(finished / "draft/training.json", {})
    (tmp_path / "again.yaml").write_text("experiment: again\nreuse: results/smoke\n")
    listed = snakemake(tmp_path, "--summary", config=["again.yaml"])
    assert listed.returncode == 0, listed.stderr
    assert "again/report/target_loss.svg" in listed.stdout
    assert ("again/report/acceptance.svg" in listed.stdout) is trained


def test_prompts_of_ones_own_are_inputs(tmp_path):
    questions = tmp_path / "own" / "riddles.jsonl"
    questions.parent.mkdir()
    rows = ({"turns": [f"riddle {number}"], "reference": ["so"]} for number in range(40))
    questions.write_text("\n".join(map(json.dumps, rows)))
    file = tmp_path / "own.yaml"
    file.write_text(
        f"prompts: {{path: {questions.parent}, tasks: [riddles]}}\n"
        "rl: {train_tasks: [], paper_tasks: []}\nbenchmark: {test_tasks: [riddles], prompts_per_task: 2}\n"
    )
    pretend_finished(tmp_path, config=[file])
    assert not planned_rules(tmp_path, config=[file])
    questions.write_text(questions.read_text().replace("riddle 7", "another one"))
    later = questions.stat().st_mtime + 3600
    os.utime(questions, (later, later))
    followed = {"prepare_prompts_of_split", "generate_responses_of_split"}
    assert followed <= planned_rules(tmp_path, config=[file])


def test_built_in_texts_are_for_a_target_that_is_trained_here(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text(f"target: {{path: {saved_model(tmp_path / 'target')}}}\n")
    planned = snakemake(tmp_path, "--dry-run", "prepare_prompts", config=[file])
    commands = re.findall(r"python -m ltd.prepare_prompts .*", planned.stdout + planned.stderr)
    assert commands and all("--corpus 0" in command for command in commands), planned.stderr
    assert not any("--split corpus" in command for command in commands)
