"""The calibrated marginal rule: verify and draft as long as it pays at the going rate.

The draft's probabilities are recalibrated, so that the sum over the nodes of a tree is the expected number of
accepted tokens. With the rate, in tokens a second, that the rule itself attains in the long run:

- a node is verified while its chance of acceptance exceeds rate times the time that it adds to the
  verification; as that time grows in steps, all sizes are weighed and the best is taken;
- a level is drafted while the gain to be expected of drafting on exceeds rate times its cost. Looking one
  level ahead would not do before the first, which has to pay for its verification, too. What drafting on will
  gain is forecast by depth, linearly, from what drafts after the newest tokens brought in training, the
  chances of the newest level's beam, their squares, and the tokens that every size is expected to bring
  already.
"""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ltd.engine.tree import pool_size
from ltd.opponents.calibration import Calibration
from ltd.rl.suffix_prior import LEVELS, SuffixPrior


@dataclass(frozen=True)
class MarginalRule:
    """Everything that the rule decides by.

    sizes: numbers of nodes to choose from, ascending; first_decision, interval: at which depths it may stop.
    seconds float64 [1 + D, C, A]: a cycle by depth, context length and size, C the longest context plus one;
    longer ones are taken for that. forecast float64 [D, F]: weights of `regressors` in the gain of drafting
    on at depths 0 .. D - 1, in tokens, its cost at the rate already taken off. rate: tokens a second.
    """

    beam: int
    max_depth: int
    sizes: tuple[int, ...]
    first_decision: int
    interval: int
    calibration: Calibration
    suffix_prior: SuffixPrior
    seconds: NDArray
    forecast: NDArray
    rate: float
    trained_on: dict[str, str] = field(default_factory=dict)

    @cached_property
    def cost(self) -> NDArray:
        """Seconds in tokens at the rate, as `seconds`."""
        return self.seconds * self.rate

    @property
    def weights(self) -> dict[str, int]:
        """Numbers that a decision weighs, by kind: what replay charges its time by."""
        return {"depth": self.forecast.shape[1], "size": len(self.sizes)}

    def asked(self, depth: int) -> bool:
        """Tell whether the rule decides at `depth`; elsewhere drafting goes on."""
        return depth >= self.first_decision and (depth - self.first_decision) % self.interval == 0

    def goes_on(self, depth: int, growth: "Growth", recent: NDArray) -> NDArray:
        """Whether drafting on is expected to pay for drafts of some depth after tokens [B, RECENT], [B]."""
        return regressors(growth, self.suffix_prior.after(recent)) @ self.forecast[depth] > 0

    def stop_values(self, depth: int, expected: NDArray, context: NDArray) -> NDArray:
        """Expected tokens less cost of every size, [B, A]; expected as of `Growth.expected`, context [B]."""
        context = np.minimum(context, self.cost.shape[1] - 1)
        return 1 + expected - self.cost[depth, context]


class Growth:
    """Recalibrated chances of B growing drafts: of the best nodes so far, and of the newest level's beam.

    beam_chances [B, W], of the likeliest first; zero before the first level.
    """

    def __init__(self, drafts: int, calibration: Calibration, beam: int, sizes: tuple[int, ...]) -> None:
        self.calibration, self.beam = calibration, beam
        self._last = np.asarray(sizes) - 1
        self._most = sizes[-1]
        self._rows = np.arange(drafts)[:, None]
        self.clear()

    def clear(self) -> None:
        """Other drafts begin."""
        drafts = len(self._rows)
        self.depth = 0
        self.beam_chances = np.zeros((drafts, self.beam))
        self._scores = np.empty((drafts, 0), dtype=np.float32)
        self._chances = np.empty((drafts, 0))

    def extend(self, scores: NDArray, depth: int) -> None:
        """Add the levels up to `depth`; scores [B, pool(max_depth)] in pool order."""
        for level in range(self.depth + 1, depth + 1):
            new = scores[:, pool_size(self.beam, level - 1) : pool_size(self.beam, level)]
            new = new[self._rows, np.argsort(-new, axis=1, kind="stable")]
            chances = self.calibration.of_level(level, new)
            self.beam_chances = chances[:, : self.beam]
            joined = np.concatenate([self._scores, new], axis=1)
            # Trees are cut by the draft's own scores, ties by place in the pool.
            best = np.argsort(-joined, axis=1, kind="stable")[:, : self._most]
            self._scores = joined[self._rows, best]
            self._chances = np.concatenate([self._chances, chances], axis=1)[self._rows, best]
        self.depth = max(depth, self.depth)

    def expected(self) -> NDArray:
        """Expected accepted tokens of every size, [B, A]; nothing before the first level."""
        if self.depth == 0:
            return np.zeros((len(self._rows), len(self._last)))
        return self._chances.cumsum(axis=1).take(self._last, axis=1, mode="clip")


def regressors(growth: Growth, known: NDArray) -> NDArray:
    """What the gain of drafting on is forecast from, [B, 1 + C + 2 W + A]; known [B, C]: of `SuffixPrior`."""
    chances, one = growth.beam_chances, np.ones((len(known), 1))
    return np.concatenate([one, known, chances, chances**2, growth.expected()], axis=1)


def count_of_regressors(beam: int, sizes: int) -> int:
    """Numbers in `regressors`."""
    return 1 + len(LEVELS) + 2 * beam + sizes
