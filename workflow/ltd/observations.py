"""What a policy sees of a draft in progress; one function for live decoding and for replay.

The paper's observations (section 4) are the parts `nodes` (size policy) and `level` (depth policy) with
`depth` and `length`. The other parts are short summaries of the same tree, which let a small network decide
in tens of microseconds.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ltd.errors import InputError

# Keeps the logarithms of improbable and of absent nodes within the range a small network handles.
LOG_FLOOR = -12.0
# Weight of the newest cycle in the running mean of accepted tokens.
RECENT_WEIGHT = 0.2


def pool_size(depth: np.ndarray | int, beam: int) -> np.ndarray | int:
    """Return the number of draft nodes of a tree of `depth` levels: W + (D-1) W^2, and 0 for depth 0."""
    return np.where(np.asarray(depth) > 0, beam + (np.asarray(depth) - 1) * beam**2, 0)


@dataclass(frozen=True)
class DraftView:
    """A batch of B drafts in progress, as a policy may look at them.

    scores: cumulative log-probs [B, pool(max_depth)] float32 in pool order; what lies beyond the depth
    is ignored.
    depth, context_length: [B] integers.
    recent: [B, 3] float32, see `RecentCycles`.
    entropy: [B] float32 in nats at the best node of the newest level, or None.
    """

    scores: np.ndarray
    depth: np.ndarray
    context_length: np.ndarray
    recent: np.ndarray
    entropy: np.ndarray | None = None


class RecentCycles:
    """What the last cycles of B answers brought: accepted tokens, their running mean, rows to catch up."""

    def __init__(self, lanes: int) -> None:
        self.values = np.empty((lanes, 3), dtype=np.float32)
        self.reset(np.arange(lanes))

    def reset(self, lanes: np.ndarray) -> None:
        """Start a new answer: the neutral values of a drafter about whom nothing is known."""
        self.values[lanes] = (2.0, 2.0, 1.0)

    def update(self, lanes: np.ndarray, depth: np.ndarray, accepted: np.ndarray) -> None:
        """Add one finished cycle a lane; a plain step (depth 0) says nothing about the drafter."""
        values = self.values[lanes]
        drafted = depth > 0
        mean = values[:, 1] + RECENT_WEIGHT * (accepted - values[:, 1])
        values[:, 0] = np.where(drafted, accepted, values[:, 0])
        values[:, 1] = np.where(drafted, mean, values[:, 1])
        values[:, 2] = np.where(drafted, accepted + 1, values[:, 2] + 1)
        self.values[lanes] = values


@dataclass(frozen=True)
class ObservationSpec:
    """Which parts an observation has, in order, and the tree it describes.

    `sizes` are the thresholds of the part `mass`, `top` the number of nodes of the part `top`.
    """

    parts: tuple[str, ...]
    beam: int
    max_depth: int
    sizes: tuple[int, ...]
    top: int = 32

    def __post_init__(self) -> None:
        for part in self.parts:
            if part not in PARTS:
                raise InputError(f"observation part {part!r} is unknown; choose from {', '.join(PARTS)}")
        if "recent" in self.parts[:-1]:
            raise InputError("observation part 'recent' must be the last, because replay appends it")

    @property
    def width(self) -> int:
        """Numbers in an observation."""
        return sum(PARTS[part].width(self) for part in self.parts)

    @property
    def static(self) -> "ObservationSpec":
        """The spec without `recent`: what position and depth alone determine."""
        return replace(self, parts=tuple(part for part in self.parts if part != "recent"))

    @property
    def level_starts(self) -> np.ndarray:
        """Pool index at which each level starts, [max_depth]."""
        return np.asarray([pool_size(level, self.beam) for level in range(self.max_depth)], dtype=np.int64)

    def observe(self, view: DraftView) -> np.ndarray:
        """Return the observations [B, width] float32."""
        tree = _Tree(self, view)
        columns = [PARTS[part].values(self, tree) for part in self.parts]
        if not columns:
            return np.zeros((len(view.depth), 0), dtype=np.float32)
        return np.concatenate(columns, axis=1, dtype=np.float32)


class _Tree:
    """Quantities that several parts need, computed once an observation and only when asked for."""

    def __init__(self, spec: ObservationSpec, view: DraftView) -> None:
        self.spec, self.view = spec, view
        self._cache: dict[str, np.ndarray] = {}

    def _once(self, name: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
        if name not in self._cache:
            self._cache[name] = compute()
        return self._cache[name]

    def scores(self) -> np.ndarray:
        """Cumulative log-probs [B, pool], -inf beyond the depth."""
        return self._once("scores", self._scores)

    def _scores(self) -> np.ndarray:
        scores, depth = self.view.scores, self.view.depth
        if len(depth) == 1:  # the live case: cheaper than a mask
            drafted = int(pool_size(int(depth[0]), self.spec.beam))
            out = np.full(scores.shape, -np.inf, dtype=np.float32)
            out[:, :drafted] = scores[:, :drafted]
            return out
        drafted = pool_size(depth, self.spec.beam)
        return np.where(np.arange(scores.shape[1]) < drafted[:, None], scores, np.float32(-np.inf))

    def level(self) -> np.ndarray:
        """Cumulative log-probs of the newest level [B, W*W], -inf where the level has no such node."""
        return self._once("level", self._level)

    def _level(self) -> np.ndarray:
        beam, depth = self.spec.beam, self.view.depth
        start = pool_size(np.maximum(depth - 1, 0), beam)
        count = np.where(depth > 1, beam**2, np.where(depth == 1, beam, 0))
        offset = np.arange(beam**2)
        index = np.minimum(start[:, None] + offset, self.view.scores.shape[1] - 1)
        values = np.take_along_axis(self.view.scores, index, axis=1)
        return np.where(offset < count[:, None], values, np.float32(-np.inf))

    def sorted_probabilities(self) -> np.ndarray:
        """Probabilities of the best max(top, largest size) nodes, descending; 0 where the tree is smaller."""
        return self._once("sorted", self._sorted)

    def _sorted(self) -> np.ndarray:
        count = max(self.spec.top, self.spec.sizes[-1])
        probabilities = _descending(self.scores(), min(count, self.scores().shape[1]))
        missing = count - probabilities.shape[1]
        return np.pad(np.exp(probabilities), ((0, 0), (0, missing)))


def _descending(values: np.ndarray, count: int) -> np.ndarray:
    """Return the `count` largest values of each row, largest first."""
    negated = -values
    if count < values.shape[1] // 2:
        negated = np.partition(negated, count - 1, axis=1)[:, :count]
    negated.sort(axis=1)
    return -negated[:, :count]


def scaled_recent(recent: np.ndarray) -> np.ndarray:
    """The part `recent` from the values of `RecentCycles`, both [B, 3]."""
    return recent / np.float32(4)


def _logarithms(values: np.ndarray) -> np.ndarray:
    """Scale log-probs to about [-1, 0], absent nodes to the floor."""
    return np.maximum(values, np.float32(LOG_FLOOR)) * np.float32(-1 / LOG_FLOOR)


def _zero_padded(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, np.float32(0))


def _top(spec: ObservationSpec, tree: _Tree) -> np.ndarray:
    return tree.sorted_probabilities()[:, : spec.top]


def _mass(spec: ObservationSpec, tree: _Tree) -> np.ndarray:
    """Sum of the V largest probabilities for every size V: what a calibrated draft expects to be accepted."""
    sums = np.cumsum(tree.sorted_probabilities(), axis=1)
    return sums[:, np.asarray(spec.sizes) - 1] / np.float32(4)


def _best(spec: ObservationSpec, tree: _Tree) -> np.ndarray:
    """The best node of every level: how the most probable path decays."""
    return _logarithms(np.maximum.reduceat(tree.scores(), spec.level_starts, axis=1))


def _beam(spec: ObservationSpec, tree: _Tree) -> np.ndarray:
    """The newest level's W best nodes, where the next level would grow: log-probs, probabilities."""
    frontier = _descending(tree.level(), spec.beam)
    return np.concatenate([_logarithms(frontier), np.exp(frontier)], axis=1)


def _one_hot_depth(spec: ObservationSpec, tree: _Tree) -> np.ndarray:
    return tree.view.depth[:, None] == np.arange(spec.max_depth + 1)


def _entropy(spec: ObservationSpec, tree: _Tree) -> np.ndarray:
    if tree.view.entropy is None:
        raise InputError("observation part 'entropy': the traces have no entropy; record them with it")
    return tree.view.entropy[:, None] / np.float32(4)


@dataclass(frozen=True)
class _Part:
    """How wide a part is, and how its values [B, width] come from the tree."""

    width: Callable[[ObservationSpec], int]
    values: Callable[[ObservationSpec, _Tree], np.ndarray]


PARTS: dict[str, _Part] = {
    "nodes": _Part(lambda s: int(pool_size(s.max_depth, s.beam)), lambda s, t: _zero_padded(t.scores())),
    "level": _Part(lambda s: s.beam**2, lambda s, t: _zero_padded(t.level())),
    "top": _Part(lambda s: s.top, _top),
    "mass": _Part(lambda s: len(s.sizes), _mass),
    "best": _Part(lambda s: s.max_depth, _best),
    "beam": _Part(lambda s: 2 * s.beam, _beam),
    "depth": _Part(lambda s: 1, lambda s, t: t.view.depth[:, None] / 10),
    "one_hot_depth": _Part(lambda s: s.max_depth + 1, _one_hot_depth),
    "length": _Part(lambda s: 1, lambda s, t: t.view.context_length[:, None] / 1000),
    "recent": _Part(lambda s: 3, lambda s, t: scaled_recent(t.view.recent)),
    "entropy": _Part(lambda s: 1, _entropy),
}
