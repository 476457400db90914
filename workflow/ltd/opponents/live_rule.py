"""The marginal rule's decisions about the draft in progress, compiled: one by one, or as part of drafting a
tree; for drafts on a CPU.

The same numbers as those of `ltd.opponents.marginal_rule`, in the same order of summation.
"""

from typing import Any, NamedTuple

import numpy as np

from ltd.engine.compiled.arithmetic import AS_WRITTEN, kernel
from ltd.engine.compiled.draft_loop import CompiledDecisions, make_draft_kernel
from ltd.engine.compiled.tree import best_nodes, pool_size
from ltd.opponents.marginal_rule import MarginalRule


class RuleTree(NamedTuple):
    """The rule as the kernel takes it: asked [D] says at which depths it decides, expected [A] is working
    space; the others are as below.
    """

    asked: np.ndarray
    prior: np.ndarray
    forecast: np.ndarray
    cost: np.ndarray
    beam: int
    sizes: np.ndarray
    knots: np.ndarray
    chances: np.ndarray
    expected: np.ndarray


class LiveRule:
    """Decides by the tree alone: nothing is kept from one decision to the next."""

    def __init__(self, rule: MarginalRule) -> None:
        calibration = rule.calibration
        sizes = np.array(rule.sizes, np.int64)
        self._shape = rule.beam, sizes, calibration.knots, calibration.chances, np.zeros(len(sizes))
        self._rule = rule
        self._forecast, self._cost, self._prior = rule.forecast, rule.cost, rule.root_prior.values

    def goes_on(self, state: Any) -> bool:
        """Whether drafting on is expected to pay."""
        after_root = self._prior[min(state.root, len(self._prior) - 1)]
        return _goes_on(state.score_array, state.depth, after_root, self._forecast, *self._shape)

    def best_size(self, state: Any) -> int:
        """Index of the size that is expected to pay best."""
        return _best_size(state.score_array, state.depth, state.context_length, self._cost, *self._shape)

    def clear(self) -> None:
        """Nothing to forget."""

    def for_tree(self) -> CompiledDecisions:
        """All decisions of a tree."""
        rule = self._rule
        asked = np.array([rule.asked(depth) for depth in range(rule.max_depth)])
        tree = RuleTree(asked, self._prior, self._forecast, self._cost, *self._shape)
        return CompiledDecisions(_rule_tree, tree, tuple(rule.sizes))


@kernel(arithmetic=AS_WRITTEN)
def _goes_on(scores, depth, after_root, forecast, beam, sizes, knots, chances, expected):
    """forecast [D, F] weighs, in this order: one, what is known of the root, the beam's chances, their
    squares, the expected tokens.
    """
    _expect(scores, depth, beam, sizes, knots, chances, expected)
    weights = forecast[depth]
    gain = weights[0] + after_root * weights[1]
    if depth > 0:
        level = scores[pool_size(beam, depth - 1) : pool_size(beam, depth)]
        best = np.empty(beam, np.int64)
        best_nodes(level, best)
        for rank in range(beam):
            chance = _chance(level[best[rank]], knots, chances[depth - 1, min(rank, chances.shape[1] - 1)])
            gain += chance * weights[2 + rank] + chance * chance * weights[2 + beam + rank]
    for i in range(len(sizes)):
        gain += expected[i] * weights[2 + 2 * beam + i]
    return gain > 0


@kernel(arithmetic=AS_WRITTEN)
def _best_size(scores, depth, context_length, cost, beam, sizes, knots, chances, expected):
    """cost [1 + D, C, A] in tokens."""
    _expect(scores, depth, beam, sizes, knots, chances, expected)
    costs = cost[depth, min(context_length, cost.shape[1] - 1)]
    best = 0
    for i in range(1, len(sizes)):
        if 1 + expected[i] - costs[i] > 1 + expected[best] - costs[best]:
            best = i
    return best


@kernel(arithmetic=AS_WRITTEN)
def _expect(scores, depth, beam, sizes, knots, chances, expected):
    """Expected accepted tokens [A] of every size: the sum of the chances of so many best nodes.

    scores [pool]; knots [B] and chances [D, places, B] as of `Calibration`.
    """
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
            total += _chance(drafted[node], knots, chances[level, min(met[level], chances.shape[1] - 1)])
            met[level] += 1
            place += 1
        expected[i] = total


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
    if not rule.asked[draft.depth]:
        return True
    after_root = rule.prior[min(draft.root, len(rule.prior) - 1)]
    return _goes_on(
        draft.scores, draft.depth, after_root, rule.forecast, rule.beam, rule.sizes, rule.knots, rule.chances,
        rule.expected,
    )  # fmt: skip


@kernel(arithmetic=AS_WRITTEN)
def _choose_size(rule, draft):
    return _best_size(
        draft.scores, draft.depth, draft.context_length, rule.cost, rule.beam, rule.sizes, rule.knots,
        rule.chances, rule.expected,
    )  # fmt: skip


_draft_by_rule = make_draft_kernel(_drafts_on, _choose_size)


@kernel
def _rule_tree(rule, deepest, seconds, prefix, head, pool):
    return _draft_by_rule(rule, deepest, seconds, prefix, head, pool)
