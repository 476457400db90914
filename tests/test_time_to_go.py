"""What tokens are worth by present decisions, and what deciding by it over and over comes to."""

import numpy as np
import pytest

from ltd.opponents.decisions import Decisions
from ltd.replay.oracle import oracle
from ltd.rl.choices import FixedDepth, FixedSize
from ltd.rl.evaluation import evaluate_choices
from ltd.rl.machine import TYPICAL_PREFIX_ROWS
from ltd.rl.observations import ObservationSpec
from ltd.rl.policy_settings import PolicySettings
from ltd.rl.rehearsal import outcomes
from ltd.rl.replay_walk import ReplayWorld
from ltd.rl.rewards import Reward
from ltd.rl.time_to_go import time_to_go, tokens_worth
from synthetic import synthetic_profile, synthetic_traces, with_free_decisions

SIZES = (1, 2, 3, 5, 8, 20)
SPEC = ObservationSpec(("depth",), 4, 6, SIZES)


@pytest.fixture(scope="module")
def world():
    """Decisions are free, and a prefix pass takes the same for any number of rows."""
    profile = with_free_decisions(synthetic_profile())
    prefix = profile.tables["draft_prefix"]
    flat = type(prefix)(prefix.axis, prefix.ms[:1] * len(prefix.axis))
    return ReplayWorld(
        synthetic_traces(seed=4, sequences=12), profile.replace_table("draft_prefix", flat), SIZES
    )


def test_time_to_go_follows_the_cycles_to_the_end_of_the_answer():
    """Two answers of three and two tokens; the first cycle of the first emits two."""
    tokens, seconds = np.array([2, 1, 1, 1, 2]), np.array([1.0, 5.0, 3.0, 10.0, 7.0])
    assert time_to_go(tokens, seconds, np.array([3, 2, 1, 2, 1])).tolist() == [4, 8, 3, 17, 7]


def test_tokens_are_worth_the_time_that_they_take(world):
    constant = FixedDepth(3), FixedSize(5, decisions=1)
    worth = tokens_worth(world, *constant)
    evaluation = evaluate_choices(world, *constant)
    assert worth.shape == (len(world.traces), world.max_depth + 2)
    # Cycle after cycle, what its tokens are worth is what it takes.
    paid = worth[evaluation.position, evaluation.tokens]
    np.testing.assert_allclose(paid, evaluation.seconds, rtol=1e-12)
    last = world.tokens_left == 1
    np.testing.assert_allclose(worth[last, 1:], np.broadcast_to(worth[last, 1:2], worth[last, 1:].shape))


def test_a_cycle_is_charged_for_its_decision_and_for_typical_prefix_rows():
    world = ReplayWorld(synthetic_traces(seed=4, sequences=4), synthetic_profile(), SIZES)
    positions = np.arange(len(world.traces))
    worth = tokens_worth(world, FixedDepth(3), FixedSize(5, decisions=1))
    tokens = world.table.tokens(positions, 3, 5)
    context = world.traces.context_length
    seconds = world.profile.cycle_seconds(3, 5, context, TYPICAL_PREFIX_ROWS, 0, 1)
    np.testing.assert_allclose(worth[positions, tokens], seconds, rtol=1e-9)


def best_decisions(world, reward, brought):
    """The depth and size of the largest reward at every position."""
    positions = np.arange(len(world.traces))
    tokens, seconds = brought.tokens.numpy().astype(np.int64), brought.seconds.numpy()
    paid = reward(tokens, seconds, positions=positions[:, None, None])
    depth, size = np.unravel_index(paid.reshape(len(paid), -1).argmax(axis=1), paid.shape[1:])
    depths = np.arange(world.max_depth + 1)
    chosen = np.broadcast_to(np.array(SIZES)[size][:, None], (len(positions), len(depths)))
    return Decisions(depths < depth[:, None], chosen, np.ones(len(depths), dtype=bool))


def iterated(world, kind, rounds=12):
    """Seconds of all answers when every position is decided by the reward, over and over."""
    brought = outcomes(
        world, {"size": SPEC, "depth": SPEC}, PolicySettings(sizes=SIZES), np.arange(len(world.traces))
    )
    reward = Reward(kind, world.step_seconds)
    for _ in range(rounds):
        decisions = best_decisions(world, reward, brought)
        evaluation = decisions.replay(world)
        reward.attain(evaluation.tokens.sum(), evaluation.seconds.sum())
        if kind == "saving":
            reward.worth = tokens_worth(world, *decisions.deciders())
    return evaluation.seconds.sum()


def test_decided_by_saving_over_and_over_the_time_is_the_least_of_all(world):
    """With every position told apart that is policy iteration, which ends at the oracle's choices."""
    least = oracle(world.traces, world.profile, SIZES).seconds.sum()
    assert iterated(world, "saving") == pytest.approx(least, rel=1e-6)
    assert iterated(world, "marginal") > 1.01 * least
