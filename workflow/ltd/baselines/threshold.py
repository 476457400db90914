"""Depth rules that stop where a signal falls below a threshold: what they share, and their search.

After a level the rule looks at one number that says how promising the draft still is. It may look after
every level, at a few checkpoints only, or never; a fixed size is verified in the end. A rule that never looks
is a static setting and costs no decision. These are among the candidates, so a fitted rule never loses to the
best static tree of the sizes tried on the validation traces.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ltd.baselines import FITTED, PUBLISHED
from ltd.baselines.lanes import LaneResults, Stateless, replay_lanes
from ltd.baselines.variants import BaselineController, FitData, Network, Variant
from ltd.replay.traces import Traces
from ltd.rl.replay_walk import ReplayWorld

if TYPE_CHECKING:  # a GPU needs no Numba
    from ltd.engine.compiled.draft_loop import CompiledDecisions

FINE_THRESHOLDS = 8


class Signal(Protocol):
    """A number after every level, higher where drafting on promises more."""

    def live(self, state: Any) -> float:
        """Of the newest level of a `DraftState`."""

    def for_tree(self) -> tuple[Callable, Any]:
        """The kernel of `ltd.baselines.live_decisions` that drafts by this signal, and its details."""

    def recorded(self, traces: Traces) -> np.ndarray:
        """Of every level of every recorded tree, float [N, D]."""


@dataclass(frozen=True)
class ThresholdSettings:
    """Constants of a rule; no level is looked at but `checkpoints` below `max_depth`."""

    threshold: float
    checkpoints: tuple[int, ...]
    max_depth: int
    size: int

    @property
    def asked(self) -> tuple[int, ...]:
        """Depths at which the rule decides."""
        return tuple(depth for depth in self.checkpoints if depth < self.max_depth)

    @property
    def behaviour(self) -> tuple[Any, ...]:
        """What decisions depend on: a threshold that is never compared with does not count."""
        return self.asked and self.threshold, self.asked, self.max_depth, self.size

    def stops(self, signal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Depth and number of decisions, uint8 [N] each, where the signal is [N, D]."""
        depth = np.full(len(signal), self.max_depth, dtype=np.uint8)
        decisions = np.zeros(len(signal), dtype=np.uint8)
        for checkpoint in self.asked:
            drafting = depth == self.max_depth
            decisions += drafting
            depth[drafting & (signal[:, checkpoint - 1] < self.threshold)] = checkpoint
        return depth, decisions


class ThresholdController(BaselineController):
    """Stops at the first checkpoint whose signal is below the threshold."""

    def __init__(
        self, name: str, settings: ThresholdSettings, signal: Signal, network: Network | None
    ) -> None:
        super().__init__(name, settings.max_depth, settings.size, weights_of(network))
        self.threshold, self.signal = settings.threshold, signal
        self._asked = frozenset(settings.asked)

    def asked(self, depth: int) -> bool:
        """At the checkpoints."""
        return depth in self._asked

    def compiled_decisions(self) -> "CompiledDecisions":
        """The same decisions within one call."""
        return self._decisions

    @cached_property
    def _decisions(self) -> "CompiledDecisions":
        from ltd.baselines.live_decisions import threshold_decisions

        rule = self._asked, self.max_depth, self.threshold, self.size
        return threshold_decisions(*self.signal.for_tree(), *rule)

    def continue_drafting(self, state: Any) -> bool:
        """Decide whether one more level is drafted."""
        if state.depth in self._asked:
            return self.signal.live(state) >= self.threshold
        return state.depth < self.max_depth


class ThresholdChooser(Stateless):
    """Candidates with the depths that their stopping rules lead to at every position."""

    def __init__(self, signal: np.ndarray, candidates: Sequence[ThresholdSettings]) -> None:
        """signal [N, D] of the traces that are replayed."""
        # Candidates that differ in size alone, or that stop alike, share a row of the table.
        stops: dict[tuple, int] = {}
        rows, depths, decisions = [], [], []
        for settings in candidates:
            key = (settings.threshold, settings.checkpoints, settings.max_depth)
            if key not in stops:
                stops[key] = len(depths)
                depth, asked = settings.stops(signal)
                depths.append(depth)
                decisions.append(asked)
            rows.append(stops[key])
        self._row, self._size = np.array(rows), np.array([settings.size for settings in candidates])
        self._depth, self._decisions = np.stack(depths), np.stack(decisions)

    def choose(
        self, lanes: np.ndarray, candidate: np.ndarray, position: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Look depth and decisions up."""
        row = self._row[candidate]
        return self._depth[row, position], self._decisions[row, position], self._size[candidate]


@dataclass(frozen=True)
class ThresholdRule:
    """A baseline of this kind.

    signal makes the signal of a network (None for a heuristic); train fits that network, its labels being
    what a tree of the given size accepts; published are threshold, checkpoints (none: every level from the
    first checkpoint on) and largest depth in the papers; the search tries no checkpoint,
    these, and those from each of first_checkpoints on at each of the intervals.
    """

    name: str
    signal: Callable[[Any], Signal]
    published_threshold: float
    published_max_depth: int = 12
    published_checkpoints: tuple[int, ...] = ()
    train: Callable[[FitData, int], Network] | None = None
    read: Callable[[Path], Network] | None = None
    first_checkpoints: tuple[int, ...] = (1,)
    intervals: tuple[int, ...] = (1,)

    def fit(self, data: FitData) -> dict[str, Variant]:
        """Train where there is something to train, then search the constants."""
        fitted, published = (
            self.train(data, size) if self.train else None for size in (data.static_size, data.published_size)
        )
        data = replace(data, world=data.world.with_networks(weights_of(fitted)))
        settings = self._search(data, self.signal(fitted).recorded(data.world.traces))
        return {
            FITTED: self._variant(data, settings, fitted),
            PUBLISHED: self._variant(data, self.published(data), published),
        }

    def published(self, data: FitData) -> ThresholdSettings:
        """The papers' constants, as far as the recorded trees go."""
        depth = min(self.published_max_depth, data.world.max_depth)
        checkpoints = self.published_checkpoints or tuple(range(self.first_checkpoints[0], depth))
        return ThresholdSettings(self.published_threshold, checkpoints, depth, data.published_size)

    def load_network(self, path: Path) -> Network | None:
        """Read the classifier; a heuristic has none."""
        return self.read(path) if self.read else None

    def controller(self, variant: Variant, name: str) -> ThresholdController:
        """Decode with a variant."""
        values = variant.settings | {"checkpoints": tuple(variant.settings["checkpoints"])}
        settings = ThresholdSettings(**values)
        return ThresholdController(name, settings, self.signal(variant.network), variant.network)

    def _variant(self, data: FitData, settings: ThresholdSettings, network: Network | None) -> Variant:
        signal = self.signal(network).recorded(data.world.traces)
        summary = self._replay(data.world, signal, [settings]).summary(data.world, 0)
        return Variant(asdict(settings), network, summary)

    def _replay(
        self, world: ReplayWorld, signal: np.ndarray, candidates: Sequence[ThresholdSettings]
    ) -> LaneResults:
        return replay_lanes(world, ThresholdChooser(signal, candidates), len(candidates))

    def _search(self, data: FitData, signal: np.ndarray) -> ThresholdSettings:
        """Try all combinations, then finer thresholds and every size around the best one.

        The thresholds for a largest depth are spread over what occurs where it may look.
        """
        checkpoints = self._checkpoint_sets(data.world.max_depth)
        first = min(*self.first_checkpoints, data.world.max_depth)
        thresholds = {
            depth: quantiles(signal[:, first - 1 : max(depth - 1, first)], data.thresholds)
            for depth in range(1, data.world.max_depth + 1)
        }
        candidates = (
            ThresholdSettings(*values)
            for depth, values in thresholds.items()
            for values in itertools.product(values, checkpoints, [depth], data.sizes)
        )
        best = self._fastest(data, signal, candidates)
        finer = between(thresholds[best.max_depth], best.threshold, FINE_THRESHOLDS)
        sizes = neighbours(data.sizes, best.size)
        axes = itertools.product(finer, [best.checkpoints], [best.max_depth], sizes)
        return self._fastest(data, signal, (ThresholdSettings(*values) for values in axes))

    def _checkpoint_sets(self, max_depth: int) -> list[tuple[int, ...]]:
        """None, those of the papers, and all combinations of first checkpoint and interval."""
        levels = range(1, max_depth)
        spaced = itertools.product(self.first_checkpoints, self.intervals)
        return [(), self.published_checkpoints, *(tuple(levels[first - 1 :: step]) for first, step in spaced)]

    def _fastest(
        self, data: FitData, signal: np.ndarray, candidates: Iterable[ThresholdSettings]
    ) -> ThresholdSettings:
        by_behaviour: dict[tuple[Any, ...], ThresholdSettings] = {}
        for settings in candidates:
            by_behaviour.setdefault(settings.behaviour, settings)
        distinct = list(by_behaviour.values())
        return distinct[self._replay(data.world, signal, distinct).fastest()]


def weights_of(network: Network | None) -> dict[str, int]:
    """What replay charges looks by: the weights of the network; a heuristic has none."""
    return {"depth": network.weights if network else 0}


def quantiles(signal: np.ndarray, count: int) -> list[float]:
    """Return `count` thresholds that split the values evenly, one below all of them first.

    Each lies between two values, so that rounding cannot tip a decision; of few values there are fewer.
    """
    values = np.unique(signal)
    middles = (values[1:] + values[:-1]) / 2 if len(values) > 1 else values
    places = np.linspace(0, 1, count + 1)[1:-1]
    inner = np.quantile(np.sort(signal, axis=None), places, method="lower")
    nearest = np.searchsorted(values, inner).clip(max=len(middles) - 1)
    return sorted({float(values[0]) - 1.0, *middles[nearest].tolist()})


def between(values: Sequence[float], value: float, count: int) -> list[float]:
    """Return `value` and evenly spaced numbers between its neighbours in an ascending list."""
    place = values.index(value)
    low, high = values[max(place - 1, 0)], values[min(place + 1, len(values) - 1)]
    return sorted({value, *np.linspace(low, high, count).tolist()})


def neighbours(sizes: Sequence[int], size: int) -> list[int]:
    """Return every whole number between the neighbours of `size` in an ascending list."""
    place = sizes.index(size)
    return list(range(sizes[max(place - 1, 0)], sizes[min(place + 1, len(sizes) - 1)] + 1))
