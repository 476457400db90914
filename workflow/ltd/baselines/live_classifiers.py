"""What the classifiers say of the draft in progress, each as one compiled call; for drafts on a CPU.

Inputs and results are those of `disco`, `c2t` and `specdecpp`, where the same is written for many recorded
drafts at once, and for drafts on a GPU.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltd.baselines.classifier import DEPTH_UNIT
from ltd.engine.compiled.arithmetic import exponential, kernel
from ltd.engine.compiled.network import perceptron
from ltd.engine.compiled.tree import best_nodes, pool_size
from ltd.rl.policies import PolicyNetwork


class LevelAcceptance:
    """Predicted probability that the newest level is accepted (`disco`)."""

    def __init__(self, network: PolicyNetwork) -> None:
        self._network = network.for_kernel()

    def __call__(self, state: Any) -> float:
        return _level_acceptance(
            state.score_array, state.entropy(), state.depth, state.beam, DEPTH_UNIT, *self._network
        )


class ConfidentNodes:
    """How many of the best `max_size` nodes have a confidence above `least`, at least 1 (`c2t`)."""

    def __init__(self, network: PolicyNetwork, least: float, max_size: int) -> None:
        self._least, self._max_size, self._network = least, max_size, network.for_kernel()

    def __call__(self, state: Any) -> int:
        return _confident_nodes(
            state.score_array,
            state.depth,
            state.beam,
            DEPTH_UNIT,
            self._least,
            self._max_size,
            *self._network,
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
def _level_acceptance(scores, entropy, depth, beam, depth_unit, weights, biases, values):
    """scores [pool]; the last three are as in `perceptron`."""
    level = scores[pool_size(beam, depth - 1) : pool_size(beam, depth)]
    best, inputs = np.empty(beam, np.int64), values[0]
    best_nodes(level, best)
    for rank in range(beam):
        inputs[rank] = level[best[rank]]
    inputs[beam], inputs[beam + 1] = entropy, depth / depth_unit
    return _sigmoid(perceptron(weights, biases, values)[0])


@kernel
def _confident_nodes(scores, depth, beam, depth_unit, least, max_size, weights, biases, values):
    """scores [pool]; the last three are as in `perceptron`."""
    drafted = scores[: pool_size(beam, depth)]
    best, kept = np.empty(min(max_size, len(drafted)), np.int64), 0
    best_nodes(drafted, best)
    for node in best:
        level = 1 if node < beam else (node - beam) // (beam * beam) + 2
        values[0, 0], values[0, 1] = drafted[node], level / depth_unit
        kept += _sigmoid(perceptron(weights, biases, values)[0]) > least
    return max(kept, 1)


@kernel
def _state_acceptance(feature, gate, bias, skip, output, last):
    """Both products of a unit in one loop: every weight is read once, and nothing is written in between."""
    logit = np.float32(last)
    for unit in range(len(bias)):
        gated, skipped = bias[unit], np.float32(0)
        for i in range(len(feature)):
            gated += gate[unit, i] * feature[i]
            skipped += skip[unit, i] * feature[i]
        # SiLU of the one and the other as it is.
        logit += output[unit] * (gated / (np.float32(1) + exponential(-gated)) + skipped)
    return _sigmoid(logit)
