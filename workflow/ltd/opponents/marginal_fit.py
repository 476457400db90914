"""Fitting the marginal rule: calibration on all nodes, forecast by least squares, rate by iteration."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ltd.opponents.calibration import Calibration, calibrate
from ltd.opponents.decisions import Decisions
from ltd.opponents.marginal_rule import Growth, MarginalRule
from ltd.rl.co_adaptation import Workshop
from ltd.rl.rehearsal import PREFIX_ROWS
from ltd.rl.replay_walk import ReplayWorld

ROUNDS = 8
# The rate stands still when it moves by less than this share.
STILL = 1e-4
# Keeps the least squares solvable where a depth is hardly ever reached.
RIDGE = 1e-3
ROWS_AT_ONCE = 4096


def fit_marginal_rule(workshop: Workshop, rate: float) -> MarginalRule:
    """Fit on the training traces; the rate begins at `rate` (tokens a second) and becomes the rule's own."""
    world, settings = workshop.training, workshop.settings
    rule = MarginalRule(
        world.traces.beam,
        world.max_depth,
        settings.sizes,
        settings.first_decision,
        settings.interval,
        calibrate(world.traces),
        cycle_seconds(workshop),
        np.zeros((world.max_depth, 1 + world.traces.beam)),
        rate,
        workshop.trained_on,
    )
    growths = grow(world, rule.calibration, settings.sizes)
    for _ in range(ROUNDS):
        rule = replace(rule, forecast=fit_forecast(rule, growths, world.context_length))
        attained = decide(rule, growths, world.context_length).replay(world).throughput
        still = abs(attained / rule.rate - 1) < STILL
        rule = replace(rule, rate=attained)
        if still:
            break
    return replace(rule, forecast=fit_forecast(rule, growths, world.context_length))


def cycle_seconds(workshop: Workshop) -> NDArray:
    """Seconds of a cycle [1 + D, C, A], decisions included, up to the longest context of the traces."""
    world, settings = workshop.training, workshop.settings
    depth = np.arange(world.max_depth + 1)[:, None, None]
    context = np.arange(len(world.latency.autoregressive))[:, None]
    asked = np.arange(settings.first_decision, world.max_depth, settings.interval)
    decisions = np.minimum(np.searchsorted(asked, depth) + 1, len(asked))
    sizes = np.asarray(settings.sizes)
    return world.latency.cycle_seconds(depth, sizes, context, PREFIX_ROWS, decisions, depth > 0)


# Expected tokens [N, A] and beam chances [N, W] at every depth from 0 to D.
Growths = list[tuple[NDArray, NDArray]]


def grow(world: ReplayWorld, calibration: Calibration, sizes: tuple[int, ...]) -> Growths:
    """What `Growth` shows of every position's tree, depth by depth."""
    traces = world.traces
    parts: list[Growths] = []
    for first in range(0, len(traces), ROWS_AT_ONCE):
        scores = traces.scores[first : first + ROWS_AT_ONCE]
        growth = Growth(len(scores), calibration, traces.beam, sizes)
        part = []
        for depth in range(traces.max_depth + 1):
            growth.extend(scores, depth)
            part.append((growth.expected(), growth.beam_chances))
        parts.append(part)
    by_depth = zip(*parts, strict=True)
    return [tuple(map(np.concatenate, zip(*pieces, strict=True))) for pieces in by_depth]


def fit_forecast(rule: MarginalRule, growths: Growths, context: NDArray) -> NDArray:
    """Least squares of what the next level gains on the chances of the newest one, [D, 1 + W]."""
    best = [rule.stop_values(d, expected, context).max(axis=1) for d, (expected, _) in enumerate(growths)]
    forecast = np.zeros((rule.max_depth, 1 + rule.beam))
    for depth in range(rule.max_depth):
        seen = np.concatenate([np.ones((len(context), 1)), growths[depth][1]], axis=1)
        gain = best[depth + 1] - best[depth]
        squares = seen.T @ seen / len(seen) + RIDGE * np.eye(seen.shape[1])
        forecast[depth] = np.linalg.solve(squares, seen.T @ gain / len(seen))
    return forecast


def decide(rule: MarginalRule, growths: Growths, context: NDArray) -> Decisions:
    """All decisions of the rule at the positions of the growths."""
    sizes = np.asarray(rule.sizes)
    asked = np.array([rule.asked(depth) for depth in range(rule.max_depth + 1)])
    go_on = np.ones((len(context), rule.max_depth + 1), dtype=bool)
    chosen = np.zeros(go_on.shape, dtype=np.int64)
    for depth, (expected, beam_chances) in enumerate(growths):
        if depth < rule.max_depth and asked[depth]:
            go_on[:, depth] = rule.goes_on(depth, beam_chances)
        chosen[:, depth] = sizes[rule.stop_values(depth, expected, context).argmax(axis=1)]
    return Decisions(go_on, chosen, asked)
