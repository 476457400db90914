"""Chains of policies: initial pair and rounds, what they learn from, and which pair is kept."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from ltd.errors import InputError
from ltd.replay.traces import Traces, of_tasks
from ltd.rl import co_adaptation
from ltd.rl.co_adaptation import (
    Trained,
    evaluate_pair,
    rehearse_pair,
    retrained_kind,
    train_chain,
    train_policy_of,
)
from ltd.rl.evaluation import best_static, evaluate
from ltd.rl.observations import ObservationSpec
from ltd.rl.policies import Policy, PolicyNetwork
from ltd.rl.policy_folders import validate_pair
from ltd.rl.policy_settings import COMPACT, PLANNED
from ltd.rl.replay_walk import ReplayWorld
from ltd.rl.training_state import Training
from policy_training import SIZES, workshop
from synthetic import synthetic_traces

# PPO alone needs more steps than one that starts from a rehearsal.
STARTS = (
    {"size_steps": 16384, "depth_steps": 32768},
    {"rehearsal": 200, "size_steps": 1024, "depth_steps": 1024},
)


@pytest.mark.parametrize("overrides", STARTS)
def test_a_chain_beats_the_best_static_setting(overrides):
    shop = workshop(**overrides)
    pair, evaluations = train_chain(shop, 1, seed=0)
    static = evaluate(shop.validation, *best_static(shop.validation)).speedup
    assert len(evaluations) == 2
    assert evaluate_pair(shop.validation, pair).speedup == max(e.speedup for e in evaluations)
    assert max(e.speedup for e in evaluations) > static


def test_iterations_retrain_size_and_depth_in_turn():
    assert [retrained_kind(iteration) for iteration in (1, 2, 3)] == ["size", "depth", "size"]


def test_a_chain_trains_every_policy_from_a_seed_of_its_own_and_returns_the_best_pair(monkeypatch):
    """The second pair does best: what the first retraining of a size policy made, beside the first depth."""
    shop, trainings, speedups = workshop(), [], iter([1.0, 3.0, 2.0])

    def noted(workshop, kind, previous, *, seed):
        trainings.append((kind, seed))
        return (kind, seed)

    monkeypatch.setattr(co_adaptation, "train_policy_of", noted)
    monkeypatch.setattr(
        co_adaptation, "evaluate_pair", lambda world, pair: SimpleNamespace(speedup=next(speedups))
    )
    pair, evaluations = train_chain(shop, 2, seed=7)
    assert [kind for kind, _ in trainings] == ["size", "depth", "size", "depth"]
    assert len({seed for _, seed in trainings}) == 4
    assert [evaluation.speedup for evaluation in evaluations] == [1, 3, 2]
    assert pair == {"size": trainings[2], "depth": trainings[1]}


def test_a_fixed_size_stands_for_a_policy_that_takes_time():
    assert workshop().environment("depth", {}, 0).size.decisions == 1


def test_mean_of_ratios_is_over_cycles():
    evaluation = evaluate(workshop().validation, 4, 8)
    ratios = evaluation.tokens / evaluation.seconds * evaluation.world.step_seconds
    assert evaluation.mean_of_ratios == pytest.approx(ratios.mean())
    ratio_of_means = evaluation.throughput * evaluation.world.step_seconds
    assert evaluation.mean_of_ratios != pytest.approx(ratio_of_means, rel=1e-3)


def test_marginal_rate_follows_the_attained_throughput():
    shop = workshop()
    trained = train_policy_of(shop, "size", {}, seed=0)
    first, last = trained.training.curves[0], trained.training.curves[-1]
    assert first["rate"] == 1.0 and last["rate"] != 1.0
    assert 0.93 < last["rate"] / last["speedup"] < 1.03


def test_the_rate_starts_at_what_the_pair_attains():
    shop = workshop(rehearsal=200)
    pair = rehearse_pair(shop)
    trained = train_policy_of(shop, "size", pair, seed=0)
    attained = evaluate_pair(shop.training, pair).throughput * shop.training.step_seconds
    assert attained > 1.05 and trained.training.curves[0]["rate"] == pytest.approx(attained)
    # What a cycle of the pair is worth to it is what the cycle takes, but for the rows of the prefix pass.
    evaluation = evaluate_pair(shop.training, pair)
    worth = shop.environment("depth", pair, 0).reward.worth[evaluation.position, evaluation.tokens]
    np.testing.assert_allclose(worth, evaluation.seconds, rtol=0.03)


@pytest.mark.parametrize("device_type", ["cpu", "cuda"])
@pytest.mark.parametrize("seen", [(PLANNED, PLANNED), (PLANNED, COMPACT), (COMPACT, COMPACT)])
def test_trainings_beside_a_gpu_are_charged_for_planned_cycles_where_no_policy_looks(device_type, seen):
    shop = workshop()
    worlds = {
        split: ReplayWorld(world.traces, replace(world.measured, device_type=device_type), SIZES)
        for split, world in (("training", shop.training), ("validation", shop.validation))
    }
    settings = replace(shop.settings, depth_observation=seen[0], size_observation=seen[1])
    shop = replace(shop, **worlds).with_settings(settings)
    planned = device_type == "cuda" and seen == (PLANNED, PLANNED)
    assert [world.latency.decisions.planned for world in (shop.training, shop.validation)] == [planned] * 2


def made_policy(kind, parts, weight, bias, **schedule):
    """One linear layer of given weights."""
    spec, actions = ObservationSpec(parts, 4, 6, SIZES), SIZES if kind == "size" else (0, 1)
    network = PolicyNetwork([(np.array(weight), np.array(bias))])
    return Trained(Policy(kind, network, spec, actions, **schedule), Training(network, network))


def test_validation_tells_a_constant_policy_from_one_that_adapts():
    world = workshop().validation
    # Goes on while a tenth of the depth, which it observes, is below 0.25; always the third size.
    stopper = made_policy("depth", ("depth",), [[0], [-1]], [-0.25, 0])
    pair = {"depth": stopper, "size": made_policy("size", ("depth",), np.zeros((5, 1)), np.eye(5)[2])}
    validation = validate_pair(world, pair)
    assert validation["size"]["is_constant"]
    assert validation["size"]["histogram"] == {str(size): float(size == SIZES[2]) for size in SIZES}
    best = max(SIZES, key=lambda size: evaluate(world, stopper.policy, size).speedup)
    assert validation["size"]["best_constant"] == {
        "action": best,
        "speedup": evaluate(world, stopper.policy, best).speedup,
    }
    settings = [(depth, size) for depth in range(7) for size in SIZES]
    depth, size = max(settings, key=lambda setting: evaluate(world, *setting).speedup)
    assert (validation["static"]["depth"], validation["static"]["size"]) == (depth, size)
    assert validation["depth"]["is_constant"]  # stops at depth 3 whatever is drafted
    assert validation["depth"]["histogram"]["3"] == 1
    width = ObservationSpec(("levels",), 4, 6, SIZES).width
    weight = np.stack([np.zeros(width), np.ones(width)])
    adapting = made_policy("depth", ("levels",), weight, [0.6, 0], first_decision=1)
    validation = validate_pair(world, pair | {"depth": adapting})
    shares = validation["depth"]["histogram"]
    assert not validation["depth"]["is_constant"] and sum(share > 0.02 for share in shares.values()) > 1
    assert sum(shares.values()) == pytest.approx(1)


def test_policies_train_on_the_chosen_tasks_alone():
    traces = synthetic_traces(sequences=6)
    code = of_tasks(traces, ("code",), "t.safetensors")
    assert set(code.tasks) == {"code"} and len(code.sequences) == 3
    rows = np.isin(traces.sequence, [1, 3, 5])
    assert np.array_equal(code.scores, traces.scores[rows])
    assert np.array_equal(code.starts, np.flatnonzero(np.diff(code.sequence, prepend=-1)))
    assert isinstance(code, Traces)
    with pytest.raises(InputError, match=r"rl.train_tasks: 'maths' has no answers in t.safetensors"):
        of_tasks(traces, ("maths",), "t.safetensors")
