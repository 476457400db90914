"""Calibration of the draft: how often a node with some cumulative log-probability lies on the target's path.

A head is not calibrated: on deep levels it is too sure of itself, and where it is at a loss its best guess is
still better than it says. For every level, and for the best node of it, the second and the others apart, a
monotone map from a node's cumulative log-probability to the share of such nodes that the target accepts is
fitted to recorded trees (isotonic regression).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ltd.replay.traces import Traces, level_starts

# Bins of equal width in the square root of minus the log-probability: fine where nodes are likely.
BINS = 64
LEAST_LOG_PROBABILITY = -16.0
ROWS_AT_ONCE = 4096
# The best node of a level, the second, and all others.
PLACES = 3


@dataclass(frozen=True)
class Calibration:
    """Chance of acceptance: knots [B], ascending log-probabilities, chances [D, PLACES, B]; float64."""

    knots: NDArray
    chances: NDArray

    def of_level(self, level: int, scores: NDArray) -> NDArray:
        """Chances [N, n] of nodes of `level` (from 1) by log-probability [N, n], the best first."""
        chances = np.empty(scores.shape)
        for place, by_score in enumerate(self.chances[level - 1]):
            nodes = slice(place, place + 1 if place < PLACES - 1 else None)
            chances[:, nodes] = np.interp(scores[:, nodes], self.knots, by_score)
        return chances


def calibrate(traces: Traces) -> Calibration:
    """Fit to all nodes of the traces; levels that no continuation reaches get chances of zero."""
    starts = [*level_starts(traces.beam, traces.max_depth), traces.scores.shape[1]]
    nodes = np.zeros((traces.max_depth, PLACES, BINS))
    accepted = np.zeros_like(nodes)
    for first in range(0, len(traces), ROWS_AT_ONCE):
        rows = slice(first, first + ROWS_AT_ONCE)
        scores, true_node = traces.scores[rows], traces.true_node[rows]
        for level in range(traces.max_depth):
            # Past the end of an answer nothing is known about acceptance.
            known = traces.tokens_left[rows] > level
            drafted = -np.sort(-scores[known, starts[level] : starts[level + 1]], axis=1)
            for place in range(PLACES):
                these = drafted[:, place : place + 1 if place < PLACES - 1 else None]
                nodes[level, place] += np.bincount(_bin(these), minlength=BINS)
            found = np.flatnonzero(true_node[:, level] >= 0)
            own = scores[found, true_node[found, level]]
            better = (scores[found, starts[level] : starts[level + 1]] > own[:, None]).sum(axis=1)
            places = np.minimum(better, PLACES - 1)
            counts = np.bincount(places * BINS + _bin(own), minlength=PLACES * BINS)
            accepted[level] += counts.reshape(PLACES, BINS)
    middle = (np.arange(BINS) + 0.5) / BINS
    knots = LEAST_LOG_PROBABILITY * middle[::-1] ** 2
    chances = [
        [_monotone(*pair, knots) for pair in zip(hits[:, ::-1], count[:, ::-1], strict=True)]
        for hits, count in zip(accepted, nodes, strict=True)
    ]
    return Calibration(knots, np.array(chances))


def _bin(scores: NDArray) -> NDArray[np.int64]:
    """Bin of every score, 0 the most likely, flat."""
    share = np.sqrt(np.minimum(scores.ravel() / LEAST_LOG_PROBABILITY, 1.0))
    return np.minimum((share * BINS).astype(np.int64), BINS - 1)


def _monotone(hits: NDArray, count: NDArray, knots: NDArray) -> NDArray:
    """Isotonic shares of `hits` in `count` at the knots; empty bins lie between their neighbours."""
    filled = np.flatnonzero(count)
    if len(filled) == 0:
        return np.zeros(len(knots))
    values = isotonic(hits[filled] / count[filled], count[filled])
    return np.interp(knots, knots[filled], values)


def isotonic(values: NDArray, weights: NDArray) -> NDArray:
    """The ascending sequence nearest to `values` in weighted squares (pool adjacent violators)."""
    means: list[float] = []
    masses: list[float] = []
    lengths: list[int] = []
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        length = 1
        while means and means[-1] >= value:
            mean, mass = means.pop(), masses.pop()
            value = (value * weight + mean * mass) / (weight + mass)
            weight += mass
            length += lengths.pop()
        means.append(value)
        masses.append(weight)
        lengths.append(length)
    return np.repeat(means, lengths)
