"""GammaTune (arXiv 2504.00030): the depth follows a running average of what was accepted.

Decides the depth before a cycle, from the cycles before; needs no training and no look at the tree. After a
cycle of depth d with a accepted tokens the observation is a + 1 where a < d, and d + delta where everything
was accepted (more might have been: probe deeper); gamma moves towards it at rate eta within its bounds, and
the next depth is gamma rounded. Paper: bounds 0.5 and 1.5 times the default depth 8, eta = 0.2.

On trees: a is the length of the accepted path, as long as the tree is deep at most, so nothing changes. Every
answer starts at the default depth. The search chooses the default depth, eta, delta and the size; the bounds
follow the default depth as in the paper.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ltd.baselines import FITTED, PUBLISHED
from ltd.baselines.lanes import LaneResults, replay_lanes
from ltd.baselines.threshold import neighbours
from ltd.baselines.variants import BaselineController, FitData, Variant
from ltd.rl.replay_walk import ReplayWorld

if TYPE_CHECKING:  # a GPU needs no Numba
    from ltd.engine.compiled.draft_loop import CompiledDecisions

LOWER, UPPER = 0.5, 1.5
PUBLISHED_DEPTH, PUBLISHED_RATE = 8, 0.2
RATES, PROBES = (0.05, 0.1, 0.2, 0.4), (1, 2)


@dataclass(frozen=True)
class GammaSettings:
    """Constants: gamma starts at `default_depth`; no tree is deeper than `max_depth`."""

    default_depth: int
    rate: float
    probe: int
    max_depth: int
    size: int


def next_gamma(gamma: Any, depth: Any, accepted: Any, default_depth: Any, rate: Any, probe: Any) -> Any:
    """Return gamma after a cycle of `depth` with `accepted` draft tokens; all arguments broadcast."""
    observation = np.where(accepted < depth, accepted + 1, depth + probe)
    moved = (1 - rate) * gamma + rate * observation
    return np.clip(moved, LOWER * default_depth, UPPER * default_depth)


def depth_of(gamma: Any, max_depth: Any) -> Any:
    """The whole number nearest to gamma, from 1 to the largest depth; halves go up."""
    return np.clip(np.floor(np.asarray(gamma) + 0.5).astype(np.int64), 1, max_depth)


class GammaController(BaselineController):
    """Adapts from cycle to cycle of an answer."""

    def __init__(self, name: str, settings: GammaSettings) -> None:
        super().__init__(name, settings.max_depth, settings.size)
        self.settings = settings
        self.begin(0)

    def begin(self, prompt_length: int) -> None:
        """Start at the default depth."""
        self._set(float(self.settings.default_depth))

    def compiled_decisions(self) -> "CompiledDecisions":
        """Those of a static setting, until the cycle is over."""
        from ltd.engine.compiled.draft_loop import static_decisions

        return static_decisions(self.depth, self.size)

    def continue_drafting(self, state: Any) -> bool:
        """Until the depth of this cycle."""
        return state.depth < self.depth

    def accepted(self, count: int) -> None:
        """Move gamma as `next_gamma` does, without numpy, which takes ten times as long for one."""
        s = self.settings
        observation = count + 1 if count < self.depth else self.depth + s.probe
        moved = (1 - s.rate) * self.gamma + s.rate * observation
        self._set(min(max(moved, LOWER * s.default_depth), UPPER * s.default_depth))

    def _set(self, gamma: float) -> None:
        self.gamma, self.depth = gamma, min(max(math.floor(gamma + 0.5), 1), self.max_depth)


class GammaChooser:
    """Every lane with a gamma of its own."""

    size_decisions = 0

    def __init__(self, candidates: Sequence[GammaSettings]) -> None:
        columns = ("default_depth", "rate", "probe", "max_depth", "size")
        self._columns = {name: np.array([getattr(c, name) for c in candidates]) for name in columns}
        self._gamma = self._candidate = np.empty(0)

    def begin(self, lanes: int) -> None:
        """Gammas are set when a lane is first asked."""
        self._gamma, self._candidate = np.full(lanes, np.nan), np.zeros(lanes, dtype=np.int64)

    def choose(
        self, lanes: np.ndarray, candidate: np.ndarray, position: np.ndarray
    ) -> tuple[np.ndarray, int, np.ndarray]:
        """Depths from the gammas; they cost no decision."""
        self._candidate[lanes] = candidate
        gamma = self._gamma[lanes]
        gamma = np.where(np.isnan(gamma), self._columns["default_depth"][candidate], gamma)
        self._gamma[lanes] = gamma
        depth = depth_of(gamma, self._columns["max_depth"][candidate])
        return depth, 0, self._columns["size"][candidate]

    def accepted(self, lanes: np.ndarray, depth: np.ndarray, count: np.ndarray) -> None:
        """Move the gammas."""
        candidate = self._candidate[lanes]
        constants = [self._columns[name][candidate] for name in ("default_depth", "rate", "probe")]
        self._gamma[lanes] = next_gamma(self._gamma[lanes], depth, count, *constants)


class GammaTune:
    """The baseline."""

    name = "gammatune"

    def fit(self, data: FitData) -> dict[str, Variant]:
        """Search the constants; the published ones as far as the recorded trees go."""
        depth = data.world.max_depth
        candidates = self._candidates(range(1, depth + 1), RATES, PROBES, depth, data.sizes)
        best = candidates[self._replay(data.world, candidates).fastest()]
        around = neighbours(data.sizes, best.size)
        finer = self._candidates([best.default_depth], [best.rate], [best.probe], depth, around)
        best = finer[self._replay(data.world, finer).fastest()]
        published = GammaSettings(min(PUBLISHED_DEPTH, depth), PUBLISHED_RATE, 1, depth, data.published_size)
        return {FITTED: self._variant(data.world, best), PUBLISHED: self._variant(data.world, published)}

    def load_network(self, path: Path) -> None:
        """There is none."""

    def controller(self, variant: Variant, name: str) -> GammaController:
        """Decode with a variant."""
        return GammaController(name, GammaSettings(**variant.settings))

    def _candidates(
        self,
        depths: Sequence[int],
        rates: Sequence[float],
        probes: Sequence[int],
        max_depth: int,
        sizes: Sequence[int],
    ) -> list[GammaSettings]:
        axes = itertools.product(depths, rates, probes, [max_depth], sizes)
        return [GammaSettings(*values) for values in axes]

    def _replay(self, world: ReplayWorld, candidates: Sequence[GammaSettings]) -> LaneResults:
        return replay_lanes(world, GammaChooser(candidates), len(candidates))

    def _variant(self, world: ReplayWorld, settings: GammaSettings) -> Variant:
        return Variant(asdict(settings), None, self._replay(world, [settings]).summary(world, 0))


RULE = GammaTune()
