"""Other prompts for a finished experiment: its models and policies are taken, nothing is trained again."""

from pathlib import Path

import pytest
import yaml

from ltd import configuration
from ltd.errors import InputError
from ltd.files import write_json, write_jsonl
from pipeline import ROOT, planned_rules, snakemake
from test_experiments import merged

SCHEMA = ROOT / "workflow/schemas/config.schema.yaml"
TASKS = ["mt-bench", "gsm8k"]
# What follows from the test prompts; everything else belongs to the finished experiment.
TESTED = {
    "all",
    "prepare_prompts",
    "generate_responses_of_split",
    "record_traces_of_split",
    "benchmark_at_temperature",
    "benchmark",
    "evaluate_ablation",
    "walk_answer",
    "report",
}
COPIED = {"reuse_folder", "reuse_file"}


def finished(folder, beam=4, max_depth=4):
    """The files of a finished toy experiment, empty where only their names count."""
    chains = [f"policies/{chain}" for chain in ("default", "paper", "ltd")]
    parts = ("best", "initial/size", "initial/depth", "iteration-0", "iteration-1")
    for name in ("target", "draft", *(f"{chain}/{part}" for chain in chains for part in parts)):
        (folder / name).mkdir(parents=True)
        (folder / name / "weights").write_text(name)
    for name in ("benchmark/grid.json", "tuning/best.json", "tuning/trials.csv"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    for split in ("train", "validation"):
        (folder / "traces").mkdir(exist_ok=True)
        (folder / f"traces/{split}-t0-w{beam}.safetensors").write_text(split)
    write_json(folder / "latency/profile.json", {"beam": beam, "max_depth": max_depth})
    for task in ("code", "chat"):
        write_jsonl(folder / f"prompts/train/{task}.jsonl", [{"turns": ["Where?"]}])
    return folder


@pytest.fixture
def own(tmp_path):
    """The configuration of an experiment that puts other questions to a finished one, and its file."""
    finished(tmp_path / "results/smoke")
    for task in TASKS:
        rows = [{"turns": [f"{task}: what is {number}?"]} for number in range(6)]
        write_jsonl(tmp_path / f"questions/{task}.jsonl", rows)
    settings = {
        "experiment": "other",
        "reuse": "results/smoke",
        "prompts": {"path": "questions", "tasks": TASKS},
        "benchmark": {"test_tasks": TASKS},
    }
    return settings, tmp_path / "other.yaml"


def written(own):
    settings, file = own
    file.write_text(yaml.safe_dump(settings))
    return file


def test_only_what_follows_from_the_test_prompts_is_planned(own, tmp_path):
    assert planned_rules(tmp_path, config=[written(own)]) == TESTED | COPIED


def test_models_and_policies_are_copied_as_they_are(own, tmp_path):
    names = ["target", "draft", "policies/ltd/best", "latency/profile.json", "benchmark/grid.json"]
    result = snakemake(tmp_path, *(f"results/other/{name}" for name in names), config=[written(own)])
    assert result.returncode == 0, result.stdout + result.stderr
    for name in names:
        source, copy = (tmp_path / "results" / folder / name for folder in ("smoke", "other"))
        found = "weights" if source.is_dir() else "."
        assert (copy / found).read_text() == (source / found).read_text()


def test_a_policy_that_is_not_there_is_trained_from_the_finished_traces(own, tmp_path):
    own[0]["benchmark"]["methods"] = ["autoregressive", "ltd", "ltd:trained-on-code"]
    trained = {"train_initial_policy", "combine_policies", "train_policy_round", "choose_policies"}
    assert planned_rules(tmp_path, config=[written(own)]) == TESTED | COPIED | trained
    own[0]["benchmark"]["methods"][-1] = "ltd:trained-on-gsm8k"
    result = snakemake(tmp_path, "--dry-run", config=[written(own)])
    assert "'gsm8k' has no training prompts; chat, code have" in result.stdout + result.stderr


def test_all_prompts_are_test_prompts(own, tmp_path):
    result = snakemake(tmp_path, "--dry-run", "prepare_prompts", config=[written(own)])
    assert result.returncode == 0, result.stderr
    for flags in ("--tasks mt-bench gsm8k", "--test-only mt-bench gsm8k", "--draft 0", "--corpus 0"):
        assert flags in result.stdout
    assert "results/other/prompts/test/mt-bench.jsonl" in result.stdout
    assert "results/other/prompts/train" not in result.stdout


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({"reuse": "results/nothing"}, "reuse: results/nothing has no draft; run that experiment to its end"),
        ({"experiment": "smoke"}, "reuse: results/smoke is this experiment's own folder"),
        ({"tree": {"beam": 3, "max_depth": 4}}, "tree.beam: 3, but results/smoke was made with 4"),
        ({"prompts": {"path": None}}, "prompts.path: null, but `reuse` is for other prompts"),
        (
            {"benchmark": {"methods": ["autoregressive", "lookup/ltd"]}},
            "benchmark.methods: lookup/ltd needs results/smoke/policies/lookup/best, which other prompts",
        ),
    ],
)
def test_what_does_not_fit_is_named(own, tmp_path, monkeypatch, over, said):
    monkeypatch.chdir(tmp_path)
    blocks = {key: own[0][key] | over.get(key, {}) for key in ("prompts", "benchmark")}
    settings = over | blocks
    own[0].update(settings)
    config = merged(ROOT / "tests/config.yaml", written(own))
    with pytest.raises(InputError) as refusal:
        configuration.check(config, SCHEMA)
    assert str(refusal.value).startswith(said)


def test_every_question_counts_as_a_test_prompt(own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own[0]["prompts"]["test"] = own[0]["benchmark"]["prompts_per_task"] = 6
    configuration.check(merged(ROOT / "tests/config.yaml", written(own)), SCHEMA)


def test_a_head_that_is_taken_needs_nothing_to_learn_from(own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own[0]["draft"], own[0]["prompts"]["draft"] = {"unroll_steps": 1}, 0
    configuration.check(merged(ROOT / "tests/config.yaml", written(own)), SCHEMA)


@pytest.mark.skipif(
    not (ROOT.parent / "shared/data/prompts").is_dir(), reason="the real prompts are not beside this checkout"
)
def test_the_real_prompts_are_ready(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = merged(ROOT / "workflow/experiments/real-prompts.yaml")
    finished(tmp_path / "results/default", **config["tree"])
    config["prompts"]["path"] = str(ROOT.parent / "shared/data/prompts")
    configuration.check(config, SCHEMA)
    assert Path(config["reuse"]) == Path("results/default")
