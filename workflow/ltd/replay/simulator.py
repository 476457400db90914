"""Decoding in replay: a controller over traces and a latency profile.

A walk begins at the first root of an answer, where prefill has emitted one token, and ends with the answer. A
cycle emits the accepted tokens and the target's own, cut at the end of the answer; its prefix pass takes the
tokens emitted since the last prefix pass (one at the start: the rows of the prompt belong to prefill).
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from ltd.engine.controllers import Controller, DraftState, StaticController, check_tree
from ltd.engine.tree import pool_size
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

    @classmethod
    def of_cycles(cls, traces: Traces, log: Cycles) -> "Simulation":
        """Add up the cycles in which the answers of some traces were walked."""
        count = len(traces.starts)
        return cls(
            traces.tasks,
            traces.answer_tokens,
            np.bincount(log.sequence, log.seconds, count),
            np.bincount(log.sequence, minlength=count),
            log,
        )

    def throughput(self, task: str | None = None) -> float:
        """Sum of tokens over sum of seconds, of one task or of all."""
        chosen = of_task(self.tasks, task)
        return float(self.tokens[chosen].sum() / self.seconds[chosen].sum())

    def acceptance_length(self, task: str | None = None) -> float:
        """Tokens a cycle."""
        chosen = of_task(self.tasks, task)
        return float(self.tokens[chosen].sum() / self.cycles[chosen].sum())


def of_task(tasks: list[str], task: str | None) -> NDArray[np.bool_]:
    """Mask over the sequences; raises InputError for a task without any."""
    chosen = np.array([task is None or name == task for name in tasks])
    if not chosen.any():
        raise InputError(f"task {task!r}: not in these traces; they hold {', '.join(sorted(set(tasks)))}")
    return chosen


def simulate(controller: Controller | None, traces: Traces, profile: LatencyProfile) -> Simulation:
    """Walk all answers with a controller, as the decoding loop would ask it, and keep every cycle. None is
    plain decoding, without a draft head.

    A controller that decides has `weights`, how many its networks have by kind, `depth` or `size` (0: it
    compares numbers), and tells by `asked(depth)` where it decides about the depth; `blind` is set where it
    sees nothing of the draft. `LatencyProfile.with_networks` says what decisions are charged; a static
    setting costs nothing. Raises InputError when traces and profile do not belong together, when the
    controller was fitted to other trees, or when it chooses a size without a measured time.
    """
    if controller is not None:
        check_tree(controller, traces.beam, traces.max_depth)
    weights = getattr(controller, "weights", {})
    profile = profile.with_networks(weights, getattr(controller, "blind", False))
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
            asked = sum(map(controller.asked, range(decisions))) if "depth" in weights else 0
            charged = (asked, (depth > 0) * ("size" in weights))
            seconds = float(dense.cycle_seconds(depth, size, context, rows, *charged))
            verified = min(size, int(dense.pool[depth]))
            cycle = (sequence, context, depth, size, verified, accepted, tokens, seconds)
            for column, value in zip(columns, cycle, strict=True):
                column.append(value)
            controller.accepted(accepted)
            position += tokens
            rows = tokens if depth > 0 else rows + 1
    return Simulation.of_cycles(traces, Cycles(*(np.array(column) for column in columns)))


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
        recent=traces.recent[position],
        entropies=None if traces.entropy is None else traces.entropy[position],
    )
    decisions = 0
    while state.depth < max_depth:
        decisions += 1
        if not controller.continue_drafting(state):
            break
        state.depth += 1
        level = slice(pool_size(beam, state.depth - 1), state.pool)
        state.scores[level] = scores[level]
        if traces.features is not None:
            state.feature = torch.from_numpy(traces.features[position, state.depth - 1].astype(np.float32))
    return state.depth, controller.choose_size(state) if state.depth else 0, decisions


def _check_size(profile: LatencyProfile, size: int, depth: int, dense: DenseLatency) -> None:
    if depth > 0 and not 1 <= min(size, dense.pool[depth]) < len(dense.verify):
        raise InputError(
            f"{profile.path}: tables.verify: size {size} chosen, 1 to {profile.max_size} measured"
        )
