"""Every static setting at once in replay: the walk of `ltd.replay.simulator`, a lane for each of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltd.errors import InputError
from ltd.files import read_json
from ltd.replay.dense_latency import DenseLatency, dense_for
from ltd.replay.latency import LatencyProfile
from ltd.replay.simulator import Simulation, of_task
from ltd.replay.table import ReplayTable
from ltd.replay.traces import Traces


@dataclass(frozen=True)
class StaticGrid:
    """All static settings: seconds, cycles [depths, sizes, S], tokens [S]; depth 0 repeats over the sizes."""

    depths: tuple[int, ...]
    sizes: tuple[int, ...]
    tasks: list[str]
    tokens: NDArray
    seconds: NDArray
    cycles: NDArray

    def throughput(self, task: str | None = None) -> NDArray:
        """Sum of tokens over sum of seconds, [depths, sizes]."""
        chosen = of_task(self.tasks, task)
        return self.tokens[chosen].sum() / self.seconds[:, :, chosen].sum(axis=-1)

    def acceptance_length(self) -> NDArray:
        """Tokens a cycle, [depths, sizes]."""
        return self.tokens.sum() / self.cycles.sum(axis=-1)

    def best(self, task: str | None = None) -> tuple[int, int, float]:
        """The fastest (depth, size) and its throughput; the smallest tree among equals."""
        throughput = self.throughput(task)
        row, column = np.unravel_index(throughput.argmax(), throughput.shape)
        return self.depths[row], self.sizes[column], float(throughput[row, column])

    def setting(self, depth: int, size: int) -> Simulation:
        """The result of one setting."""
        row, column = self.depths.index(depth), self.sizes.index(size)
        return Simulation(self.tasks, self.tokens, self.seconds[row, column], self.cycles[row, column])

    def best_per_task(self) -> Simulation:
        """Every task with the setting that is fastest for it: the bound of one choice per task."""
        settings = {task: self.setting(*self.best(task)[:2]) for task in set(self.tasks)}
        place = enumerate(self.tasks)
        pairs = [(settings[task].seconds[i], settings[task].cycles[i]) for i, task in place]
        seconds, cycles = map(np.array, zip(*pairs, strict=True))
        return Simulation(self.tasks, self.tokens, seconds, cycles)


def static_grid(
    traces: Traces, profile: LatencyProfile, depths: Sequence[int], sizes: Sequence[int]
) -> StaticGrid:
    """Walk all answers with every (depth, size) at once; a static setting asks no policy.

    Raises InputError when traces and profile do not belong together, or lack a depth or size asked for.
    """
    depths, sizes = tuple(depths), tuple(sizes)
    if not depths or min(depths) < 0 or max(depths) > traces.max_depth:
        raise InputError(f"depths: {depths} asked for, the traces hold 0 to {traces.max_depth}")
    if not sizes or min(sizes) < 1:
        raise InputError(f"sizes: {sizes} asked for; the smallest tree has one node")
    table, dense = ReplayTable(traces), dense_for(traces, profile, max(sizes))
    shape = (len(depths), len(sizes), len(traces.starts))
    seconds, cycles = np.empty(shape), np.empty(shape, dtype=np.int64)
    for row, depth in enumerate(depths):
        if depth == 0:
            steps = dense.autoregressive[traces.context_length]
            seconds[row] = np.add.reduceat(steps, traces.starts)
            cycles[row] = traces.answer_tokens
        else:
            seconds[row], cycles[row] = _walk_depth(
                traces, table.token_table(depth, sizes), dense, depth, sizes
            )
    return StaticGrid(depths, sizes, traces.tasks, traces.answer_tokens, seconds, cycles)


def _walk_depth(
    traces: Traces, tokens: NDArray, dense: DenseLatency, depth: int, sizes: tuple[int, ...]
) -> tuple[NDArray, NDArray]:
    """Seconds and cycles [sizes, S] of one depth; tokens uint8 [N, sizes] emitted at every position.

    One lane for each size and sequence, all moving by a cycle at a time.
    """
    verified = np.minimum(sizes, dense.pool[depth])
    per_node = dense.draft_steps[depth] + dense.verify[verified]  # [sizes, contexts]
    left = np.asarray(traces.tokens_left)
    context_length = np.asarray(traces.context_length)
    position = np.tile(traces.starts, len(sizes))
    column = np.repeat(np.arange(len(sizes)), len(traces.starts))
    lane = np.arange(len(position))
    seconds, cycles = np.zeros(len(position)), np.zeros(len(position), dtype=np.int64)
    rows = np.ones(len(position), dtype=np.int64)
    while len(lane):
        context = context_length[position]
        seconds[lane] += dense.prefix_seconds(rows, context) + per_node[column, context]
        cycles[lane] += 1
        rows = tokens[position, column].astype(np.int64)
        going = rows < left[position]
        lane, column, rows = lane[going], column[going], rows[going]
        position = position[going] + rows
    return seconds.reshape(len(sizes), -1), cycles.reshape(len(sizes), -1)


def in_hindsight(traces: Traces, profile: LatencyProfile, depth: int, size: int) -> dict[str, Any]:
    """The setting, `depth` and `size`, that serves these answers best with these times, and its `gain`: by
    what share its throughput lies above that of the setting that was chosen beforehand.
    """
    found = static_grid(traces, profile, range(traces.max_depth + 1), range(1, profile.max_size + 1))
    best_depth, best_size, throughput = found.best()
    chosen = found.throughput()[found.depths.index(depth), found.sizes.index(size)]
    return {"depth": best_depth, "size": best_size, "gain": float(throughput / chosen) - 1}


def read_best(path: Path, beam: int) -> dict[str, Any]:
    """Read the best setting, `depth` and `size`, of a finished search (grid.json).

    Raises InputError where it is one for trees of another beam than they are drafted with.
    """
    best = read_json(path)["best"]
    if best["beam"] != beam:
        raise InputError(
            f"{path}: the best static setting is one of beam {best['beam']}, trees are drafted with {beam}; "
            "search that beam alone"
        )
    return best
