"""What a finished experiment was made with: nothing is taken that other keys would have made otherwise."""

import copy
from pathlib import Path

import pytest
import yaml

from checked_configuration import ROOT, SCHEMA
from finished_experiment import TAUGHT, finished, finished_default
from ltd import configuration, made_with
from ltd.errors import InputError
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
        ("latency", "repetitions", 3, "latency.repetitions: 3, but results/smoke was made with 2; use the "),
        ("rl", "reward", "time", 'rl.reward: "time", but results/smoke was made with "saving"; use the sam'),
        ("grid", "max_size", 8, "grid.max_size: 8, but results/smoke was made with 16; use the same, or le"),
        ("tune", "trials", 3, "tune.trials: 3, but results/smoke was made with 2; use the same, or leave `"),
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


@pytest.mark.parametrize("block", ["baselines", "opponents"])
def test_what_fits_rules_counts_where_some_were_fitted(kept, block):
    key = {"baselines": "thresholds", "opponents": "fit_steps"}[block]
    kept[block][key] += 1
    configuration.check(kept, SCHEMA)
    Path("results/smoke", block).mkdir()
    with pytest.raises(InputError, match=rf"^{block}\.{key}: "):
        configuration.check(kept, SCHEMA)


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
    kept["threads"] = 2
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
