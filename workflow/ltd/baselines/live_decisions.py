"""What the baselines' rules say of the draft in progress, compiled: one by one, or while a tree is drafted.

Inputs and results are those of `disco`, `c2t`, `specdecpp`, `svip` and `ddd`, where the same is written for
many recorded drafts at once, and for drafts on a GPU. All of it stands in one file because machine code that
is kept goes out of date with its own file alone.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ltd.baselines.classifier import DEPTH_UNIT
from ltd.engine.compiled.arithmetic import exponential, kernel
from ltd.engine.compiled.bundle import bundle
from ltd.engine.compiled.draft_loop import CompiledDecisions, make_draft_kernel, only_size
from ltd.engine.compiled.network import KernelNetwork, for_kernel, perceptron
from ltd.engine.compiled.signals import beam_mass, entropy
from ltd.engine.compiled.tree import best_nodes, pool_size
from ltd.rl.policies import PolicyNetwork


class LevelAcceptance:
    """Predicted probability that the newest level is accepted (`disco`)."""

    def __init__(self, network: PolicyNetwork) -> None:
        self._network = for_kernel(network.layers)

    def __call__(self, state: Any) -> float:
        return _level_acceptance(
            state.score_array, state.entropy(), state.depth, state.beam, DEPTH_UNIT, self._network
        )


class ConfidentNodes:
    """How many of the best `max_size` nodes have a confidence above `least`, at least 1 (`c2t`)."""

    def __init__(self, network: PolicyNetwork, least: float, max_size: int) -> None:
        self._least, self._max_size, self._network = least, max_size, for_kernel(network.layers)

    def __call__(self, state: Any) -> int:
        return _confident_nodes(
            state.score_array,
            state.depth,
            state.beam,
            DEPTH_UNIT,
            self._least,
            self._max_size,
            self._network,
        )


class StateAcceptance:
    """Predicted probability that the newest level is accepted, by the draft's hidden state (`specdecpp`)."""

    def __init__(self, gate: NDArray, bias: NDArray, skip: NDArray, output: NDArray, last: float) -> None:
        """gate and skip float32 [units, H], bias and output [units], last the logit's bias."""
        self._weights = gate, bias, skip, output, last

    def __call__(self, state: Any) -> float:
        return _state_acceptance(state.feature.float().numpy(), *self._weights)


@kernel
def _sigmoid(logit):
    """Probability in float64."""
    return 1.0 / (1.0 + np.exp(-np.float64(logit)))


@kernel
def _level_acceptance(scores, entropy, depth, beam, depth_unit, network):
    """Of the newest level of scores [pool]."""
    level = scores[pool_size(beam, depth - 1) : pool_size(beam, depth)]
    best, inputs = np.empty(beam, np.int64), network.values[0]
    best_nodes(level, best)
    for rank in range(beam):
        inputs[rank] = level[best[rank]]
    inputs[beam], inputs[beam + 1] = entropy, depth / depth_unit
    return _sigmoid(perceptron(network)[0])


@kernel
def _confident_nodes(scores, depth, beam, depth_unit, least, max_size, network):
    """How many of the best nodes of scores [pool] to keep."""
    drafted, inputs = scores[: pool_size(beam, depth)], network.values[0]
    best, kept = np.empty(min(max_size, len(drafted)), np.int64), 0
    best_nodes(drafted, best)
    for node in best:
        level = 1 if node < beam else (node - beam) // (beam * beam) + 2
        inputs[0], inputs[1] = drafted[node], level / depth_unit
        kept += _sigmoid(perceptron(network)[0]) > least
    return max(kept, 1)


@kernel
def _state_acceptance(feature, gate, bias, skip, output, last):
    """Of the level that a hidden state [H] belongs to.

    Both products of a unit are in one loop: every weight is read once, and nothing is written in between.
    """
    logit = np.float32(last)
    for unit in range(len(bias)):
        gated, skipped = bias[unit], np.float32(0)
        for i in range(len(feature)):
            gated += gate[unit, i] * feature[i]
            skipped += skip[unit, i] * feature[i]
        # SiLU of the one and the other as it is.
        logit += output[unit] * (gated / (np.float32(1) + exponential(-gated)) + skipped)
    return _sigmoid(logit)


class Threshold(NamedTuple):
    """When drafting stops: no tree is deeper than the length of `asked`, which says after which depths a
    signal is looked at; `details` are what the signal needs besides the draft.
    """

    asked: NDArray
    least: float
    details: Any


class Pruning(NamedTuple):
    """How deep to draft, and the classifier that decides how many nodes are kept."""

    depth: int
    depth_unit: float
    least: float
    max_size: int
    network: KernelNetwork


def threshold_decisions(
    tree: Callable, details: Any, asked: frozenset[int], max_depth: int, least: float, size: int
) -> CompiledDecisions:
    """Those of a rule with one of the trees below; `asked` are the depths at which it looks."""
    places = np.array([depth in asked for depth in range(max_depth)])
    return CompiledDecisions(tree, bundle(Threshold(places, least, details)), (size,))


def pruning_decisions(depth: int, least: float, max_size: int, network: PolicyNetwork) -> CompiledDecisions:
    """Those of `c2t`."""
    rule = Pruning(depth, float(DEPTH_UNIT), least, max_size, for_kernel(network.layers))
    return CompiledDecisions(_pruned_tree, bundle(rule), tuple(range(1, max_size + 1)))


def make_threshold_kernel(signal: Callable) -> Callable:
    """Kernel that drafts until `signal(details, draft)` falls below a threshold."""

    @kernel(kept=False)
    def goes_on(rule, draft):
        if draft.depth >= len(rule.asked):
            return False
        return not rule.asked[draft.depth] or signal(rule.details, draft) >= rule.least

    return make_draft_kernel(goes_on, only_size)


@kernel
def _mass_signal(details, draft):
    level = draft.scores[pool_size(draft.beam, draft.depth - 1) : pool_size(draft.beam, draft.depth)]
    return beam_mass(level, draft.beam)


@kernel
def _bound_signal(factor, draft):
    return 1.0 - np.sqrt(factor * entropy(draft.logits))


@kernel
def _level_signal(details, draft):
    depth_unit, network = details
    seen = entropy(draft.logits)
    return _level_acceptance(draft.scores, seen, draft.depth, draft.beam, depth_unit, network)


@kernel
def _state_signal(details, draft):
    product, first_judged, (gate, bias, skip, output, last) = details
    if draft.depth < first_judged:
        return 1.0
    before = product[0] if draft.depth > first_judged else 1.0
    product[0] = before * _state_acceptance(draft.feature, gate, bias, skip, output, last)
    return product[0]


_by_mass, _by_bound = make_threshold_kernel(_mass_signal), make_threshold_kernel(_bound_signal)
_by_level, _by_state = make_threshold_kernel(_level_signal), make_threshold_kernel(_state_signal)


@kernel
def mass_tree(decisions, deepest, seconds, drafter, length, rows):
    """`ddd`; details are not looked at."""
    return _by_mass(decisions, deepest, seconds, drafter, length, rows)


@kernel
def bound_tree(decisions, deepest, seconds, drafter, length, rows):
    """`svip`; details: the factor of the entropy."""
    return _by_bound(decisions, deepest, seconds, drafter, length, rows)


@kernel
def level_tree(decisions, deepest, seconds, drafter, length, rows):
    """`disco`; details: the unit of the depth, the network."""
    return _by_level(decisions, deepest, seconds, drafter, length, rows)


@kernel
def state_tree(decisions, deepest, seconds, drafter, length, rows):
    """`specdecpp`; details: what the levels before said [1], the first level that is judged, the weights as
    in `StateAcceptance`.
    """
    return _by_state(decisions, deepest, seconds, drafter, length, rows)


@kernel
def _up_to_depth(rule, draft):
    return draft.depth < rule.depth


@kernel
def _count_confident(rule, draft):
    judged = rule.depth_unit, rule.least, rule.max_size, rule.network
    return _confident_nodes(draft.scores, draft.depth, draft.beam, *judged) - 1


_draft_and_prune = make_draft_kernel(_up_to_depth, _count_confident)


@kernel
def _pruned_tree(decisions, deepest, seconds, drafter, length, rows):
    return _draft_and_prune(decisions, deepest, seconds, drafter, length, rows)
