"""Decoding in replay: a controller, or every static setting at once, over traces and a latency profile.

A walk begins at the first root of an answer, where prefill has emitted one token, and ends with the answer. A
cycle emits the accepted tokens and the target's own, cut at the end of the answer; its prefix pass takes the
tokens emitted since the last prefix pass (one at the start: the rows of the prompt belong to prefill).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from ltd.engine.controllers import Controller, DraftState, StaticController
from ltd.engine.tree import level_start
from ltd.errors import InputError
from ltd.replay.dense_latency import DenseLatency, dense_for
from ltd.replay.latency import LatencyProfile
from ltd.replay.table import ReplayTable
from ltd.replay.traces import Traces


@dataclass(frozen=True)
class Cycles:
    """One row a cycle, in order; all arrays int64 or float64 [number of cycles]."""

    sequence: NDArray
    context_length: NDArray
    depth: NDArray
    size: NDArray
    verified: NDArray
    accepted: NDArray
    tokens: NDArray
    seconds: NDArray


@dataclass(frozen=True)
class Simulation:
    """What one method takes for every sequence: tokens, seconds and number of cycles, each [S]."""

    tasks: list[str]
    tokens: NDArray
    seconds: NDArray
    cycles: NDArray
    log: Cycles | None = None

    def throughput(self, task: str | None = None) -> float:
        """Sum of tokens over sum of seconds, of one task or of all."""
        chosen = of_task(self.tasks, task)
        return float(self.tokens[chosen].sum() / self.seconds[chosen].sum())

    def acceptance_length(self, task: str | None = None) -> float:
        """Tokens a cycle."""
        chosen = of_task(self.tasks, task)
        return float(self.tokens[chosen].sum() / self.cycles[chosen].sum())


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


def of_task(tasks: list[str], task: str | None) -> NDArray[np.bool_]:
    """Mask over the sequences; raises InputError for a task without any."""
    chosen = np.array([task is None or name == task for name in tasks])
    if not chosen.any():
        raise InputError(f"task {task!r}: not in these traces; they hold {', '.join(sorted(set(tasks)))}")
    return chosen


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


def simulate(
    controller: Controller | None,
    traces: Traces,
    profile: LatencyProfile,
    *,
    depth_policy: bool | Callable[[int], bool] = False,
    size_policy: bool = False,
) -> Simulation:
    """Walk all answers with a controller, as the decoding loop would ask it, and keep every cycle. None is
    plain decoding, without a draft head.

    `depth_policy` and `size_policy` say whether the controller's decisions are charged with the profile's
    times of the policies; a function tells at which depths the depth policy is asked. A static setting or a
    threshold costs nothing measurable. Raises InputError when
    traces and profile do not belong together, or when the controller chooses a size without a measured time.
    """
    table, dense = ReplayTable(traces), dense_for(traces, profile, profile.max_size)
    if controller is None:
        controller, dense = StaticController(0, 1), replace(dense, plain=dense.autoregressive)
    columns: list[list[float]] = [[] for _ in Cycles.__dataclass_fields__]
    for sequence, start in enumerate(traces.starts):
        controller.begin(int(traces.context_length[start]))
        position, end, rows = int(start), int(start + traces.tokens_left[start]), 1
        while position < end:
            depth, size, decisions = _decide(controller, traces, position)
            _check_size(profile, size, depth, dense)
            accepted = int(table.accepted(position, depth, size))
            tokens = min(accepted + 1, end - position)
            context = int(traces.context_length[position])
            asked = depth_policy if callable(depth_policy) else lambda _: depth_policy
            charged = (sum(map(asked, range(decisions))), (depth > 0) * size_policy)
            seconds = float(dense.cycle_seconds(depth, size, context, rows, *charged))
            verified = min(size, int(dense.pool[depth]))
            cycle = (sequence, context, depth, size, verified, accepted, tokens, seconds)
            for column, value in zip(columns, cycle, strict=True):
                column.append(value)
            controller.accepted(accepted)
            position += tokens
            rows = tokens if depth > 0 else rows + 1
    log = Cycles(*(np.array(column) for column in columns))
    count = len(traces.starts)
    return Simulation(
        traces.tasks,
        traces.answer_tokens,
        np.bincount(log.sequence, log.seconds, count),
        np.bincount(log.sequence, minlength=count),
        log,
    )


@dataclass
class RecordedState(DraftState):
    """A draft state whose tree comes from a trace; `entropies` [max_depth] are the recorded ones, if any."""

    entropies: NDArray | None = None

    def entropy(self) -> float:
        """The recorded entropy of the newest pass; raises InputError when the traces hold none."""
        if self.entropies is None:
            raise InputError("traces: no entropy in this file; record it with entropy")
        return float(self.entropies[self.depth - 1])


def _decide(controller: Controller, traces: Traces, position: int) -> tuple[int, int, int]:
    """Ask the controller as decoding does; returns depth, size (0 at depth 0) and depth decisions made."""
    beam, max_depth = traces.beam, traces.max_depth
    scores = torch.from_numpy(np.array(traces.scores[position]))
    state = RecordedState(
        max_depth=max_depth,
        beam=beam,
        scores=torch.full_like(scores, -torch.inf),
        context_length=int(traces.context_length[position]),
        root=int(traces.root[position]),
        entropies=None if traces.entropy is None else traces.entropy[position],
    )
    decisions = 0
    while state.depth < max_depth:
        decisions += 1
        if not controller.continue_drafting(state):
            break
        state.depth += 1
        level = slice(level_start(beam, state.depth), state.pool)
        state.scores[level] = scores[level]
        if traces.features is not None:
            state.feature = torch.from_numpy(traces.features[position, state.depth - 1].astype(np.float32))
    return state.depth, controller.choose_size(state) if state.depth else 0, decisions


def _check_size(profile: LatencyProfile, size: int, depth: int, dense: DenseLatency) -> None:
    if depth > 0 and not 1 <= min(size, dense.pool[depth]) < len(dense.verify):
        raise InputError(
            f"{profile.path}: tables.verify: size {size} chosen, 1 to {profile.max_size} measured"
        )
