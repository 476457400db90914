"""Draft traces: what the drafter would draft at every position of the target's answers, and what it gains.

A trace is free of any machine's speed. Position i of a trace is one place where a cycle may start: the root
is the newest token, the tree below it is drafted to the largest depth. All nodes of the tree form the pool,
level after level: level 1 has W nodes by rank, each later level W * W nodes ordered by (parent's place in the
beam, rank among its children).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltd.engine.controllers import NO_TOKEN, RECENT
from ltd.engine.tree import pool_size
from ltd.errors import InputError
from ltd.files import atomic_path

FORMAT = "ltd-traces-1"
NO_RANK = np.uint16(65535)
COLUMNS = ("scores", "true_node", "ranks", "beams", "root", "context_length", "sequence", "tokens_left")
OPTIONAL_COLUMNS = ("entropy", "features")
HEADER = ("beam", "max_depth", "temperature", "target_hash", "draft_hash", "sequences")


def level_starts(beam: int, max_depth: int) -> NDArray[np.int64]:
    """Pool index of the first node of levels 1 .. max_depth, int64 [max_depth]."""
    return np.array([pool_size(beam, depth) for depth in range(max_depth)], dtype=np.int64)


@dataclass(frozen=True)
class Traces:
    """N positions; those of one answer are consecutive, in order, and every place a cycle can start is there.

    Shapes (W beam, D largest depth, P = pool_size(W, D), H the draft head's width):
    scores float32 [N, P], cumulative draft log-probabilities in pool order;
    true_node int32 [N, D], pool index of the node of each level on the target's continuation, -1 where the
    continuation has left the tree or the beam;
    ranks uint16 [N, D, D], ranks[i, d-1, l-1] = place of true_node[i, l-1] among all nodes of levels <= d by
    (score descending, index ascending), 65535 where there is none or l > d;
    beams uint8 or uint16 [N, D, W], indices within the level of the expanded nodes, in rank order;
    root int32 [N], the root token; context_length int32 [N], tokens before it; sequence int32 [N], index into
    `sequences`; tokens_left int32 [N], tokens of the answer after the root;
    entropy float32 [N, D], of the draft distribution that the pass of each level computed for the best of the
    nodes it expanded (level 1: for the root), in nats; features float16 [N, D, H], the head's hidden
    state there.
    """

    scores: NDArray
    true_node: NDArray
    ranks: NDArray
    beams: NDArray
    root: NDArray
    context_length: NDArray
    sequence: NDArray
    tokens_left: NDArray
    beam: int
    max_depth: int
    temperature: float
    target_hash: str
    draft_hash: str
    sequences: list[dict[str, Any]]
    entropy: NDArray | None = None
    features: NDArray | None = None

    def __len__(self) -> int:
        return len(self.context_length)

    @property
    def starts(self) -> NDArray[np.int64]:
        """First position of every sequence, int64 [number of sequences]."""
        return np.flatnonzero(np.diff(self.sequence, prepend=-1))

    @property
    def answer_tokens(self) -> NDArray[np.int64]:
        """Tokens that cycles emit for every sequence (all of the answer but its first), int64."""
        return self.tokens_left[self.starts].astype(np.int64)

    @cached_property
    def recent(self) -> NDArray[np.int64]:
        """The answer's newest tokens at every position, the root first, NO_TOKEN before its first, int64
        [N, RECENT].
        """
        lengths = np.diff(self.starts, append=len(self))
        place = np.arange(len(self)) - np.repeat(self.starts, lengths)
        recent = np.full((len(self), RECENT), NO_TOKEN)
        for back in range(RECENT):
            there = np.flatnonzero(place >= back)
            recent[there, back] = self.root[there - back]
        return recent

    @property
    def tasks(self) -> list[str]:
        """The task of every sequence."""
        return [sequence["task"] for sequence in self.sequences]

    def save(self, path: str | Path) -> None:
        """Write one safetensors file atomically; everything but the columns stands in its header."""
        from safetensors.numpy import save_file

        columns = {name: np.ascontiguousarray(value) for name, value in self.columns().items()}
        header = {name: getattr(self, name) for name in HEADER}
        # One entry: the order of several would differ from file to file, and equal traces be unequal files.
        with atomic_path(path) as temporary:
            save_file(columns, temporary, metadata={FORMAT: json.dumps(header, ensure_ascii=False)})

    def columns(self) -> dict[str, NDArray]:
        """The arrays that are present, by name."""
        values = {name: getattr(self, name) for name in COLUMNS + OPTIONAL_COLUMNS}
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def load(cls, path: str | Path) -> "Traces":
        """Map a trace file into memory; pages are read when first touched.

        Raises InputError when the file is absent, of another kind, empty or inconsistent.
        """
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            raise InputError(f"{path}: no such trace file; record one with python -m ltd.record_traces")
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                columns = {name: file.get_tensor(name).numpy() for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise InputError(f"{path}: not a whole safetensors file ({error})") from error
        if FORMAT not in header or not set(COLUMNS) <= columns.keys():
            raise InputError(f"{path}: not a trace file of this version; record it again")
        traces = cls(**columns, **json.loads(header[FORMAT]))
        check(traces, str(path))
        return traces


def check(traces: Traces, name: str) -> None:
    """Raise InputError, beginning with `name`, unless shapes and order are as documented."""
    n, depth, beam = len(traces), traces.max_depth, traces.beam
    if n == 0:
        raise InputError(f"{name}: no position in these traces; at least one answer of two tokens is needed")
    expected = {
        "scores": (n, pool_size(beam, depth)),
        "true_node": (n, depth),
        "ranks": (n, depth, depth),
        "beams": (n, depth, beam),
        "root": (n,),
        "sequence": (n,),
        "tokens_left": (n,),
        "entropy": (n, depth),
        "features": (n, depth, 0 if traces.features is None else traces.features.shape[-1]),
    }
    for column, value in traces.columns().items():
        if column in expected and value.shape != expected[column]:
            raise InputError(f"{name}: {column} has shape {value.shape}, expected {expected[column]}")
    starts = traces.starts
    ends = np.append(starts[1:], n) - 1
    inside = np.ones(n, dtype=bool)
    inside[starts] = False
    steps_down = (np.diff(traces.tokens_left, prepend=0) == -1) & (
        np.diff(traces.context_length, prepend=0) == 1
    )
    if (
        not np.array_equal(traces.sequence[starts], np.arange(len(traces.sequences)))
        or not steps_down[inside].all()
        or not (traces.tokens_left[ends] == 1).all()
    ):
        raise InputError(f"{name}: positions must be grouped by answer, in order, down to one token left")


def true_path_ranks(scores: NDArray, true_node: NDArray, beam: int) -> NDArray[np.uint16]:
    """Rank the nodes on the target's continuation inside the trees of every depth.

    scores float32 [N, P], true_node int32 [N, D] -> uint16 [N, D, D] as `Traces.ranks`. A child never scores
    above its parent and comes later in the pool, so "the V best nodes" is closed under ancestors, and the
    accepted length of (d, V) is the number of these ranks below V.
    """
    n, max_depth = true_node.shape
    starts = level_starts(beam, max_depth)
    index = np.arange(scores.shape[1])
    ranks = np.full((n, max_depth, max_depth), NO_RANK, dtype=np.uint16)
    for level in range(max_depth):
        rows = np.flatnonzero(true_node[:, level] >= 0)
        nodes = true_node[rows, level][:, None]
        own = np.take_along_axis(scores[rows], nodes, axis=1)
        ahead = (scores[rows] > own) | ((scores[rows] == own) & (index < nodes))
        by_depth = np.add.reduceat(ahead, starts, axis=1, dtype=np.int32).cumsum(axis=1)
        ranks[rows, level:, level] = by_depth[:, level:]
    return ranks


def concatenate(parts: Sequence[Traces]) -> Traces:
    """Join traces of different answers that were recorded alike; sequences are numbered on."""
    counts = [len(part.sequences) for part in parts]
    first = np.cumsum([0, *counts[:-1]])
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in parts[0].columns()}
    numbered = [part.sequence + offset for part, offset in zip(parts, first, strict=True)]
    columns["sequence"] = np.concatenate(numbered).astype(np.int32)
    return replace(parts[0], **columns, sequences=[label for part in parts for label in part.sequences])


def of_tasks(traces: Traces, tasks: tuple[str, ...], name: str, key: str = "rl.train_tasks") -> Traces:
    """Keep the answers of some tasks (all when none is named); InputError, which names the traces and the key
    that lists the tasks, for one without any.
    """
    missing = [task for task in tasks if task not in traces.tasks]
    if missing:
        known = ", ".join(sorted(set(traces.tasks)))
        raise InputError(f"{key}: {missing[0]!r} has no answers in {name}; it holds {known}")
    if not tasks or set(tasks) == set(traces.tasks):
        return traces
    kept = np.flatnonzero([task in tasks for task in traces.tasks])
    rows = np.isin(traces.sequence, kept)
    columns = {column: values[rows] for column, values in traces.columns().items()}
    columns["sequence"] = np.searchsorted(kept, columns["sequence"]).astype(np.int32)
    return replace(traces, **columns, sequences=[traces.sequences[i] for i in kept])
