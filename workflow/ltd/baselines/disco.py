"""DISCO (arXiv 2405.04304): a small network tells whether the newest draft token will be accepted.

Decides the depth. Original: after every token of a chain a network of one hidden layer sees the draft's
top probabilities, its entropy and the position, and drafting stops where the predicted acceptance is
below a threshold. Here, as in the paper's comparison: the W best cumulative log-probabilities of the
newest level (descending), the entropy at its best parent, and the depth; 128 hidden units, 50 epochs,
threshold 0.5.

On trees a level counts as accepted when the accepted path reaches it inside the verified tree: what a
chain's "this token is accepted" means there. How much is verified decides what can be accepted, so the
fitted variant learns from trees of the best static size, the published one from trees of `published_size`
nodes: 60 in the papers, 38 in the default, all that a beam of 2 has at depth 10.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ltd import devices
from ltd.baselines.classifier import (
    DEPTH_UNIT,
    exported,
    known,
    perceptron,
    reached,
    sigmoid,
    train_network,
)
from ltd.baselines.svip import recorded_entropy
from ltd.baselines.threshold import ThresholdRule
from ltd.baselines.variants import FitData
from ltd.engine.tree import pool_size
from ltd.replay.traces import Traces
from ltd.rl.policies import PolicyNetwork


def level_inputs(scores: np.ndarray, entropy: np.ndarray, depth: int, beam: int) -> np.ndarray:
    """Inputs [B, W + 2] float32: a level's scores [B, nodes], the entropies [B] and the depth."""
    inputs = np.empty((len(scores), beam + 2), dtype=np.float32)
    inputs[:, :beam] = np.sort(scores, axis=1)[:, : -beam - 1 : -1]
    inputs[:, beam], inputs[:, beam + 1] = entropy, depth / DEPTH_UNIT
    return inputs


def recorded_inputs(traces: Traces) -> np.ndarray:
    """Inputs of every position and level, float32 [N, D, W + 2]."""
    entropy = recorded_entropy(traces, "disco")
    ends = [pool_size(traces.beam, depth) for depth in range(traces.max_depth + 1)]
    levels = [
        level_inputs(traces.scores[:, ends[d] : ends[d + 1]], entropy[:, d], d + 1, traces.beam)
        for d in range(traces.max_depth)
    ]
    return np.stack(levels, axis=1)


class PredictedAcceptance:
    """The signal: the predicted probability that the newest level is accepted."""

    def __init__(self, network: PolicyNetwork) -> None:
        self.network, self._compiled = network, None
        if devices.has_numba():
            from ltd.baselines.live_decisions import LevelAcceptance

            self._compiled = LevelAcceptance(network)

    def live(self, state: Any) -> float:
        """Of the newest level."""
        if self._compiled:
            return self._compiled(state)
        level = state.score_array[pool_size(state.beam, state.depth - 1) : state.pool]
        inputs = level_inputs(level[None], np.array([state.entropy()]), state.depth, state.beam)
        return float(sigmoid(self.network.logits(inputs))[0, 0])

    def for_tree(self) -> tuple[Callable, Any]:
        """The kernel that drafts by this signal, and its details."""
        from ltd.baselines.live_decisions import level_tree
        from ltd.engine.compiled.network import for_kernel

        return level_tree, (float(DEPTH_UNIT), for_kernel(self.network.layers))

    def recorded(self, traces: Traces) -> np.ndarray:
        """Of every level."""
        inputs = recorded_inputs(traces)
        logits = self.network.logits(inputs.reshape(-1, inputs.shape[-1]))
        return sigmoid(logits).reshape(inputs.shape[:2])


def train(data: FitData, size: int) -> PolicyNetwork:
    """Learn which levels are reached in trees of `size` nodes."""
    inputs, labels = recorded_inputs(data.traces), reached(data.traces, size)
    within = known(data.traces)
    rows = inputs[within]
    module = perceptron(rows.shape[1], data.training.hidden, data.training.seed)
    train_network(module, rows.__getitem__, labels[within], data.training, "disco")
    return exported(module)


RULE = ThresholdRule(
    "disco", signal=PredictedAcceptance, published_threshold=0.5, train=train, read=PolicyNetwork.load
)
