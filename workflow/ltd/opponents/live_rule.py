"""The marginal rule's decisions about the draft in progress, compiled: one by one, or as part of drafting a
tree.

Up to rounding the numbers are those of `ltd.opponents.marginal_rule`.
"""

from typing import Any, NamedTuple

import numpy as np

from ltd.engine.compiled.arithmetic import AS_WRITTEN, kernel
from ltd.engine.compiled.bundle import bundle
from ltd.engine.compiled.draft_loop import CompiledDecisions, make_draft_kernel
from ltd.engine.compiled.tree import best_nodes, pool_size
from ltd.opponents.marginal_rule import MarginalRule
from ltd.rl.live_suffix import suffix_number


class KernelRule(NamedTuple):
    """The rule as kernels take it.

    asked [D] says at which depths it decides; edges [K] and known [K + 1, C]: the arrays of its
    `SuffixPrior`; forecast [D, F] weighs, in this order: one, what is known of the suffix, the beam's
    chances, their squares, the expected tokens; cost [1 + D, C, A] in tokens; knots [B] and chances
    [D, places, B] as of `Calibration`; expected [A] is working space.
    """

    asked: np.ndarray
    edges: np.ndarray
    known: np.ndarray
    forecast: np.ndarray
    cost: np.ndarray
    beam: int
    sizes: np.ndarray
    knots: np.ndarray
    chances: np.ndarray
    expected: np.ndarray


def for_kernel(rule: MarginalRule) -> KernelRule:
    """A rule as kernels take it."""
    calibration, sizes = rule.calibration, np.array(rule.sizes, np.int64)
    return KernelRule(
        asked=np.array([rule.asked(depth) for depth in range(rule.max_depth)]),
        edges=rule.suffix_prior.edges,
        known=rule.suffix_prior.values,
        forecast=rule.forecast,
        cost=rule.cost,
        beam=rule.beam,
        sizes=sizes,
        knots=calibration.knots,
        chances=calibration.chances,
        expected=np.zeros(len(sizes)),
    )


class LiveRule:
    """Decides by the tree alone: nothing is kept from one decision to the next."""

    def __init__(self, rule: MarginalRule) -> None:
        self._rule = for_kernel(rule)

    def goes_on(self, state: Any) -> bool:
        """Whether drafting on is expected to pay."""
        return _goes_on(self._rule, state.score_array, state.depth, state.recent)

    def best_size(self, state: Any) -> int:
        """Index of the size that is expected to pay best."""
        return _best_size(self._rule, state.score_array, state.depth, state.context_length)

    def clear(self) -> None:
        """Nothing to forget."""


def tree_decisions(rule: MarginalRule) -> CompiledDecisions:
    """All decisions of a tree."""
    return CompiledDecisions(_rule_tree, bundle(for_kernel(rule)), tuple(rule.sizes))


@kernel(arithmetic=AS_WRITTEN)
def _goes_on(rule, scores, depth, recent):
    """Whether the gain that is forecast for scores [pool] at this depth is positive."""
    _expect(rule, scores, depth)
    beam, weights = rule.beam, rule.forecast[depth]
    known = rule.known[suffix_number(rule.edges, recent)]
    gain, first = weights[0], 1 + len(known)
    for i in range(len(known)):
        gain += known[i] * weights[1 + i]
    if depth > 0:
        level = scores[pool_size(beam, depth - 1) : pool_size(beam, depth)]
        chances, best = rule.chances[depth - 1], np.empty(beam, np.int64)
        best_nodes(level, best)
        for rank in range(beam):
            chance = _chance(level[best[rank]], rule.knots, chances[min(rank, len(chances) - 1)])
            gain += chance * weights[first + rank] + chance * chance * weights[first + beam + rank]
    for i in range(len(rule.sizes)):
        gain += rule.expected[i] * weights[first + 2 * beam + i]
    return gain > 0


@kernel(arithmetic=AS_WRITTEN)
def _best_size(rule, scores, depth, context_length):
    """Index of the size whose expected tokens exceed its cost by most."""
    _expect(rule, scores, depth)
    expected, costs = rule.expected, rule.cost[depth, min(context_length, rule.cost.shape[1] - 1)]
    best = 0
    for i in range(1, len(rule.sizes)):
        if 1 + expected[i] - costs[i] > 1 + expected[best] - costs[best]:
            best = i
    return best


@kernel(arithmetic=AS_WRITTEN)
def _expect(rule, scores, depth):
    """Write the expected accepted tokens of every size: the sum of the chances of so many best nodes."""
    beam, sizes, chances = rule.beam, rule.sizes, rule.chances
    drafted = scores[: pool_size(beam, depth)]
    best = np.empty(min(len(drafted), sizes[-1]), np.int64)
    best_nodes(drafted, best)
    # The best of the tree are in order within a level, too: so many of each were met before.
    met = np.zeros(depth, np.int64)
    total, place = 0.0, 0
    for i in range(len(sizes)):
        while place < min(sizes[i], len(best)):
            node = best[place]
            level = 0 if node < beam else (node - beam) // (beam * beam) + 1
            rank = min(met[level], chances.shape[1] - 1)
            total += _chance(drafted[node], rule.knots, chances[level, rank])
            met[level] += 1
            place += 1
        rule.expected[i] = total


@kernel(arithmetic=AS_WRITTEN)
def _chance(score, knots, chances):
    """Linear between the ascending knots and constant outside them, as `numpy.interp`."""
    last = len(knots) - 1
    if not score > knots[0]:
        return chances[0]
    if score >= knots[last]:
        return chances[last]
    low, high = 0, last  # knots[low] <= score < knots[high]
    while high - low > 1:
        middle = (low + high) // 2
        if knots[middle] <= score:
            low = middle
        else:
            high = middle
    slope = (chances[low + 1] - chances[low]) / (knots[low + 1] - knots[low])
    return slope * (score - knots[low]) + chances[low]


@kernel(arithmetic=AS_WRITTEN)
def _drafts_on(rule, draft):
    if draft.depth >= len(rule.asked):
        return False
    return not rule.asked[draft.depth] or _goes_on(rule, draft.scores, draft.depth, draft.recent)


@kernel(arithmetic=AS_WRITTEN)
def _choose_size(rule, draft):
    return _best_size(rule, draft.scores, draft.depth, draft.context_length)


_draft_by_rule = make_draft_kernel(_drafts_on, _choose_size)


@kernel
def _rule_tree(decisions, deepest, seconds, drafter, length, rows):
    return _draft_by_rule(decisions, deepest, seconds, drafter, length, rows)
