"""SVIP (arXiv 2411.18462): go on while the draft's entropy promises acceptance.

Decides the depth. With entropy H of the draft distribution, in nats, 1 - sqrt(c H) bounds the probability
of acceptance from below; drafting stops where the bound falls under a threshold h. Papers: c = 0.15, h =
0.3. "Minimum 0.3" is read as the smallest bound that goes on (H up to 3.27 nats), not as the largest
sqrt(c H) (H up to 0.6): the lenient reading agrees with the long acceptance the paper reports for this
method.

On trees: H is that of the distribution from which the newest level's best parent drew its children, the
one that a chain along the best path would look at; so a tree of beam 1 is decided as in the original. The
search varies h; c only rescales it.

On a CPU replay does not charge the entropy of a level; where its time matters it shows in the measured rows.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ltd.baselines.threshold import ThresholdRule
from ltd.errors import InputError
from ltd.replay.traces import Traces

ENTROPY_FACTOR = 0.15


def recorded_entropy(traces: Traces, name: str) -> np.ndarray:
    """Entropies of the traces, float64 [N, D]; raises InputError when they were recorded without."""
    if traces.entropy is None:
        raise InputError(f"{name}: the traces hold no entropy; record with traces.entropy: true")
    return np.asarray(traces.entropy, dtype=np.float64)


class AcceptanceBound:
    """The signal: a lower bound of the probability of acceptance."""

    def live(self, state: Any) -> float:
        """Of the newest pass."""
        return 1.0 - float(np.sqrt(ENTROPY_FACTOR * state.entropy()))

    def for_tree(self) -> tuple[Callable, Any]:
        """The kernel that drafts by this signal, and its details."""
        from ltd.baselines.live_decisions import bound_tree

        return bound_tree, ENTROPY_FACTOR

    def recorded(self, traces: Traces) -> np.ndarray:
        """Of every pass."""
        return 1.0 - np.sqrt(ENTROPY_FACTOR * recorded_entropy(traces, "svip"))


RULE = ThresholdRule("svip", signal=lambda network: AcceptanceBound(), published_threshold=0.3)
