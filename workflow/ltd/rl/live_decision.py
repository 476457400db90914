"""Small policies' decisions about the draft in progress, compiled: one by one, or as part of drafting a tree.

The observation is that of `ltd.rl.observations`, for one draft; it and the network together take a few
microseconds, where numpy needs a dozen calls. Scores of a draft on a GPU are copied to the host for it.
"""

from typing import Any, NamedTuple

import numpy as np

from ltd.engine.compiled import signals
from ltd.engine.compiled.arithmetic import exponential, kernel
from ltd.engine.compiled.bundle import bundle
from ltd.engine.compiled.draft_loop import CompiledDecisions, make_draft_kernel, static_decisions
from ltd.engine.compiled.network import KernelNetwork, for_kernel, perceptron
from ltd.engine.compiled.tree import best_nodes, pool_size
from ltd.rl import COMPILED_PARTS
from ltd.rl.live_suffix import suffix_number
from ltd.rl.observations import ObservationSpec
from ltd.rl.policies import CONTINUE, Policy

# Numbers of the parts in the kernel: places in COMPILED_PARTS.
NODES, LEVEL, MASS, LEVELS, DEPTH, ONE_HOT_DEPTH, LENGTH, ENTROPY, SUFFIX = range(9)
# What a policy is shown that does not look at the draft.
NO_SCORES = np.empty(0, np.float32)
# A `SuffixPrior` of nothing, for what does not observe it.
NO_EDGES, NOTHING_KNOWN = np.empty(0, np.int64), np.zeros((1, 1), np.float32)


class LiveObservation(NamedTuple):
    """What the kernel needs to know of an `ObservationSpec`; kinds: numbers of its parts; edges [K] and
    known [K + 1, C]: the arrays of its `SuffixPrior`.
    """

    kinds: np.ndarray
    beam: int
    max_depth: int
    top: int
    sizes: np.ndarray
    edges: np.ndarray
    known: np.ndarray


class LivePolicy(NamedTuple):
    """A policy as the kernel takes it."""

    observation: LiveObservation
    network: KernelNetwork


class PolicyPair(NamedTuple):
    """What a cycle is decided by: no tree is deeper than `limit`; asked [limit] says where the depth policy
    decides, whose action `go_on` drafts another level; without `chooses_size` all trees are of one size.
    """

    limit: int
    go_on: int
    asked: np.ndarray
    depth: LivePolicy
    chooses_size: bool
    size: LivePolicy


class LiveDecision:
    """Index of a policy's best action for a `ltd.engine.controllers.DraftState`."""

    def __init__(self, policy: Policy) -> None:
        self._policy = live_policy(policy)
        self._observes_entropy = "entropy" in policy.spec.parts
        self._blind = policy.spec.blind

    def __call__(self, state: Any) -> int:
        seen = np.float32(state.entropy() if self._observes_entropy and state.depth else 0)
        scores = NO_SCORES if self._blind else state.score_array  # looking waits for a GPU
        return _best_action(self._policy, scores, state.depth, state.context_length, seen, state.recent)


def live_observation(spec: ObservationSpec) -> LiveObservation:
    """An observation as the kernel takes it."""
    kinds = np.array([COMPILED_PARTS.index(part) for part in spec.parts], np.int64)
    prior, sizes = spec.suffix_prior, np.array(spec.sizes, np.int64)
    arrays = (NO_EDGES, NOTHING_KNOWN) if prior is None else (prior.edges, prior.values)
    return LiveObservation(kinds, spec.beam, spec.max_depth, spec.top, sizes, *arrays)


def live_policy(policy: Policy) -> LivePolicy:
    """A policy as the kernel takes it."""
    return LivePolicy(live_observation(policy.spec), for_kernel(policy.network.layers))


def pair_decisions(depth: Policy | int, size: Policy | int) -> CompiledDecisions:
    """How a pair of policies, of which either may be a constant, drafts a whole tree."""
    policies = [live_policy(policy) for policy in (depth, size) if isinstance(policy, Policy)]
    if not policies:
        return static_decisions(depth, size)
    if isinstance(depth, Policy):
        limit = depth.spec.max_depth
        asked = np.array([bool(depth.asked(level)) for level in range(limit)])
    else:
        limit, asked = depth, np.zeros(depth, bool)
    chooses_size = isinstance(size, Policy)
    # A constant's place is taken by the other's policy, which is not asked there.
    pair = PolicyPair(limit, CONTINUE, asked, policies[0], chooses_size, policies[-1])
    return CompiledDecisions(_policy_tree, bundle(pair), size.actions if chooses_size else (size,))


@kernel
def observe(observation, scores, depth, context_length, entropy, recent, out):
    """Write the observation of one draft, scores [pool], into out [>= width]; returns the width."""
    kinds, beam, max_depth, top, sizes, edges, known = observation
    start = 0
    for kind in kinds:
        if kind == NODES:
            start += _write_nodes(scores, 0, pool_size(beam, depth), pool_size(beam, max_depth), out[start:])
        elif kind == LEVEL:
            first = pool_size(beam, max(depth - 1, 0))
            start += _write_nodes(scores, first, pool_size(beam, depth), beam * beam, out[start:])
        elif kind == MASS:
            start += _write_mass(scores[: pool_size(beam, depth)], sizes, out[start:])
        elif kind == LEVELS:
            start += _write_levels(scores, depth, beam, max_depth, top, out[start:])
        elif kind == ONE_HOT_DEPTH:
            for level in range(max_depth + 1):
                out[start + level] = np.float32(level == depth)
            start += max_depth + 1
        elif kind == SUFFIX:
            means = known[suffix_number(edges, recent)]
            for i in range(len(means)):
                out[start + i] = means[i]
            start += len(means)
        else:
            if kind == DEPTH:
                out[start] = np.float32(depth / 10)
            elif kind == LENGTH:
                out[start] = np.float32(context_length / 1000)
            else:
                out[start] = np.float32(entropy) * np.float32(0.25)
            start += 1
    return start


@kernel
def _write_nodes(scores, first, last, width, out):
    for i in range(width):
        out[i] = scores[first + i] if first + i < last else np.float32(0)
    return width


@kernel
def _write_mass(scores, sizes, out):
    """A quarter of the sum of the V largest probabilities for every size V."""
    best = np.empty(min(len(scores), sizes[-1]), np.int64)
    best_nodes(scores, best)
    total, place = np.float32(0), 0
    for i in range(len(sizes)):
        while place < min(len(best), sizes[i]):
            total += exponential(scores[best[place]])
            place += 1
        out[i] = total * np.float32(0.25)
    return len(sizes)


@kernel
def _write_levels(scores, depth, beam, max_depth, top, out):
    """Probabilities of the best nodes of each level, largest first; 0 where there are none."""
    best = np.empty(top, np.int64)
    for level in range(max_depth):
        count = 0
        if level < depth:
            drafted = scores[pool_size(beam, level) : pool_size(beam, level + 1)]
            count = min(top, len(drafted))
            best_nodes(drafted, best[:count])
            for rank in range(count):
                out[level * top + rank] = exponential(drafted[best[rank]])
        for rank in range(count, top):
            out[level * top + rank] = np.float32(0)
    return max_depth * top


@kernel
def _best_action(policy, scores, depth, context_length, entropy, recent):
    """Observe, pass through the network and take the best action."""
    network = policy.network
    observe(policy.observation, scores, depth, context_length, entropy, recent, network.values[0])
    logits = perceptron(network)
    best = 0
    for action in range(1, network.widths[-1]):
        if logits[action] > logits[best]:
            best = action
    return best


@kernel
def _action_for(policy, draft):
    """The best action for a `ltd.engine.compiled.draft_loop.Draft`."""
    seen = np.float32(0)
    for kind in policy.observation.kinds:
        if kind == ENTROPY and draft.depth > 0:
            seen = signals.entropy(draft.logits)
    return _best_action(policy, draft.scores, draft.depth, draft.context_length, seen, draft.recent)


@kernel
def _goes_on(pair, draft):
    if draft.depth >= pair.limit:
        return False
    return not pair.asked[draft.depth] or _action_for(pair.depth, draft) == pair.go_on


@kernel
def _choose_size(pair, draft):
    return _action_for(pair.size, draft) if pair.chooses_size else 0


_draft_by_policies = make_draft_kernel(_goes_on, _choose_size)


@kernel
def _policy_tree(decisions, deepest, seconds, drafter, length, rows):
    return _draft_by_policies(decisions, deepest, seconds, drafter, length, rows)
