"""C2T (arXiv 2502.13652): a small classifier prunes the draft tree; as many nodes are verified as it keeps.

Decides the size. Original: a network of one hidden layer judges every node by joint probability, entropy
and depth, and nodes below a confidence are cut. The paper's comparison drops the entropy, which costs
more than it gives: cumulative log-probability and depth, 64 hidden units, 50 epochs, confidence 0.5,
trees of depth 8.

Here the engine always verifies the best nodes by score, closed under ancestors; so the classifier's count
of confident nodes among the best `max_size` is the size, at least 1. (The comparison's own code prunes at
the last expansion alone and falls back to all nodes when few survive, so that it changes next to nothing;
that would be a straw man.) The search chooses confidence, depth and largest size. Nodes below the
confidence need not be those of the lowest scores: what counts is how many stay. Confident nodes beyond the
best `max_size` do not count, as they would not be verified either; judging all 710 of a tree of beam 10 and
depth 8 would take twelve times as long as judging 60. The published variant learns from trees of its own
depth and size, as the comparison does; the fitted one, which may choose any, from the deepest and largest.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ltd import devices
from ltd.baselines import FITTED, PUBLISHED
from ltd.baselines.classifier import DEPTH_UNIT, exported, known, perceptron, sigmoid, train_network
from ltd.baselines.lanes import LaneResults, Stateless, replay_lanes
from ltd.baselines.threshold import FINE_THRESHOLDS, between, neighbours, quantiles
from ltd.baselines.variants import BaselineController, FitData, Variant, level_of_nodes
from ltd.engine.tree import pool_size
from ltd.replay.traces import Traces
from ltd.rl.policies import PolicyNetwork
from ltd.rl.replay_walk import ReplayWorld

if TYPE_CHECKING:  # a GPU needs no Numba
    from ltd.engine.compiled.draft_loop import CompiledDecisions

PUBLISHED_DEPTH, PUBLISHED_CONFIDENCE = 8, 0.5


@dataclass(frozen=True)
class PruningSettings:
    """Constants: every tree is drafted to `depth`; at most `max_size` nodes are verified."""

    confidence: float
    depth: int
    max_size: int


def best_nodes(scores: np.ndarray, levels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pool indices and inputs of the `count` best nodes, best first.

    scores float32 [B, pool], levels [pool] -> indices int64 [B, count], inputs float32 [B, count, 2]:
    cumulative log-probability and depth in tens.
    """
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    inputs = np.empty((*order.shape, 2), dtype=np.float32)
    inputs[..., 0], inputs[..., 1] = np.take_along_axis(scores, order, axis=1), levels[order] / DEPTH_UNIT
    return order, inputs


def confidences(network: PolicyNetwork, inputs: np.ndarray) -> np.ndarray:
    """Predicted probability of acceptance [...] from inputs [..., 2]."""
    logits = network.logits(inputs.reshape(-1, inputs.shape[-1]))
    return sigmoid(logits).reshape(inputs.shape[:-1])


class PruningController(BaselineController):
    """A fixed depth; the size is the number of confident nodes."""

    def __init__(self, name: str, settings: PruningSettings, network: PolicyNetwork) -> None:
        super().__init__(name, settings.depth, settings.max_size, {"size": network.weights})
        self.settings, self.network = settings, network
        self._levels, self._compiled = np.empty(0, dtype=np.int64), None
        if devices.has_numba():
            from ltd.baselines.live_decisions import ConfidentNodes

            self._compiled = ConfidentNodes(network, settings.confidence, settings.max_size)

    def compiled_decisions(self) -> "CompiledDecisions":
        """The same decision within one call."""
        return self._decisions

    @cached_property
    def _decisions(self) -> "CompiledDecisions":
        from ltd.baselines.live_decisions import pruning_decisions

        settings = self.settings
        return pruning_decisions(self.max_depth, settings.confidence, settings.max_size, self.network)

    def choose_size(self, state: Any) -> int:
        """Count what the classifier keeps."""
        if self._compiled:
            return self._compiled(state)
        scores = state.score_array[: state.pool][None]
        if len(self._levels) != state.pool:
            self._levels = level_of_nodes(state.beam, state.pool)
        _, inputs = best_nodes(scores, self._levels, self.settings.max_size)
        kept = confidences(self.network, inputs) > self.settings.confidence
        return max(int(kept.sum()), 1)


class PruningChooser(Stateless):
    """Candidates with the sizes that they lead to at every position."""

    size_decisions = 1

    def __init__(self, confidence: dict[int, np.ndarray], candidates: Sequence[PruningSettings]) -> None:
        """confidence: by depth, of the best nodes of trees of that depth, [N, nodes]."""
        rows = []
        # Candidates that differ in the largest size alone follow each other.
        for (depth, least), group in itertools.groupby(candidates, lambda c: (c.depth, c.confidence)):
            counts = (confidence[depth] > least).cumsum(axis=1, dtype=np.int16)
            last = counts.shape[1] - 1
            rows += [np.maximum(counts[:, min(c.max_size - 1, last)], 1) for c in group]
        self._sizes, self._depth = np.stack(rows), np.array([settings.depth for settings in candidates])

    def choose(
        self, lanes: np.ndarray, candidate: np.ndarray, position: np.ndarray
    ) -> tuple[np.ndarray, int, np.ndarray]:
        """Look the size up."""
        return self._depth[candidate], 0, self._sizes[candidate, position]


class C2T:
    """The baseline."""

    name = "c2t"

    def fit(self, data: FitData) -> dict[str, Variant]:
        """Train on the best nodes of trees of the depth and size in question, then search the constants."""
        deepest, published_depth = data.world.max_depth, min(PUBLISHED_DEPTH, data.world.max_depth)
        widest = max(data.sizes)
        network = self.train(data, deepest, widest)
        published_network = self.train(data, published_depth, data.published_size)
        world = data.world.with_networks({"size": network.weights})
        confidence = {
            depth: recorded_confidence(network, world.traces, depth, widest)
            for depth in range(1, deepest + 1)
        }
        # Spread over the nodes that are in question: twice as many as the best static setting verifies.
        thresholds = {
            depth: [
                max(value, 0.0) for value in quantiles(judged[:, : 2 * data.static_size], data.thresholds)
            ]
            for depth, judged in confidence.items()
        }
        candidates = (
            PruningSettings(*values)
            for depth, levels in thresholds.items()
            for values in itertools.product(levels, [depth], data.sizes)
        )
        best = self._fastest(world, confidence, candidates)
        finer = between(thresholds[best.depth], best.confidence, FINE_THRESHOLDS)
        axes = itertools.product(finer, [best.depth], neighbours(data.sizes, best.max_size))
        best = self._fastest(world, confidence, (PruningSettings(*values) for values in axes))
        published = PruningSettings(PUBLISHED_CONFIDENCE, published_depth, data.published_size)
        judged = recorded_confidence(published_network, world.traces, published_depth, data.published_size)
        return {
            FITTED: self._variant(world, confidence, best, network),
            PUBLISHED: self._variant(world, {published_depth: judged}, published, published_network),
        }

    def train(self, data: FitData, depth: int, count: int) -> PolicyNetwork:
        """Learn which of the `count` best nodes of trees of `depth` are accepted."""
        traces = data.traces
        pool = pool_size(traces.beam, depth)
        levels = level_of_nodes(traces.beam, pool)
        order, inputs = best_nodes(traces.scores[:, :pool], levels, count)
        true = np.take_along_axis(np.asarray(traces.true_node), levels[order] - 1, axis=1)
        within = np.take_along_axis(known(traces), levels[order] - 1, axis=1)
        rows, labels = inputs[within], (order == true)[within]
        module = perceptron(2, data.training.hidden, data.training.seed)
        train_network(module, rows.__getitem__, labels, data.training, self.name)
        return exported(module)

    def load_network(self, path: Path) -> PolicyNetwork:
        """Read the classifier."""
        return PolicyNetwork.load(path)

    def controller(self, variant: Variant, name: str) -> PruningController:
        """Decode with a variant."""
        return PruningController(name, PruningSettings(**variant.settings), variant.network)

    def _variant(
        self,
        world: ReplayWorld,
        confidence: dict[int, np.ndarray],
        settings: PruningSettings,
        network: PolicyNetwork,
    ) -> Variant:
        summary = self._replay(world, confidence, [settings]).summary(world, 0)
        return Variant(asdict(settings), network, summary)

    def _fastest(
        self,
        world: ReplayWorld,
        confidence: dict[int, np.ndarray],
        candidates: Iterable[PruningSettings],
    ) -> PruningSettings:
        candidates = list(candidates)
        return candidates[self._replay(world, confidence, candidates).fastest()]

    def _replay(
        self,
        world: ReplayWorld,
        confidence: dict[int, np.ndarray],
        candidates: Sequence[PruningSettings],
    ) -> LaneResults:
        return replay_lanes(world, PruningChooser(confidence, candidates), len(candidates))


def recorded_confidence(network: PolicyNetwork, traces: Traces, depth: int, count: int) -> np.ndarray:
    """Confidence of the `count` best nodes of trees of `depth`, best first, float64 [N, nodes]."""
    pool = pool_size(traces.beam, depth)
    _, inputs = best_nodes(traces.scores[:, :pool], level_of_nodes(traces.beam, pool), count)
    return confidences(network, inputs)


RULE = C2T()
