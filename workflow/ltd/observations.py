"""What a policy sees of a draft in progress; one function for live decoding and for replay.

The paper's observations (section 4) are the parts `nodes` (size policy) and `level` (depth policy) with
`depth` and `length`. The other parts are short summaries of the same tree, which let a small network decide
in tens of microseconds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ltd.errors import InputError
from ltd.tree import pool_size

# Keeps the logarithms of improbable and of absent nodes within the range a small network handles.
LOG_FLOOR = np.float32(-12)
# Brings token counts to the order of one.
QUARTER = np.float32(0.25)


@dataclass(frozen=True)
class DraftView:
    """A batch of B drafts in progress, as a policy may look at them.

    scores: cumulative log-probs [B, pool(max_depth)] float32 in pool order; what lies beyond the depth
    is ignored.
    depth, context_length: [B] integers.
    entropy: [B] float32 in nats at the best node of the newest level, or None.
    """

    scores: np.ndarray
    depth: np.ndarray
    context_length: np.ndarray
    entropy: np.ndarray | None = None

    def rows(self, rows: np.ndarray) -> "DraftView":
        """The view of some of the drafts."""
        entropy = None if self.entropy is None else self.entropy[rows]
        return DraftView(self.scores[rows], self.depth[rows], self.context_length[rows], entropy)


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

    @cached_property
    def width(self) -> int:
        """Numbers in an observation."""
        return sum(PARTS[part].width(self) for part in self.parts)

    @cached_property
    def level_starts(self) -> np.ndarray:
        """Pool index at which each level starts, [max_depth]."""
        return np.asarray([pool_size(self.beam, level) for level in range(self.max_depth)])

    @cached_property
    def _columns(self) -> list[tuple[Callable, slice]]:
        """Writer and place of every part."""
        ends = np.cumsum([PARTS[part].width(self) for part in self.parts]).tolist()
        starts = [0, *ends[:-1]]
        return [(PARTS[p].write, slice(a, b)) for p, a, b in zip(self.parts, starts, ends, strict=True)]

    @cached_property
    def _last_nodes(self) -> np.ndarray:
        return np.asarray(self.sizes) - 1

    def observe(self, view: DraftView) -> np.ndarray:
        """Return the observations [B, width] float32."""
        if len(view.depth) == 1:
            return self._same_depth(view, int(view.depth[0]))
        observations = np.empty((len(view.depth), self.width), dtype=np.float32)
        for depth in np.unique(view.depth):
            rows = np.flatnonzero(view.depth == depth)
            observations[rows] = self._same_depth(view.rows(rows), int(depth))
        return observations

    def _same_depth(self, view: DraftView, depth: int) -> np.ndarray:
        """Observations of drafts of one depth: the nodes drafted are then a plain slice."""
        tree = _Tree(self, view, depth)
        observations = np.zeros((len(view.depth), self.width), dtype=np.float32)
        for write, columns in self._columns:
            write(tree, observations[:, columns])
        return observations


class _Tree:
    """B trees of one depth: `nodes` [B, pool(depth)] are the cumulative log-probs of what is drafted."""

    def __init__(self, spec: ObservationSpec, view: DraftView, depth: int) -> None:
        self.spec, self.view, self.depth = spec, view, depth
        self.nodes = view.scores[:, : pool_size(spec.beam, depth)]
        # The newest level, [B, W] or [B, W*W]; nothing at depth 0.
        self.level = view.scores[:, pool_size(spec.beam, depth - 1) : self.nodes.shape[1]]
        self._best: np.ndarray | None = None

    def best_probabilities(self) -> np.ndarray:
        """Probabilities of the nodes that any part asks for, largest first, [B, at most that many]."""
        if self._best is None:
            self._best = np.exp(_descending(self.nodes, max(self.spec.top, self.spec.sizes[-1])))
        return self._best


def _descending(values: np.ndarray, count: int) -> np.ndarray:
    """Return the `count` largest values of each row, or all, largest first."""
    return np.sort(values, axis=1)[:, : -count - 1 : -1]


def _logarithms(values: np.ndarray) -> np.ndarray:
    """Scale log-probs to [-1, 0], with everything below the floor at -1."""
    return np.maximum(values, LOG_FLOOR) / -LOG_FLOOR


def _nodes(tree: _Tree, out: np.ndarray) -> None:
    out[:, : tree.nodes.shape[1]] = tree.nodes


def _level(tree: _Tree, out: np.ndarray) -> None:
    out[:, : tree.level.shape[1]] = tree.level


def _top(tree: _Tree, out: np.ndarray) -> None:
    best = tree.best_probabilities()[:, : out.shape[1]]
    out[:, : best.shape[1]] = best


def _mass(tree: _Tree, out: np.ndarray) -> None:
    """Sum of the V largest probabilities for every size V: what a calibrated draft expects to be accepted."""
    if tree.depth:
        sums = tree.best_probabilities().cumsum(axis=1)
        sums.take(tree.spec._last_nodes, axis=1, mode="clip", out=out)
        out *= QUARTER


def _best(tree: _Tree, out: np.ndarray) -> None:
    """Probability of the best node of every level: how the most probable path decays."""
    if tree.depth:
        starts = tree.spec.level_starts[: tree.depth]
        np.exp(np.maximum.reduceat(tree.nodes, starts, axis=1), out=out[:, : tree.depth])


def _beam(tree: _Tree, out: np.ndarray) -> None:
    """The newest level's W best nodes, where the next level would grow: log-probs, probabilities."""
    beam = tree.spec.beam
    out[:, :beam] = -1
    if tree.depth:
        frontier = _descending(tree.level, beam)
        out[:, :beam] = _logarithms(frontier)
        np.exp(frontier, out=out[:, beam:])


def _depth(tree: _Tree, out: np.ndarray) -> None:
    out.fill(tree.depth / 10)


def _one_hot_depth(tree: _Tree, out: np.ndarray) -> None:
    out[:, tree.depth] = 1


def _length(tree: _Tree, out: np.ndarray) -> None:
    out[:, 0] = tree.view.context_length / 1000


def _entropy(tree: _Tree, out: np.ndarray) -> None:
    if tree.view.entropy is None:
        raise InputError("observation part 'entropy': the traces have no entropy; record them with it")
    out[:, 0] = tree.view.entropy * QUARTER


@dataclass(frozen=True)
class _Part:
    """How wide a part is, and who writes it into zeros [B, width]."""

    width: Callable[[ObservationSpec], int]
    write: Callable[[_Tree, np.ndarray], None]


PARTS: dict[str, _Part] = {
    "nodes": _Part(lambda spec: pool_size(spec.beam, spec.max_depth), _nodes),
    "level": _Part(lambda spec: spec.beam**2, _level),
    "top": _Part(lambda spec: spec.top, _top),
    "mass": _Part(lambda spec: len(spec.sizes), _mass),
    "best": _Part(lambda spec: spec.max_depth, _best),
    "beam": _Part(lambda spec: 2 * spec.beam, _beam),
    "depth": _Part(lambda spec: 1, _depth),
    "one_hot_depth": _Part(lambda spec: spec.max_depth + 1, _one_hot_depth),
    "length": _Part(lambda spec: 1, _length),
    "entropy": _Part(lambda spec: 1, _entropy),
}
