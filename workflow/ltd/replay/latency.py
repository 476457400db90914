"""Latency profile of one machine: seconds of every phase of a cycle, by size and by context length.

Measured by the profiling stage; read by everything that needs time without the machine: replay environments,
grid search, oracle, tuning.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ltd.engine.tree import pool_size
from ltd.errors import InputError
from ltd.files import read_json, write_json
from ltd.replay.decision_times import DecisionTimes

VERSION = 2
TABLES = (
    "autoregressive_step",
    "plain_step",
    "draft_prefix",
    "draft_step",
    "verify",
    "depth_policy",
    "size_policy",
    "rest",
)


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds of one phase: ms[i][j] at axis[i] (rows, level or size) and context_lengths[j].

    `spread` of the same shape, interquartile ranges of what was measured, None where nothing was; `samples`:
    how many times at least.
    """

    axis: list[int]
    ms: list[list[float]]
    spread: Any = None
    samples: int = 0


@dataclass(frozen=True)
class LatencyProfile:
    """Phase times of one machine, target and draft head; look-ups are in seconds and broadcast over arrays.

    Between measured points they are linear in both directions. Contexts outside are clamped. Sizes and
    levels outside raise InputError; the rows of a prefix pass, unbounded after plain steps, go on with the
    last slope. A hash of None means that the profile is not tied to certain weights. `policy_network` holds
    the hidden layers of the policies that were timed beside the paper's. `planned`, which no file says: the
    policies that run there are asked once, before a cycle begins (`with_networks`).
    """

    device: str
    device_type: str
    dtype: str
    threads: int
    versions: dict[str, str]
    target_hash: str | None
    draft_hash: str | None
    beam: int
    max_depth: int
    context_lengths: list[int]
    policy_network: list[int]
    tables: dict[str, LatencyTable]
    interpolation_error: dict[str, Any] = field(default_factory=dict)
    path: str = "latency profile"
    planned: bool = False

    @classmethod
    def load(cls, path: str | Path) -> "LatencyProfile":
        """Read a profile; raises InputError naming the file and the key that is missing or misshapen."""
        value = read_json(path)
        if not isinstance(value, dict) or value.get("version") != VERSION:
            raise InputError(
                f"{path}: version: expected a latency profile of version {VERSION}; profile again"
            )
        names = [f.name for f in dataclasses.fields(cls) if f.name not in ("path", "planned")]
        missing = [name for name in names if name not in value]
        missing += [f"tables.{name}" for name in TABLES if name not in value.get("tables", {})]
        if missing:
            raise InputError(f"{path}: {missing[0]}: missing from the latency profile; profile again")
        tables = {name: _parse_table(path, name, value) for name in TABLES}
        return cls(**{name: value[name] for name in names} | {"tables": tables, "path": str(path)})

    def save(self, path: str | Path) -> None:
        """Write the profile as JSON, atomically."""
        value = dataclasses.asdict(self)
        del value["path"], value["planned"]
        write_json(path, {"version": VERSION} | value)

    def autoregressive_step(self, context: ArrayLike) -> NDArray:
        """One token of plain decoding with `context` tokens in the cache."""
        return self._lookup("autoregressive_step", 1, context)

    def plain_step(self, context: ArrayLike) -> NDArray:
        """One token without a draft, between cycles with one.

        It takes longer than an autoregressive step where draft and verification leave the processor's caches
        with less of what a step needs.
        """
        return self._lookup("plain_step", 1, context)

    def draft_prefix(self, rows: ArrayLike, context: ArrayLike) -> NDArray:
        """First draft pass: `rows` new true rows, and level 1 of the tree."""
        rows = np.asarray(rows)
        axis = self.tables["draft_prefix"].axis
        inside = self._lookup("draft_prefix", np.minimum(rows, axis[-1]), context)
        if len(axis) == 1:
            return inside
        last_step = self._lookup("draft_prefix", axis[-1], context)
        slope = (last_step - self._lookup("draft_prefix", axis[-2], context)) / (axis[-1] - axis[-2])
        return inside + np.maximum(rows - axis[-1], 0) * np.maximum(slope, 0)

    def draft_step(self, level: ArrayLike, context: ArrayLike) -> NDArray:
        """Draft pass that makes `level` (2 or more)."""
        return self._lookup("draft_step", level, context)

    def verify(self, size: ArrayLike, context: ArrayLike) -> NDArray:
        """Target pass over `size` draft nodes and the root."""
        return self._lookup("verify", size, context)

    def rest(self, size: ArrayLike, context: ArrayLike) -> NDArray:
        """Everything else of a cycle: selection, mask, acceptance, cache compaction."""
        return self._lookup("rest", size, context)

    @property
    def depth_policy(self) -> float:
        """One decision of the depth policy (median over the contexts), observation included."""
        return float(np.median(self.tables["depth_policy"].ms[0])) / 1e3

    @property
    def size_policy(self) -> float:
        """One decision of the size policy (median over the contexts), observation included."""
        return float(np.median(self.tables["size_policy"].ms[0])) / 1e3

    @property
    def decisions(self) -> DecisionTimes:
        """What the decisions of a cycle cost."""
        return DecisionTimes(self.depth_policy, self.size_policy, self.planned)

    @property
    def max_size(self) -> int:
        """Largest number of verified draft nodes that the profile can time."""
        return min(self.tables["verify"].axis[-1], self.tables["rest"].axis[-1])

    def cycle_seconds(
        self,
        depth: ArrayLike,
        size: ArrayLike,
        context: ArrayLike,
        prefix_rows: ArrayLike = 1,
        depth_decisions: ArrayLike = 0,
        size_decisions: ArrayLike = 0,
    ) -> NDArray:
        """Whole cycles; depth 0 is a plain step, whatever `size` and `prefix_rows` are.

        `size` is the chosen size: a tree with fewer nodes is verified whole. `prefix_rows` counts the tokens
        emitted since the last prefix pass.
        """
        deepest = int(np.max(depth))
        if deepest > self.max_depth:
            raise InputError(f"{self.path}: max_depth: depth {deepest} asked for, {self.max_depth} measured")
        arrays = np.broadcast_arrays(depth, size, context, prefix_rows)
        depth, size, context, prefix_rows = (array.astype(np.int64) for array in arrays)
        drafted = np.maximum(depth, 1)
        size, prefix_rows = (np.where(depth == 0, 1, array) for array in (size, prefix_rows))
        verified = np.minimum(size, pool_size(self.beam, 1) + (drafted - 1) * self.beam**2)
        seconds = self.draft_prefix(prefix_rows, context) + self._draft_steps(drafted, context)
        seconds = seconds + self.verify(verified, context) + self.rest(verified, context)
        seconds = np.where(depth == 0, self.plain_step(context), seconds)
        return seconds + self.decisions.seconds(depth_decisions, size_decisions)

    def _draft_steps(self, depth: NDArray, context: NDArray) -> NDArray:
        """Sum of the draft steps of levels 2 .. depth."""
        total = np.zeros(depth.shape)
        for level in range(2, int(depth.max(initial=1)) + 1):
            total += np.where(depth >= level, self.draft_step(level, context), 0.0)
        return total

    def slower_growth_of_verification(self, factor: float) -> "LatencyProfile":
        """A machine whose verification grows `factor` times more slowly, as where arithmetic is to spare.

        t(V) = t(0) + (t_A(V) - t_A(0)) / factor, with t_A(0), a verification of the root alone, taken as the
        autoregressive step, which is kept. Where a step takes longer than a verification, as on a GPU, whose
        steps hold the rest of a cycle, the fastest verification at that context is taken.
        """
        verify = self.tables["verify"]
        measured = np.array(verify.ms)
        base = np.minimum(self.tables["autoregressive_step"].ms, measured.min(axis=0))
        ms = base + (measured - base) / factor
        return self.replace_table("verify", dataclasses.replace(verify, ms=ms.tolist(), spread=None))

    def with_networks(self, weights: Mapping[str, int], blind: bool = False) -> "LatencyProfile":
        """The same machine with policies whose networks have so many weights, by kind, `depth` or `size`.

        The axis of the tables of the policies counts weights, observation included; a decision's time is
        linear between the networks that were timed, and that of the smallest one below. Above the largest of
        its kind it grows towards the largest of the other kind, and on in the same way. A rule without a
        network has 0 weights: on a CPU its look at a draft is free (1 to 2 microseconds a cycle), elsewhere
        it waits for the device as the smallest network does.

        blind: none of the policies sees anything of a draft. Then a cycle can be planned before it begins,
        and on a device other than the CPU, which drafts while the host decides, all its decisions together
        are charged as one (`DecisionTimes`): that is more than they take, for the one that was timed waited.
        On a CPU nothing runs beside them, and every one is charged; so is every one of both policies where
        one of them looks at the draft.
        """
        profile = dataclasses.replace(self, planned=blind and self.device_type != "cpu")
        for kind, count in weights.items():
            ms = self._decision_ms(kind, count)
            samples = self.tables[f"{kind}_policy"].samples
            charged = LatencyTable([count], [[ms] * len(self.context_lengths)], samples=samples)
            profile = profile.replace_table(f"{kind}_policy", charged)
        return profile

    def _decision_ms(self, kind: str, count: int) -> float:
        """A decision with a network of so many weights (median over the contexts)."""
        if count == 0 and self.device_type == "cpu":
            return 0.0
        own = self._timed_networks(kind)
        others = self._timed_networks("size" if kind == "depth" else "depth")
        timed = own + [network for network in others if network[0] > own[-1][0]]
        counts, ms = zip(*timed, strict=True)
        if count <= counts[-1] or len(timed) == 1:
            return float(np.interp(count, counts, ms))
        slope = (ms[-1] - ms[-2]) / (counts[-1] - counts[-2])
        return ms[-1] + max(slope, 0.0) * (count - counts[-1])

    def _timed_networks(self, kind: str) -> list[tuple[int, float]]:
        """Weights, ascending, and milliseconds of a decision."""
        table = self.tables[f"{kind}_policy"]
        return list(zip(table.axis, np.median(table.ms, axis=1).tolist(), strict=True))

    def replace_table(self, name: str, table: LatencyTable) -> "LatencyProfile":
        """The same profile with one table exchanged."""
        return dataclasses.replace(self, tables=self.tables | {name: table})

    def _lookup(self, name: str, position: ArrayLike, context: ArrayLike) -> NDArray:
        """Bilinear look-up in seconds; raises InputError outside the table's axis."""
        table = self.tables[name]
        position, context = np.broadcast_arrays(position, context)
        if position.size and not table.axis[0] <= position.min() <= position.max() <= table.axis[-1]:
            wrong = position.max() if position.max() > table.axis[-1] else position.min()
            raise InputError(
                f"{self.path}: tables.{name}: {wrong} lies outside the measured {table.axis[0]} to "
                f"{table.axis[-1]}; profile this machine with a wider range"
            )
        row, row_share = _locate(table.axis, position)
        column, column_share = _locate(self.context_lengths, context)
        ms = np.pad(np.asarray(table.ms, dtype=np.float64), ((0, 1), (0, 1)), mode="edge")
        lower = ms[row, column] * (1 - column_share) + ms[row, column + 1] * column_share
        upper = ms[row + 1, column] * (1 - column_share) + ms[row + 1, column + 1] * column_share
        return (lower * (1 - row_share) + upper * row_share) / 1e3


def _locate(axis: list[int], value: NDArray) -> tuple[NDArray, NDArray]:
    """Index of the measured point at or below `value` and the share of the next one; clamped to the axis."""
    place = np.interp(value, axis, np.arange(len(axis)))
    index = place.astype(np.int64)
    return index, place - index


def _parse_table(path: str | Path, name: str, value: dict[str, Any]) -> LatencyTable:
    """Check shape and order of one table of the JSON file."""
    table = value["tables"][name]
    contexts = value["context_lengths"]
    try:
        axis, ms = [int(point) for point in table["axis"]], np.array(table["ms"], dtype=np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: tables.{name}: expected axis and ms, rectangular ({error})") from error
    if ms.shape != (len(axis), len(contexts)) or ms.size == 0:
        raise InputError(
            f"{path}: tables.{name}: ms has shape {ms.shape}, expected {len(axis), len(contexts)}"
        )
    if sorted(set(axis)) != axis or sorted(set(contexts)) != list(contexts):
        raise InputError(f"{path}: tables.{name}: axis and context_lengths must increase")
    if not (np.isfinite(ms).all() and (ms >= 0).all()):
        raise InputError(f"{path}: tables.{name}: ms must be finite and not negative")
    return LatencyTable(axis, ms.tolist(), table.get("spread"), int(table.get("samples", 0)))
