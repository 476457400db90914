"""The tuning study: first trial, resuming, results, and a changed setting that opens a new study."""

import csv
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import optuna
import pytest
import yaml

from ltd import tune
from ltd.errors import InputError
from ltd.rl.policy_settings import COMPACT, PolicySettings, with_overrides
from ltd.rl.search_space import SPACE, as_settings, as_values, space_on
from ltd.tracking import StageRun
from pipeline import ROOT
from synthetic import save_inputs, synthetic_profile, synthetic_traces

TINY = {
    "size_steps": 1024,
    "depth_steps": 1024,
    "lanes": 64,
    "rollout": 1024,
    "minibatch": 512,
    "validations": 1,
    "rounds": 1,
    "rehearsal": 0,
}


@pytest.fixture
def options(tmp_path, monkeypatch):
    # Trials as short as possible: one round.
    monkeypatch.setitem(SPACE, "rounds", [1])
    (tmp_path / "settings.json").write_text(json.dumps(TINY))
    return tune.TuneOptions(
        **save_inputs(tmp_path, *(synthetic_traces(seed=seed, sequences=4) for seed in (1, 2))),
        output=tmp_path / "tuning",
        state=tmp_path / "state",
        settings=tmp_path / "settings.json",
        trials=2,
        step_share=1.0,
        startup_trials=2,
    )


def base(options):
    return with_overrides(PolicySettings(), json.loads(options.settings.read_text()), "settings.json")


def test_a_dead_writers_lock_can_be_told_by_its_age(tmp_path, monkeypatch):
    """Wherever the study's folder is named from: the lock is a link, and must lead to the journal."""
    monkeypatch.chdir(tmp_path)
    link, ages = os.symlink, []

    def noted(target, lock):
        link(target, lock)
        ages.append(os.stat(lock).st_mtime)

    monkeypatch.setattr(os, "symlink", noted)
    optuna.create_study(storage=tune.open_storage(Path("state")))
    assert ages


def test_study_starts_with_the_defaults_and_goes_on_where_it_stopped(options):
    tune.tune(options, StageRun())
    best = json.loads((options.output / "best.json").read_text())
    with (options.output / "trials.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["trial"] for row in rows] == ["0", "1"]
    assert {"history.png", "slices.png"} <= {path.name for path in options.output.iterdir()}
    # The first trial is the chain that the study sets out from; the winner's settings can be trained with.
    assert rows[0]["learning_rate"] == str(base(options).learning_rate)
    assert best["validation_speedup"] == max(float(row["speedup"]) for row in rows if row["speedup"])
    with_overrides(base(options), best["settings"], "best.json")

    # A trial that was running when the process died is tried again, with the same values.
    study = tune.open_study(options, base(options))
    dead = study.ask()
    for name, choices in SPACE.items():
        if isinstance(choices, list):
            dead.suggest_categorical(name, choices)
        else:
            dead.suggest_float(name, *choices, log=True)
    tune.tune(replace(options, trials=3), StageRun())
    study = tune.open_study(options, base(options))
    states = [trial.state.name for trial in study.trials]
    assert states[2] == "FAIL" and states.count("FAIL") == 1
    assert study.trials[3].params == dead.params
    assert json.loads((options.output / "best.json").read_text())["trials"] == 3

    # With nothing left to do, only the results are written again.
    tune.tune(replace(options, trials=3), StageRun())
    assert len(tune.open_study(options, base(options)).trials) == 4


def test_the_defaults_are_tried_once_whichever_worker_comes_first(options):
    defaults = as_values(base(options), SPACE)
    first = tune.open_study(replace(options, worker=1), base(options)).ask()
    trials = tune.open_study(replace(options, worker=0), base(options)).trials
    queued = [trial.number for trial in trials if trial.system_attrs.get("fixed_params") == defaults]
    assert queued == [first.number]


@dataclass(frozen=True)
class Attained:
    """What a trial is told of an iteration."""

    speedup: float

    def summary(self):
        return {"speedup": self.speedup}


def test_trials_that_fall_behind_are_pruned_and_count(options, monkeypatch):
    attained = iter((2.0, 2.2, 1.0, 2.4))

    def short_chain(shop, rounds, *, seed, start, after_iteration):
        evaluation = Attained(next(attained))
        after_iteration(0, evaluation)
        return {}, [evaluation]

    monkeypatch.setattr(tune, "train_chain", short_chain)
    tune.tune(replace(options, trials=4), StageRun())
    with (options.output / "trials.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["state"] for row in rows] == ["COMPLETE", "COMPLETE", "PRUNED", "COMPLETE"]
    assert rows[2]["iteration_0"] == "1.0"
    best = json.loads((options.output / "best.json").read_text())
    assert (best["trials"], best["trial"], best["validation_speedup"]) == (4, 3, 2.4)


def test_trials_are_on_the_measured_machine_which_they_do_not_observe(options, monkeypatch):
    seen = (*COMPACT, "machine")
    for_any = replace(
        base(options), reward="marginal", machines=4, size_observation=seen, depth_observation=seen
    )
    shops = []

    def short_chain(shop, *_, **__):
        shops.append(shop)
        return {}, [Attained(1.0)]

    monkeypatch.setattr(tune, "train_chain", short_chain)
    study = tune.open_study(options, for_any)
    study.optimize(tune.chain_objective(options, for_any), n_trials=1)
    (shop,) = shops
    assert shop.settings.machines == 0 and len(shop.training.family) == len(shop.validation.family) == 1
    assert "machine" not in (*shop.settings.size_observation, *shop.settings.depth_observation)


def test_other_settings_are_another_study(options):
    name = tune.study_name(options, base(options))
    assert name == tune.study_name(replace(options, trials=99), base(options))
    assert name != tune.study_name(options, replace(base(options), sizes=(1, 2)))
    assert name != tune.study_name(replace(options, step_share=0.5), base(options))
    synthetic_profile(verify_slope=0.5).save(options.profile)
    assert name != tune.study_name(options, base(options))


def test_points_of_the_space_are_settings():
    for space in (space_on("cpu"), space_on("cuda")):
        values = as_values(PolicySettings(), space)
        assert values is not None, "the default settings must lie in the search space"
        assert replace(PolicySettings(), **as_settings(values)) == PolicySettings()
        assert as_values(replace(PolicySettings(), size_network=(7,)), space) is None
        trial = optuna.trial.FixedTrial(values)
        assert as_settings(tune.suggest(trial, space)) == as_settings(values)


def test_where_looking_waits_not_to_look_is_searched_too(options):
    """So the study of a GPU's profile is another one, and begins with `gpu-default`'s own settings."""
    own = yaml.safe_load((ROOT / "workflow/experiments/gpu-default.yaml").read_text())["rl"]
    planned = with_overrides(PolicySettings(rounds=1), own, "gpu-default.yaml")
    assert as_values(planned, space_on("cpu")) is None
    assert as_values(planned, space_on("cuda"))["observation"] == "planned"
    assert replace(planned, **as_settings(as_values(planned, space_on("cuda")))) == planned
    name = tune.study_name(options, base(options))
    gpu = replace(synthetic_profile(), device_type="cuda")
    gpu.save(options.profile)
    assert name != tune.study_name(options, base(options))
    tune.tune(options, StageRun())
    with (options.output / "trials.csv").open() as stream:
        assert {"interval", "observation"} <= set(csv.DictReader(stream).fieldnames)


def test_trials_are_shortened_in_whole_rollouts():
    short = tune.shortened(PolicySettings(size_steps=100_000, depth_steps=300_000), 0.2)
    assert (short.size_steps, short.depth_steps) == (20_000, 60_000)
    assert tune.shortened(PolicySettings(), 0.0001).size_steps == PolicySettings().rollout


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"trials": 0}, "tune.trials: 0: expected at least 1"),
        ({"startup_trials": -1}, "tune.startup_trials: -1: expected at least 1"),
        ({"step_share": 0.0}, "tune.step_share: 0.0: expected a share above 0 and up to 1"),
        ({"step_share": 2.0}, "tune.step_share: 2.0: expected a share above 0 and up to 1"),
    ],
)
def test_impossible_budgets_are_refused(options, change, complaint):
    with pytest.raises(InputError, match=f"^{complaint}"):
        tune.tune(replace(options, **change), StageRun())
    assert not options.state.exists(), "refused before a study is opened"
