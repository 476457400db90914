"""What the opponents are tuned over: settings of the fits, and how often the marginal rule looks."""

import dataclasses

import pytest

from ltd.fit_opponents import best_rule, best_trial, decisions_of, variations
from ltd.opponents import marginal_fit
from ltd.replay.latency import LatencyTable
from ltd.rl.policy_settings import PLANNED, PolicySettings
from ltd.rl.replay_walk import ReplayWorld
from ltd.rl.search_space import OBSERVATIONS
from ltd.rl.workshop_files import open_workshop
from ltd.tracking import StageRun
from opponent_fits import SIZES, fit_options, of


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    return fit_options(tmp_path_factory.mktemp("opponents"))


def test_the_best_of_several_settings_is_kept(options):
    """The first are those asked for; the others see and are what the study of `tune` may choose."""
    several = dataclasses.replace(of(options, "supervised"), fit_trials=4, fit_steps=30, fit_rounds=1)
    first, *others = variations(several, "cpu")
    assert first == {} and len(others) == 3
    assert all(tried["depth_observation"] in OBSERVATIONS.values() for tried in others)
    assert len({(tried["depth_observation"], tried["depth_network"]) for tried in others}) == 3
    assert not any("interval" in tried or tried["depth_observation"] == PLANNED for tried in others)
    where_looking_waits = variations(dataclasses.replace(several, fit_trials=28), "cuda")[1:]
    assert {tried["interval"] for tried in where_looking_waits} == {1, 2, 4}
    assert PLANNED in {tried["depth_observation"] for tried in where_looking_waits}
    workshop = open_workshop(
        several.as_policies(), several.traces, several.validation_traces, several.profile, 0
    )
    noted = []

    class Noted(StageRun):
        def metrics(self, values, step=None):
            noted.append((step, *values.values()))

    best = best_trial(workshop, several, (2, 4), Noted())
    assert [step for step, _ in noted] == [0, 1, 2, 3]
    assert best.evaluation.speedup == max(speedup for _, speedup in noted)

    chosen = dataclasses.replace(several, **best.varied)
    assert best.fitted.depth.spec.parts == tuple(chosen.depth_observation)


def test_where_looking_waits_the_rule_may_look_less_often(options, monkeypatch):
    """On a CPU it decides as often as it is told to."""
    told = dataclasses.replace(of(options, "marginal_rule"), interval=3)
    paths = options.traces, options.validation_traces
    workshop = open_workshop(told.as_policies(), *paths, options.profile, 0)
    assert best_rule(workshop, 1000.0)[0].interval == 3
    # Deep trees pay, and looks are dear.
    flat = workshop.training.measured.slower_growth_of_verification(20)
    gpu = dataclasses.replace(flat, device_type="cuda")
    gpu = gpu.replace_table("depth_policy", LatencyTable([1], [[0.1] * 3]))
    splits = "training", "validation"
    worlds = {split: ReplayWorld(getattr(workshop, split).traces, gpu, SIZES) for split in splits}
    slow = dataclasses.replace(workshop, **worlds)
    every_level = slow.with_settings(PolicySettings(sizes=SIZES))
    rule, evaluation = best_rule(every_level, 1000.0)
    often = marginal_fit.fit_marginal_rule(every_level, 1000.0)
    world = every_level.validation.with_networks(often.weights)
    assert rule.interval > 1 == often.interval
    assert evaluation.speedup > 1.01 * decisions_of(often, world).replay(world).speedup
    # What is asked for is fitted, too.
    fitted = []
    monkeypatch.setattr("ltd.fit_opponents.fit_marginal_rule", lambda shop, rate: fitted.append(shop) or rule)
    best_rule(slow.with_settings(PolicySettings(sizes=SIZES, interval=3)), 1000.0)
    assert [shop.settings.interval for shop in fitted] == [3, 1, 2, 4]
