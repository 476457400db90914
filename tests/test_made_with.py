"""What a finished experiment was made with: nothing is taken that other keys would have made otherwise."""

import copy
import dataclasses
from pathlib import Path

import pytest
import yaml

from checked_configuration import ROOT, SCHEMA
from finished_experiment import TAUGHT, finished, finished_default
from ltd import configuration, made_with, reuse
from ltd.errors import InputError
from ltd.reused_parts import PARTS, SHAPE, keys_of_parts
from ltd.rl.policy_settings import PolicyShape
from test_experiments import merged


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The configuration of an experiment that asks a finished one its own questions again, at toy size; that
    one's own was kept.
    """
    monkeypatch.chdir(tmp_path)
    finished(tmp_path / "results/smoke")
    settings = {
        "experiment": "again",
        "reuse": "results/smoke",
        "prompts": {"tasks": TAUGHT},
        "rl": {"train_tasks": TAUGHT},
        "benchmark": {"test_tasks": TAUGHT, "prompts_per_task": 2},
    }
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(settings))
    config = merged(ROOT / "tests/config.yaml", tmp_path / "again.yaml")
    finished_with = copy.deepcopy(config) | {"experiment": "smoke", "reuse": None}
    finish(tmp_path / "results/smoke", finished_with)
    return config


def finish(experiment, config):
    """As a run does that comes to its report."""
    made_with.begin(experiment, config)
    made_with.finish(experiment)


@pytest.mark.parametrize(
    ("block", "key", "value", "said"),
    [
        ("target", "path", "owner/model", 'target.path: "owner/model", but results/smoke was made with nul'),
        ("draft", "path", "owner/head", 'draft.path: "owner/head", but results/smoke was made with null; us'),
        ("target", "steps", 31, "target.steps: 31, but results/smoke was made with 30; use the same, or le"),
        ("draft", "epochs", 3, "draft.epochs: 3, but results/smoke was made with 2; use the same, or leave"),
        ("responses", "max_new_tokens", 64, "responses.max_new_tokens: 64, but results/smoke was made with"),
        ("responses", "system", "Be brief.", 'responses.system: "Be brief.", but results/smoke was made wi'),
    ],
)
def test_what_was_made_otherwise_is_named(kept, block, key, value, said):
    configuration.check(kept, SCHEMA)
    kept[block][key] = value
    with pytest.raises(InputError) as refusal:
        configuration.check(kept, SCHEMA)
    assert str(refusal.value).startswith(said)


def test_another_seed_or_number_type_is_named(kept):
    for key, value in (("seed", 1), ("dtype", "float32"), ("quantisation", "4bit")):
        with pytest.raises(InputError, match=rf"^{key}: .*, but results/smoke was made with .*; use the"):
            configuration.check(kept | {key: value}, SCHEMA)


def test_a_run_that_made_no_report_does_not_pass_for_what_all_was_made_with(kept):
    made = made_with.kept(Path("results/smoke"))
    changed = made | {"draft": made["draft"] | {"epochs": 3}}
    made_with.begin(Path("results/smoke"), changed)
    assert made_with.kept(Path("results/smoke")) == made
    with pytest.raises(InputError, match=r"^draft\.epochs: .* made with 2, and since then .* 3 .*-R all"):
        configuration.check(kept, SCHEMA)
    made_with.finish(Path("results/smoke"))
    made_with.finish(Path("results/smoke"))  # where none has begun since, nothing
    kept["draft"]["epochs"] = 3
    configuration.check(kept, SCHEMA)


def test_what_changes_nothing_that_is_taken_may_differ(kept):
    for block, key, value in (
        ("prompts", "test", 5),
        ("benchmark", "repeats", 3),
        ("ablations", "run", ["rewards"]),
        ("transfer", "slower_growth", [5]),
        ("traces", "chunk", 7),
        ("tune", "workers", 2),
        ("draft", "feature_cache_gib", 1.0),
        ("responses", "batch_size", 8),
    ):
        kept[block][key] = value
    configuration.check(kept, SCHEMA)
    assert reuse.announcement(kept) is None


def test_for_another_temperature_what_is_learned_anew_may_be_learned_otherwise(kept):
    kept["traces"]["temperature"] = 1
    kept["benchmark"]["temperatures"] = [0, 1]
    kept["rl"] |= {"train_tasks": [], "reward": "time"}
    kept["tune"]["trials"] = 3
    configuration.check(kept, SCHEMA)
    kept["target"]["steps"] = 31
    with pytest.raises(InputError, match=r"^target\.steps: 31, but results/smoke was made with 30"):
        configuration.check(kept, SCHEMA)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("train_tasks", r"rl\.train_tasks: 'maths' has no training prompts; chat, code have"),
        ("paper_tasks", r"rl\.paper_tasks: 'math' neither has prompts nor is built in; did you mean maths\?"),
    ],
)
def test_what_is_learned_anew_learns_from_tasks_that_there_are(kept, key, said):
    kept["traces"]["temperature"] = 1
    kept["benchmark"]["temperatures"] = [0, 1]
    kept["rl"] |= {"train_tasks": [], key: ["maths" if key == "train_tasks" else "math"]}
    with pytest.raises(InputError, match=f"^{said}$"):
        configuration.check(kept, SCHEMA)


def test_of_a_chat_template_the_text_counts(kept, tmp_path):
    made = made_with.kept(Path("results/smoke"))
    files = [tmp_path / name for name in ("first.jinja", "second.jinja")]
    for file in files:
        file.write_text("{{ messages[0]['content'] }}")
    responses = made["responses"] | {"chat_template": "first.jinja"}
    finish(tmp_path / "results/smoke", made | {"responses": responses})
    kept["responses"]["chat_template"] = "second.jinja"
    configuration.check(kept, SCHEMA)
    files[1].write_text("{{ messages }}")
    with pytest.raises(
        InputError, match=r'^responses\.chat_template: ".*second.jinja", but results/smoke was'
    ):
        configuration.check(kept, SCHEMA)


# Of what is fitted with its own part of the block `rl`, and what that leaves out.
PAPER = "policies paper"
CONDITIONED = "policies conditioned"
DEFAULT = "policies default and lookup"
TUNED = "study and policies ltd"


@pytest.mark.parametrize(
    ("block", "key", "value", "anew"),
    [
        (None, "threads", 2, set(PARTS)),
        (None, "device", "cpu", set(PARTS)),
        ("latency", "repetitions", 3, set(PARTS)),
        ("rl", "sizes", [1, 2, 4], {"opponents", DEFAULT, PAPER, CONDITIONED, TUNED}),
        ("rl", "train_tasks", [], {"grid", "baselines", "opponents", "lookup", DEFAULT, CONDITIONED, TUNED}),
        ("rl", "reward", "throughput", {DEFAULT, TUNED}),
        ("rl", "top", 2, {"opponents", DEFAULT, PAPER, CONDITIONED, TUNED}),
        ("rl", "paper_preset", "paper", {PAPER}),
        ("rl", "paper_tasks", [], {PAPER}),
        ("tune", "trials", 3, {TUNED}),
        ("grid", "max_size", 8, {"grid"}),
        ("baselines", "thresholds", 5, {"baselines"}),
        ("opponents", "fit_steps", 21, {"opponents"}),
    ],
)
def test_only_what_a_key_shapes_is_made_anew(kept, block, key, value, anew):
    (kept if block is None else kept[block])[key] = value
    configuration.check(kept, SCHEMA)
    name = f"{block}.{key}" if block else key
    assert reuse.made_anew(kept) == {part: [name] for part in PARTS if part in anew}
    assert f"results/smoke was made with other {name}: made anew" in reuse.announcement(kept)
    assert len(reuse.taken(kept)) == len(PARTS) - len(anew)


def test_what_an_unfinished_run_may_have_fitted_otherwise_is_made_anew(kept):
    made = made_with.kept(Path("results/smoke"))
    made_with.begin(Path("results/smoke"), made | {"grid": {"max_size": 8}})
    assert reuse.made_anew(kept) == {"grid": ["grid.max_size"]}


def test_the_parts_are_shaped_by_all_that_fits(kept):
    """Every key of these blocks shapes a part, but for how many work on it."""
    shaping = {key for keys in keys_of_parts(kept).values() for key in keys}
    blocks = ("latency", "grid", "rl", "baselines", "opponents", "tune")
    left_out = {f"{block}.{key}" for block in blocks for key in kept[block]} - shaping
    assert left_out == {"tune.workers"}


def test_the_opponents_keys_are_those_of_the_policies_shape():
    assert tuple(field.name for field in dataclasses.fields(PolicyShape)) == SHAPE


@pytest.mark.parametrize("name", ["paper", "sampled"])
def test_the_experiments_that_reuse_the_default_fit_it(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    finish(finished_default(tmp_path / "results/default"), merged())
    configuration.check(merged(ROOT / f"workflow/experiments/{name}.yaml"), SCHEMA)


def test_the_readmes_experiment_that_reuses_the_default_fits_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finish(finished_default(tmp_path / "results/default"), merged())
    readme = (ROOT / "README.md").read_text()
    (tmp_path / "rewards.yaml").write_text(readme.split("```yaml\n# rewards.yaml")[1].split("```")[0])
    configuration.check(merged(tmp_path / "rewards.yaml"), SCHEMA)


def test_the_documents_changed_key_trains_what_it_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finish(finished_default(tmp_path / "results/default"), merged())
    text = (ROOT / "docs/running.md").read_text().split("```yaml\n# throughput.yaml")[1].split("```")[0]
    (tmp_path / "throughput.yaml").write_text(f"# {text}")
    config = merged(tmp_path / "throughput.yaml")
    configuration.check(config, SCHEMA)
    assert reuse.made_anew(config) == {part: ["rl.reward"] for part in (DEFAULT, TUNED)}
