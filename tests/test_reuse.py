"""A finished experiment asked again, with other prompts or methods: what it has made is not made again."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from finished_experiment import TAUGHT, finished, finished_default
from ltd import configuration, made_with
from ltd.errors import InputError
from ltd.files import write_jsonl
from pipeline import ROOT, planned_rules, snakemake
from test_experiments import merged

SCHEMA = ROOT / "workflow/schemas/config.schema.yaml"
TASKS = ["mt-bench", "gsm8k"]
# What follows from the test prompts; everything else belongs to the finished experiment.
TESTED = {
    "all",
    "prepare_prompts_of_split",
    "generate_responses_of_split",
    "record_traces_of_split",
    "benchmark_at_temperature",
    "benchmark",
    "evaluate_ablation",
    "walk_answer",
    "report",
}
COPIED = {"reuse_folder", "reuse_file"}
# What is fitted where it is not taken.
CHAIN = {"train_initial_policy", "combine_policies", "train_policy_round", "choose_policies"}
FITS = {"fit_baseline", "fit_opponent"}
# What finds out about the text rather than making it.
MEASURED = TESTED - {"prepare_prompts_of_split", "generate_responses_of_split", "record_traces_of_split"}


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


@pytest.fixture
def again(tmp_path):
    """The configuration of an experiment that asks a finished one its own questions again, and its file."""
    finished(tmp_path / "results/smoke")
    settings = {
        "experiment": "again",
        "reuse": "results/smoke",
        "prompts": {"tasks": TAUGHT},
        "rl": {"train_tasks": TAUGHT},
        "benchmark": {"test_tasks": TAUGHT, "prompts_per_task": 2},
    }
    return settings, tmp_path / "again.yaml"


def written(own):
    settings, file = own
    file.write_text(yaml.safe_dump(settings))
    return file


def test_other_prompts_train_no_policies_for_another_temperature(own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own[0]["traces"] = {"temperature": 0.7}
    with pytest.raises(
        InputError, match=r"^traces\.temperature: 0\.7, but the policies of \S+ learned at 0, "
    ):
        configuration.check(merged(ROOT / "tests/config.yaml", written(own)), SCHEMA)


@pytest.mark.parametrize(("key", "other"), [("features", "entropy"), ("entropy", "features")])
def test_traces_hold_what_is_asked_of_them(again, tmp_path, monkeypatch, key, other):
    monkeypatch.chdir(tmp_path)
    again[0]["traces"] = {key: True}
    save_file({other: np.zeros(1)}, tmp_path / "results/smoke/traces/train-t0-w4.safetensors")
    with pytest.raises(InputError, match=rf"^traces\.{key}: true, but \S+ was recorded without;"):
        configuration.check(merged(ROOT / "tests/config.yaml", written(again)), SCHEMA)


def test_only_what_follows_from_the_test_prompts_is_planned(own, tmp_path):
    assert planned_rules(tmp_path, config=[written(own)]) == TESTED | COPIED
    assert not (tmp_path / "results/other").exists()


def test_a_run_keeps_what_it_was_made_with(own, tmp_path):
    result = snakemake(tmp_path, "results/other/latency/profile.json", config=[written(own)])
    assert result.returncode == 0, result.stdout + result.stderr
    whole = merged(ROOT / "tests/config.yaml", written(own))
    assert made_with.kept(tmp_path / "results/other") == whole


def test_models_and_policies_are_copied_as_they_are(own, tmp_path):
    names = ["target", "draft", "policies/ltd/best", "latency/profile.json", "benchmark/grid.json"]
    result = snakemake(tmp_path, *(f"results/other/{name}" for name in names), config=[written(own)])
    assert result.returncode == 0, result.stdout + result.stderr
    for name in names:
        source, copied = (tmp_path / "results" / folder / name for folder in ("smoke", "other"))
        found = "weights" if source.is_dir() else "."
        assert (copied / found).read_text() == (source / found).read_text()


def test_a_policy_that_is_not_there_is_trained_from_the_finished_traces(own, tmp_path):
    own[0]["benchmark"]["methods"] = ["autoregressive", "ltd", "ltd:trained-on-code"]
    assert planned_rules(tmp_path, config=[written(own)]) == TESTED | COPIED | CHAIN
    own[0]["benchmark"]["methods"][-1] = "ltd:trained-on-gsm8k"
    result = snakemake(tmp_path, "--dry-run", config=[written(own)])
    assert "'gsm8k' has no training prompts; chat, code have" in result.stdout + result.stderr


def test_all_prompts_are_test_prompts(own, tmp_path):
    result = snakemake(tmp_path, "--dry-run", "prepare_prompts", config=[written(own)])
    assert result.returncode == 0, result.stderr
    for flags in ("--tasks mt-bench gsm8k", "--test-only mt-bench gsm8k", "--draft 0", "--corpus 0"):
        assert flags in result.stdout
    assert "--split test --output results/other/prompts/test " in result.stdout
    assert "results/other/prompts/train" not in result.stdout


def test_without_other_prompts_their_answers_and_trees_are_taken_too(again, tmp_path):
    taken = COPIED | {"reuse_responses"}
    again[0]["benchmark"]["temperatures"] = [0]
    assert planned_rules(tmp_path, config=[written(again)]) == MEASURED | taken
    again[0]["benchmark"]["temperatures"] = [0, 1]
    sampled = {"generate_responses_of_split", "record_traces_of_split"}
    assert planned_rules(tmp_path, config=[written(again)]) == MEASURED | taken | sampled


def test_for_another_temperature_all_but_the_models_is_learned_anew(again, tmp_path):
    again[0].update({"traces": {"temperature": 1}, "rl": {"train_tasks": []}})
    methods = ["autoregressive", "eagle3_grid", "ddd", "supervised", "ltd"]
    again[0]["benchmark"] |= {"temperatures": [0, 1], "methods": methods}
    planned = planned_rules(tmp_path, config=[written(again)])
    fitted = {"grid_search", "tune", "choose_policies", "fit_baseline", "fit_opponent"}
    assert fitted | {"generate_responses_of_split", "record_traces_of_split"} <= planned
    assert not {"prepare_prompts_of_split", "train_target", "train_draft", "profile_latency"} & planned
    result = snakemake(tmp_path, "--dry-run", config=[written(again)])
    taken = {line.split()[-1] for line in result.stdout.splitlines() if "input: results/smoke/" in line}
    folders = {name.removeprefix("results/smoke/") for name in taken if not Path(name).suffix}
    prompts = {f"prompts/{split}" for split in ("train", "validation", "test")}
    assert folders == {"target", "draft", *prompts}
    assert not [name for name in taken if "t1" in name or "grid" in name or "tuning" in name]


@pytest.mark.parametrize(
    ("block", "settings", "anew"),
    [
        ("rl", {"reward": "throughput"}, CHAIN | {"tune"}),
        ("tune", {"trials": 3}, CHAIN | {"tune"}),
        ("grid", {"max_size": 8}, {"grid_search"}),
        ("baselines", {"thresholds": 5}, {"fit_baseline"}),
        ("opponents", {"fit_steps": 21}, {"fit_opponent"}),
        ("latency", {"repetitions": 3}, CHAIN | {"profile_latency", "grid_search", "tune", *FITS}),
    ],
)
def test_one_changed_key_makes_anew_what_depends_on_it(again, tmp_path, block, settings, anew):
    """From the traces that are taken, and nothing else; one line says so before anything is done."""
    for part in ("baselines/ddd", "opponents/supervised"):
        (tmp_path / "results/smoke" / part).mkdir(parents=True)
    kept = merged(ROOT / "tests/config.yaml", written(again)) | {"experiment": "smoke", "reuse": None}
    made_with.begin(tmp_path / "results/smoke", kept)
    made_with.finish(tmp_path / "results/smoke")
    again[0][block] = again[0].get(block, {}) | settings
    again[0]["benchmark"]["methods"] = ["autoregressive", "eagle3_grid", "ddd", "supervised", "ltd"]
    planned = planned_rules(tmp_path, config=[written(again)])
    assert planned == MEASURED | COPIED | {"reuse_responses"} | anew
    key = f"{block}.{next(iter(settings))}"
    result = snakemake(tmp_path, "--dry-run", config=[written(again)])
    said = [line for line in result.stderr.splitlines() if line.startswith("reuse: ")]
    assert len(said) == 1 and f"results/smoke was made with other {key}: made anew" in said[0]
    # Of the chain `paper`, which a preset fixes, nothing changes with the reward.
    assert ("--output results/again/policies/paper/" in result.stdout) == (block == "latency")


def test_a_second_drafter_is_not_made_anew_beside_other_prompts(own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for part in ("lookup", "policies/lookup/best"):
        (tmp_path / "results/smoke" / part).mkdir(parents=True)
    own[0]["rl"] = {"train_tasks": TAUGHT}
    kept = merged(ROOT / "tests/config.yaml", written(own)) | {"prompts": {}}
    made_with.begin(tmp_path / "results/smoke", kept)
    own[0]["rl"] = {"reward": "throughput", "train_tasks": TAUGHT}
    own[0]["benchmark"]["methods"] = ["autoregressive", "eagle3_grid", "lookup/ltd"]
    with pytest.raises(InputError, match=r"^rl\.reward: not what results/smoke was made with, so "):
        configuration.check(merged(ROOT / "tests/config.yaml", written(own)), SCHEMA)
    own[0]["benchmark"]["methods"][-1] = "lookup/grid"
    configuration.check(merged(ROOT / "tests/config.yaml", written(own)), SCHEMA)


def test_a_second_drafter_learns_from_the_answers_that_are_taken(again, tmp_path):
    again[0]["benchmark"]["methods"] = ["autoregressive", "eagle3_grid", "lookup/ltd"]
    planned = planned_rules(tmp_path, config=[written(again)])
    assert {"fit_lookup", "record_lookup", "train_initial_policy"} <= planned
    assert not {"prepare_prompts_of_split", "train_target", "train_draft", "tune"} & planned


def test_answers_are_copied_with_their_index(again, tmp_path):
    names = ["prompts/test", "responses/test-t0.safetensors", "traces/test-t0-w4.safetensors"]
    result = snakemake(tmp_path, *(f"results/again/{name}" for name in names), config=[written(again)])
    assert result.returncode == 0, result.stdout + result.stderr
    for name in (*names[1:], "prompts/test/chat.jsonl", "responses/test-t0.json"):
        source, copied = (tmp_path / "results" / folder / name for folder in ("smoke", "again"))
        assert copied.read_bytes() == source.read_bytes()


@pytest.mark.parametrize(
    ("benchmark", "said"),
    [
        ({"test_tasks": ["chat", "qa"]}, "benchmark.test_tasks: 'qa', but there is no results/smoke"),
        ({"prompts_per_task": 3}, "benchmark.prompts_per_task: 3 asked for, but results/smoke/prompts/"),
    ],
)
def test_its_own_prompts_must_suffice(again, tmp_path, monkeypatch, benchmark, said):
    monkeypatch.chdir(tmp_path)
    again[0]["prompts"]["tasks"] = [*TAUGHT, "qa"]
    again[0]["benchmark"] |= benchmark
    with pytest.raises(InputError) as refusal:
        configuration.check(merged(ROOT / "tests/config.yaml", written(again)), SCHEMA)
    assert str(refusal.value).startswith(said)


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({"reuse": "results/nothing"}, "reuse: results/nothing has no draft; run that experiment to its end"),
        ({"experiment": "smoke"}, "reuse: results/smoke is this experiment's own folder"),
        ({"tree": {"beam": 3, "max_depth": 4}}, "tree.beam: 3, but results/smoke was made with 4"),
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


@pytest.mark.parametrize("split", ["draft", "train", "validation", "test"])
def test_what_was_learned_from_is_not_asked(own, tmp_path, monkeypatch, split):
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / f"results/smoke/prompts/{split}/code.jsonl", [{"turns": ["GSM8K:  what is 3?"]}])
    own[0]["prompts"]["test"] = 6
    config = merged(ROOT / "tests/config.yaml", written(own))
    if split == "test":
        configuration.check(config, SCHEMA)
        return
    with pytest.raises(InputError) as refusal:
        configuration.check(config, SCHEMA)
    assert str(refusal.value) == (
        f"prompts.path: 'gsm8k: what is 3?' of gsm8k is in results/smoke/prompts/{split}/code.jsonl, too, "
        "which was learned from; take such questions out, or leave prompts.path out, and its own test "
        "prompts are decoded"
    )


def test_files_that_the_finished_experiment_was_made_with_are_its_own_prompts(again, tmp_path):
    """Its configuration first, the new one's over it: the prompts are copied, not divided anew."""
    again[0]["prompts"] |= {"path": "questions"}
    again[0]["benchmark"]["temperatures"] = [0]
    made = merged(ROOT / "tests/config.yaml", written(again)) | {"reuse": None}
    made_with.begin(tmp_path / "results/smoke", made)
    assert planned_rules(tmp_path, config=[written(again)]) == MEASURED | COPIED | {"reuse_responses"}


def test_every_question_counts_as_a_test_prompt(own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own[0]["prompts"]["test"] = own[0]["benchmark"]["prompts_per_task"] = 6
    configuration.check(merged(ROOT / "tests/config.yaml", written(own)), SCHEMA)


def test_a_head_that_is_taken_needs_nothing_to_learn_from(own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own[0]["draft"], own[0]["prompts"]["draft"] = {"unroll_steps": 1}, 0
    configuration.check(merged(ROOT / "tests/config.yaml", written(own)), SCHEMA)


def test_all_of_the_papers_tables_come_from_the_finished_default(tmp_path):
    """Nothing that `make reproduce` made is made again by `make paper`."""
    finished_default(tmp_path / "results/default")
    files = [ROOT / "config.yaml", ROOT / "workflow/experiments/paper.yaml"]
    planned = planned_rules(tmp_path, config=files)
    assert {"benchmark_at_temperature", "train_policy_round", "transfer_to_machine"} <= planned
    models = {"prepare_prompts_of_split", "train_target", "train_draft"}
    assert not {*models, "profile_latency", "grid_search", "tune"} & planned


@pytest.mark.skipif(
    not (ROOT.parent / "shared/data/prompts").is_dir(), reason="the real prompts are not beside this checkout"
)
def test_the_real_prompts_are_ready(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = merged(ROOT / "workflow/experiments/real-prompts.yaml")
    finished_default(tmp_path / "results/default")
    config["prompts"]["path"] = str(ROOT.parent / "shared/data/prompts")
    configuration.check(config, SCHEMA)
    assert Path(config["reuse"]) == Path("results/default")
