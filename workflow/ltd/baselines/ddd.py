"""Dynamic Depth Decoding (arXiv 2409.00142): go deeper while the beam still holds probability.

Decides the depth. The signal is the logarithm of the probability that the W nodes of the newest beam hold
together, log sum exp of their cumulative log-probabilities; drafting stops where it falls below a
threshold. The rule was made for trees, so nothing had to be carried over. It looks at a few checkpoints
only, since every look costs a synchronisation: in the papers after 5, 7 and 9 passes, threshold -0.3. On
a machine where shallow trees are best such checkpoints would never be reached, so the search also chooses
the first checkpoint and the distance between them.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ltd import devices
from ltd.baselines.threshold import ThresholdRule
from ltd.engine.tree import pool_size
from ltd.replay.traces import Traces


def beam_mass(scores: np.ndarray, beam: int) -> np.ndarray:
    """Return the log of the probability of the best `beam` nodes, [B], from a level's scores [B, nodes]."""
    best = np.partition(scores, -beam, axis=1)[:, -beam:]
    largest = best.max(axis=1)
    return largest + np.log(np.exp(best - largest[:, None]).sum(axis=1))


class BeamMass:
    """The signal: how much probability is left on the beam."""

    def live(self, state: Any) -> float:
        """Of the newest level."""
        level = slice(pool_size(state.beam, state.depth - 1), state.pool)
        scores = state.score_array[level]
        if devices.has_numba():
            from ltd.engine.compiled import signals

            return float(signals.beam_mass(scores, state.beam))
        return float(beam_mass(scores[None], state.beam)[0])

    def for_tree(self) -> tuple[Callable, Any]:
        """The kernel that drafts by this signal, and its details."""
        from ltd.baselines.live_decisions import mass_tree

        return mass_tree, ()

    def recorded(self, traces: Traces) -> np.ndarray:
        """Of every level."""
        ends = [pool_size(traces.beam, depth) for depth in range(traces.max_depth + 1)]
        levels = [traces.scores[:, ends[d] : ends[d + 1]] for d in range(traces.max_depth)]
        return np.stack([beam_mass(level, traces.beam) for level in levels], axis=1).astype(np.float64)


RULE = ThresholdRule(
    "ddd",
    signal=lambda network: BeamMass(),
    published_threshold=-0.3,
    published_checkpoints=(5, 7, 9),
    first_checkpoints=(1, 2, 3),
    intervals=(1, 2),
)
