"""What a fitted baseline is: constants, perhaps a network, and a controller that decodes with them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ltd.replay.traces import Traces
from ltd.rl.replay_walk import ReplayWorld


class Network(Protocol):
    """A trained classifier."""

    @property
    def weights(self) -> int:
        """Number of its weights."""

    def save(self, path: Path) -> None:
        """Write a safetensors file."""


@dataclass(frozen=True)
class Variant:
    """One choice of constants: JSON values, the network they go with, and what replay says of them."""

    settings: dict[str, Any]
    network: Network | None = None
    validation: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingSettings:
    """How classifiers are trained: AdamW on as many accepted as rejected samples."""

    epochs: int
    learning_rate: float
    batch_size: int
    samples: int
    hidden: int
    seed: int


@dataclass(frozen=True)
class FitData:
    """What a baseline is fitted to.

    traces teach the classifiers, world holds the validation traces that choose constants; sizes are the tree
    sizes tried, thresholds the number of thresholds; static_size is the size of the best static setting;
    published_size is that of the variant `published`: the papers' 60, or as many nodes as there are; training
    is None for a rule without a classifier.
    """

    traces: Traces
    world: ReplayWorld
    sizes: tuple[int, ...]
    thresholds: int
    static_size: int
    published_size: int
    training: TrainingSettings | None


class BaselineController:
    """Never a plain step; the largest depth and a fixed size unless a subclass decides.

    weights are those of its networks, by what they decide, `depth` or `size`, 0 where a look at the draft
    compares a few numbers; replay charges decisions by them (`LatencyProfile.with_networks`).
    tree is the beam and the largest depth of the trees that it was fitted to, None where nobody said.
    """

    tree: tuple[int, int] | None = None

    def __init__(self, name: str, max_depth: int, size: int, weights: dict[str, int] | None = None) -> None:
        self.name, self.max_depth, self.size, self.weights = name, max_depth, size, weights or {}

    def asked(self, depth: int) -> bool:
        """Whether it looks at the draft of this depth to decide about the next level."""
        return False

    def begin(self, prompt_length: int) -> None:
        """Nothing to remember."""

    def continue_drafting(self, state: Any) -> bool:
        """Until the largest depth."""
        return state.depth < self.max_depth

    def choose_size(self, state: Any) -> int:
        """The fixed size."""
        return self.size

    def accepted(self, count: int) -> None:
        """Nothing to learn."""


class Baseline(Protocol):
    """An algorithm: how it is fitted, and how it decodes."""

    name: str

    def fit(self, data: FitData) -> dict[str, Variant]:
        """Return the variants `fitted` and `published`."""

    def load_network(self, path: Path) -> Network | None:
        """Read the network of a variant; None for rules without one."""

    def controller(self, variant: Variant, name: str) -> BaselineController:
        """Decode with a variant."""


def level_of_nodes(beam: int, pool: int) -> np.ndarray:
    """Level of every node in pool order, int64 [pool]."""
    index = np.arange(pool)
    return np.where(index < beam, 1, (index - beam) // (beam * beam) + 2)
