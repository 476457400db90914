"""A small policy's decision about the draft in progress as one compiled call.

The observation is that of `ltd.rl.observations`, for one draft; it and the network together take a few
microseconds, where numpy needs a dozen calls. Drafts on a GPU go that other way.
"""

from typing import Any

import numpy as np

from ltd.engine.compiled.arithmetic import exponential, kernel
from ltd.engine.compiled.network import perceptron
from ltd.engine.compiled.tree import best_nodes, pool_size
from ltd.rl.observations import ObservationSpec
from ltd.rl.policies import Policy

# Numbers of the parts in the kernel.
NODES, LEVEL, MASS, LEVELS, DEPTH, ONE_HOT_DEPTH, LENGTH, ENTROPY, ROOT = range(9)
PARTS = ("nodes", "level", "mass", "levels", "depth", "one_hot_depth", "length", "entropy", "root")


class LiveDecision:
    """Index of a policy's best action for a `ltd.engine.controllers.DraftState` on a CPU."""

    def __init__(self, policy: Policy) -> None:
        self._observation = LiveObservation(policy.spec)
        self._network = policy.network.for_kernel()

    def __call__(self, state: Any) -> int:
        observation = self._observation
        return _decide(
            state.score_array,
            state.depth,
            state.context_length,
            observation.entropy(state),
            state.root,
            *observation.shape,
            *self._network,
        )


class LiveObservation:
    """What the kernel needs to know of an `ObservationSpec`."""

    def __init__(self, spec: ObservationSpec) -> None:
        kinds = np.array([PARTS.index(part) for part in spec.parts], np.int64)
        sizes, prior = np.array(spec.sizes, np.int64), spec.root_prior
        table = np.zeros(1, np.float32) if prior is None else prior.values
        self.shape = (kinds, spec.beam, spec.max_depth, spec.top, sizes, table)
        self._observes_entropy = "entropy" in spec.parts

    def entropy(self, state: Any) -> float:
        """Entropy of the newest level where the policy looks at it, else 0."""
        return state.entropy() if self._observes_entropy and state.depth else 0.0


@kernel
def observe(scores, depth, context_length, entropy, root, kinds, beam, max_depth, top, sizes, prior, out):
    """Write the observation of one draft, scores [pool], into out [>= width]; returns the width.

    prior [K]: what `ltd.rl.root_prior` holds.
    """
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
        else:
            if kind == DEPTH:
                out[start] = np.float32(depth / 10)
            elif kind == LENGTH:
                out[start] = np.float32(context_length / 1000)
            elif kind == ROOT:
                out[start] = prior[min(root, len(prior) - 1)]
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
def _decide(
    scores, depth, context_length, entropy, root, kinds, beam, max_depth, top, sizes, prior, weights, biases,
    values,
):  # fmt: skip
    """Observe, pass through the network and take the best action; the last three are as in `perceptron`."""
    observe(
        scores, depth, context_length, entropy, root, kinds, beam, max_depth, top, sizes, prior, values[0]
    )  # fmt: skip
    logits = perceptron(weights, biases, values)
    best = 0
    for action in range(1, len(biases[-1])):
        if logits[action] > logits[best]:
            best = action
    return best
