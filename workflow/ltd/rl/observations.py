"""What a policy sees of a draft in progress; one function for live decoding and for replay.

The paper's observations (section 4) are the parts `nodes` (size policy) and `level` (depth policy) with
`depth` and `length`. `levels` is a short summary that grows with the draft: a decision looks at the newest
level alone, and a small network decides in a few microseconds. `suffix` is what is known before the
first draft pass (`ltd.rl.suffix_prior`). `machine` describes where a policy runs (`ltd.rl.machine`): it is no
part of a draft, and whoever replays or loads such a policy adds it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ltd.engine.tree import pool_size
from ltd.errors import InputError
from ltd.rl import machine
from ltd.rl.suffix_prior import LEVELS, SuffixPrior

# Parts that are known before the first draft pass, and between two passes without a look at the draft.
KNOWN_BEFORE = {"depth", "one_hot_depth", "length", "suffix", machine.PART}
# Brings sums of probabilities and entropies to the order of one.
QUARTER = np.float32(0.25)
# A hidden state of nothing but zeros stays that.
SMALLEST_SCALE = np.float32(1e-6)


@dataclass(slots=True)
class DraftView:
    """B drafts of the same depth in progress, as a policy may look at them.

    scores: cumulative log-probs [B, pool(max_depth)] float32 in pool order; what lies beyond the depth
    is ignored.
    context_length: [B] integers.
    entropy: [B] float32 in nats at the best row of the newest pass, or None.
    hidden: [B, H] the head's hidden state at that row, or None.
    suffix: [B, len(LEVELS)] float32, what `ltd.rl.suffix_prior` knows of the newest tokens, or None.
    levels: the summary of the levels seen at earlier decisions about the same drafts, or None.
    """

    scores: np.ndarray
    depth: int
    context_length: np.ndarray
    entropy: np.ndarray | None = None
    levels: "Levels | None" = None
    hidden: np.ndarray | None = None
    suffix: np.ndarray | None = None


class Levels:
    """Probabilities of the best nodes of each level, largest first: values [B, max_depth, top], 0 if none."""

    def __init__(self, lanes: int, spec: "ObservationSpec") -> None:
        self.values = np.zeros((lanes, spec.max_depth, spec.top), dtype=np.float32)
        self.depth = 0
        self._ends = [pool_size(spec.beam, level) for level in range(spec.max_depth + 1)]

    def clear(self) -> None:
        """Forget everything: other drafts begin."""
        self.values.fill(0)
        self.depth = 0

    def extend(self, scores: np.ndarray, depth: int) -> None:
        """Add the levels up to `depth`; scores as in `DraftView`."""
        for level in range(self.depth, depth):
            drafted = scores[:, self._ends[level] : self._ends[level + 1]].copy()
            drafted.sort(axis=1)
            best = drafted[:, : -self.values.shape[2] - 1 : -1]
            np.exp(best, out=self.values[:, level, : best.shape[1]])
        self.depth = depth


@dataclass(frozen=True)
class ObservationSpec:
    """Which parts an observation has, in order, and the tree it describes.

    `sizes` are the thresholds of the part `mass`, `top` the nodes of every level in the part `levels`,
    `hidden_size` the width of the head's hidden state in the part `hidden`, `suffix_prior` what the part
    `suffix` is looked up in.
    """

    parts: tuple[str, ...]
    beam: int
    max_depth: int
    sizes: tuple[int, ...]
    top: int = 3
    hidden_size: int = 0
    suffix_prior: SuffixPrior | None = None

    def __post_init__(self) -> None:
        for part in self.parts:
            if part not in PARTS:
                raise InputError(f"observation part {part!r} is unknown; choose from {', '.join(PARTS)}")
        if "hidden" in self.parts and not self.hidden_size:
            raise InputError(
                "observation part 'hidden': the traces have no hidden states; record them with features"
            )
        if "suffix" in self.parts and self.suffix_prior is None:
            raise InputError("observation part 'suffix': its tree is missing; it comes from traces")
        if machine.PART in self.parts[:-1]:
            raise InputError(f"observation part {machine.PART!r}: expected once, after all other parts")

    @cached_property
    def without_machine(self) -> "ObservationSpec":
        """What changes from decision to decision: all parts but the machine, which comes last."""
        return replace(self, parts=tuple(part for part in self.parts if part != machine.PART))

    @property
    def blind(self) -> bool:
        """Whether it shows nothing of the draft."""
        return KNOWN_BEFORE.issuperset(self.parts)

    @cached_property
    def width(self) -> int:
        """Numbers in an observation."""
        return sum(PARTS[part].width(self) for part in self.parts)

    def columns(self, observations: np.ndarray) -> list[tuple[Callable, np.ndarray]]:
        """Writer of every part and its columns, [B, width of the part], of observations [B, width]."""
        ends = np.cumsum([PARTS[part].width(self) for part in self.parts])[:-1]
        return [
            (PARTS[part].write, out)
            for part, out in zip(self.parts, np.split(observations, ends, axis=1), strict=True)
        ]

    @cached_property
    def _last_nodes(self) -> np.ndarray:
        return np.asarray(self.sizes) - 1

    def observe(self, view: DraftView) -> np.ndarray:
        """Return the observations [B, width] float32."""
        observations = np.zeros((len(view.scores), self.width), dtype=np.float32)
        for write, out in self.columns(observations):
            write(self, view, out)
        return observations


# Every part is written into zeros [B, width of the part].


def _nodes(spec: ObservationSpec, view: DraftView, out: np.ndarray) -> None:
    drafted = pool_size(spec.beam, view.depth)
    out[:, :drafted] = view.scores[:, :drafted]


def _level(spec: ObservationSpec, view: DraftView, out: np.ndarray) -> None:
    start, end = pool_size(spec.beam, view.depth - 1), pool_size(spec.beam, view.depth)
    out[:, : end - start] = view.scores[:, start:end]


def _mass(spec: ObservationSpec, view: DraftView, out: np.ndarray) -> None:
    """Sum of the V largest probabilities for every size V: what a calibrated draft expects to be accepted."""
    if view.depth:
        drafted = view.scores[:, : pool_size(spec.beam, view.depth)]
        best = np.sort(drafted, axis=1)[:, : -spec.sizes[-1] - 1 : -1]
        np.exp(best).cumsum(axis=1).take(spec._last_nodes, axis=1, mode="clip", out=out)
        out *= QUARTER


def _levels(spec: ObservationSpec, view: DraftView, out: np.ndarray) -> None:
    levels = view.levels or Levels(len(out), spec)
    levels.extend(view.scores, view.depth)
    out[:] = levels.values.reshape(out.shape)


def _depth(spec: ObservationSpec, view: DraftView, out: np.ndarray) -> None:
    out.fill(view.depth / 10)


def _one_hot_depth(spec: ObservationSpec, view: DraftView, out: np.ndarray) -> None:
    out[:, view.depth] = 1


def _length(spec: ObservationSpec, view: DraftView, out: np.ndarray) -> None:
    out[:, 0] = view.context_length / 1000


def _entropy(spec: ObservationSpec, view: DraftView, out: np.ndarray) -> None:
    if view.entropy is None:
        raise InputError("observation part 'entropy': the traces have no entropy; record them with it")
    out[:, 0] = view.entropy * QUARTER


def _hidden(spec: ObservationSpec, view: DraftView, out: np.ndarray) -> None:
    """The hidden state in half precision, as traces keep it, brought to a root mean square of one."""
    if view.depth:
        hidden = view.hidden.astype(np.float16).astype(np.float32)
        scale = np.sqrt(np.square(hidden).mean(axis=1, keepdims=True))
        np.divide(hidden, np.maximum(scale, SMALLEST_SCALE), out=out)


def _suffix(spec: ObservationSpec, view: DraftView, out: np.ndarray) -> None:
    out[:] = view.suffix


def _machine(spec: ObservationSpec, view: DraftView, out: np.ndarray) -> None:
    raise InputError(
        "observation part 'machine': a draft does not show it; give the policy its latency profile first"
    )


@dataclass(frozen=True)
class _Part:
    """How wide a part is, and who writes it."""

    width: Callable[[ObservationSpec], int]
    write: Callable[[ObservationSpec, DraftView, np.ndarray], None]


PARTS: dict[str, _Part] = {
    "nodes": _Part(lambda spec: pool_size(spec.beam, spec.max_depth), _nodes),
    "level": _Part(lambda spec: spec.beam**2, _level),
    "mass": _Part(lambda spec: len(spec.sizes), _mass),
    "levels": _Part(lambda spec: spec.max_depth * spec.top, _levels),
    "depth": _Part(lambda spec: 1, _depth),
    "one_hot_depth": _Part(lambda spec: spec.max_depth + 1, _one_hot_depth),
    "length": _Part(lambda spec: 1, _length),
    "entropy": _Part(lambda spec: 1, _entropy),
    "hidden": _Part(lambda spec: spec.hidden_size, _hidden),
    "suffix": _Part(lambda spec: len(LEVELS), _suffix),
    machine.PART: _Part(lambda spec: machine.machine_width(spec.sizes), _machine),
}
