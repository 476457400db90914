"""What environments and walks need of a world: replayed (`ltd.rl.replay_walk`) or live (`ltd.rl.live_walk`).

Neither is named here, so that training in replay loads no decoding engine.
"""

from typing import Protocol

import numpy as np

from ltd.replay.latency import LatencyProfile
from ltd.rl.observations import ObservationSpec
from ltd.rl.suffix_prior import SuffixPrior


class Observations(Protocol):
    """Observations of one spec, by position and depth."""

    def rows(self, positions: np.ndarray, depth: np.ndarray, machines: np.ndarray | int = 0) -> np.ndarray:
        """Return float32 [..., width] of (position, depth) pairs, which broadcast."""


class Lanes(Protocol):
    """L lanes, each somewhere in an answer of `world` with a draft of `depth` [L] levels in progress."""

    world: "World"
    position: np.ndarray
    depth: np.ndarray
    decisions: np.ndarray
    machine: np.ndarray

    def place(self, lanes: np.ndarray, position: np.ndarray) -> None:
        """Put lanes at the start of other answers."""

    def finish(self, lanes: np.ndarray, sizes: np.ndarray, size_decisions: int) -> tuple[np.ndarray, ...]:
        """Verify drafts and step on; see `ltd.rl.replay_walk.Walk.finish`."""


class World(Protocol):
    """Answers to walk along, and what a cycle costs on a machine or each of a family.

    context_length [N] of every position, starts [A] the first position of every answer, hidden_size the width
    of the head's hidden states, 0 where there are none.
    """

    profile: LatencyProfile
    family: tuple[LatencyProfile, ...]
    sizes: tuple[int, ...]
    max_depth: int
    context_length: np.ndarray
    starts: np.ndarray
    step_seconds: float
    hidden_size: int

    @property
    def suffix_prior(self) -> SuffixPrior:
        """What drafts after the newest tokens bring; raises InputError where that is not known."""

    def observations(self, spec: ObservationSpec) -> Observations:
        """Return the observations of `spec`, made once."""

    def walk(self, position: np.ndarray, machines: np.ndarray | None = None) -> Lanes:
        """Return one lane at each position [L]; machines [L] are places in the family, None its first."""


def observation_in(
    world: World, parts: tuple[str, ...], sizes: tuple[int, ...], top: int = 3
) -> ObservationSpec:
    """The observation of these parts, with what it takes from the world.

    Raises InputError for a part that the world cannot show.
    """
    hidden_size = world.hidden_size if "hidden" in parts else 0
    prior = world.suffix_prior if "suffix" in parts else None
    return ObservationSpec(parts, world.profile.beam, world.max_depth, sizes, top, hidden_size, prior)
