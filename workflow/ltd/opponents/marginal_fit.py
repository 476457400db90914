"""Fitting the marginal rule: calibration on all nodes, forecast by least squares, rate by iteration.

A round fits the forecast at the present rate; the throughput that the rule then attains is the next rate. As
with the other opponents, the round that does best on the validation traces is kept.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ltd.opponents.calibration import calibrate
from ltd.opponents.decisions import Decisions
from ltd.opponents.marginal_rule import Growth, MarginalRule, count_of_regressors, regressors
from ltd.rl.co_adaptation import Workshop
from ltd.rl.machine import TYPICAL_PREFIX_ROWS
from ltd.rl.policy_settings import PolicySettings, asked_depths, decisions_up_to
from ltd.rl.replay_walk import ReplayWorld

ROUNDS = 8
# The rate stands still when it moves by less than this share.
STILL = 1e-4
# Keeps the least squares solvable where regressors depend on each other.
RIDGE = 1e-3
# Weight of positions where the rule starts no cycle.
OFF_POSITION = 0.05
ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class GrownTrees:
    """What `Growth` shows of the tree at every position, float32 [1 + D, N, A] and [1 + D, N, F]."""

    expected: NDArray
    regressors: NDArray


def fit_marginal_rule(workshop: Workshop, rate: float) -> MarginalRule:
    """Fit on the training traces; keep the round that does best on the validation traces.

    The rate begins at `rate` (tokens a second) and becomes the rule's own.
    """
    world, settings = workshop.training, workshop.settings
    beam, depth = world.traces.beam, world.max_depth
    count = count_of_regressors(beam, len(settings.sizes))
    world = world.with_networks({"depth": count, "size": len(settings.sizes)})
    rule = MarginalRule(
        beam,
        depth,
        settings.sizes,
        settings.first_decision,
        settings.interval,
        calibrate(world.traces),
        world.suffix_prior,
        cycle_seconds(world, settings),
        np.zeros((depth, count)),
        rate,
        workshop.trained_on,
    )
    validation = workshop.validation.with_networks(rule.weights)
    trees, validation_trees = grow(world, rule), grow(validation, rule)
    tried: list[tuple[float, MarginalRule]] = []
    weights = np.ones(len(world.traces))
    for _ in range(ROUNDS):
        rule = replace(rule, forecast=fit_forecast(rule, trees, world, weights))
        evaluation = decide(rule, trees, world).replay(world)
        still = abs(evaluation.throughput / rule.rate - 1) < STILL
        rule = replace(rule, rate=evaluation.throughput)
        tried.append((decide(rule, validation_trees, validation).replay(validation).speedup, rule))
        weights = np.full(len(world.traces), OFF_POSITION)
        weights[evaluation.position] = 1.0
        if still:
            break
    return max(tried, key=lambda outcome: outcome[0])[1]


def cycle_seconds(world: ReplayWorld, settings: PolicySettings) -> NDArray:
    """Seconds of a cycle [1 + D, C, A], decisions included, up to the longest context of the traces."""
    depth = np.arange(world.max_depth + 1)[:, None, None]
    context = np.arange(len(world.latency.autoregressive))[:, None]
    asked = asked_depths(settings.first_decision, settings.interval, world.max_depth)
    decisions = decisions_up_to(depth, asked)
    sizes = np.asarray(settings.sizes)
    return world.latency.cycle_seconds(depth, sizes, context, TYPICAL_PREFIX_ROWS, decisions, depth > 0)


def grow(world: ReplayWorld, rule: MarginalRule) -> GrownTrees:
    """Look at the trees of all positions as the rule does, depth by depth."""
    traces, sizes, known = world.traces, rule.sizes, world.known_by(rule.suffix_prior)
    shape = traces.max_depth + 1, len(traces)
    expected = np.empty((*shape, len(sizes)), dtype=np.float32)
    seen = np.empty((*shape, count_of_regressors(traces.beam, len(sizes))), dtype=np.float32)
    for first in range(0, len(traces), ROWS_AT_ONCE):
        rows = slice(first, first + ROWS_AT_ONCE)
        scores = traces.scores[rows]
        growth = Growth(len(scores), rule.calibration, traces.beam, sizes)
        for depth in range(traces.max_depth + 1):
            growth.extend(scores, depth)
            expected[depth, rows] = growth.expected()
            seen[depth, rows] = regressors(growth, known[rows])
    return GrownTrees(expected, seen)


def fit_forecast(rule: MarginalRule, trees: GrownTrees, world: ReplayWorld, weights: NDArray) -> NDArray:
    """Least squares of what drafting on gained at the rate, with the rule's sizes, [D, F].

    Backward over the levels: how far a draft goes on from the next level is what was fitted there.
    """
    position, context = np.arange(len(weights)), world.context_length
    gained = np.empty((rule.max_depth + 1, len(position)))
    for depth in range(rule.max_depth + 1):
        size = rule.stop_values(depth, trees.expected[depth], context).argmax(axis=1)
        tokens = world.table.tokens(position, depth, np.asarray(rule.sizes)[size])
        gained[depth] = tokens - rule.cost[depth, context, size]
    forecast, following = np.zeros_like(rule.forecast), gained[-1]
    for depth in reversed(range(rule.max_depth)):
        seen = trees.regressors[depth].astype(np.float64)
        weighted = (seen * weights[:, None]).T / weights.sum()
        squares = weighted @ seen + RIDGE * np.eye(seen.shape[1])
        forecast[depth] = np.linalg.solve(squares, weighted @ (following - gained[depth]))
        goes_on = seen @ forecast[depth] > 0 if rule.asked(depth) else np.ones(len(seen), dtype=bool)
        following = np.where(goes_on, following, gained[depth])
    return forecast


def decide(rule: MarginalRule, trees: GrownTrees, world: ReplayWorld) -> Decisions:
    """All decisions of the rule at the positions of the world whose trees these are."""
    sizes = np.asarray(rule.sizes)
    asked = np.array([rule.asked(depth) for depth in range(rule.max_depth + 1)])
    go_on = np.ones((len(world.traces), rule.max_depth + 1), dtype=bool)
    chosen = np.zeros(go_on.shape, dtype=np.int64)
    for depth in range(rule.max_depth + 1):
        if depth < rule.max_depth and asked[depth]:
            go_on[:, depth] = trees.regressors[depth] @ rule.forecast[depth] > 0
        values = rule.stop_values(depth, trees.expected[depth], world.context_length)
        chosen[:, depth] = sizes[values.argmax(axis=1)]
    return Decisions(go_on, chosen, asked)
