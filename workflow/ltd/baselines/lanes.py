"""Replay of many candidates at once: every candidate decodes every answer, all side by side.

Equal to simulating a controller a candidate and answer, and hundreds of times faster.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ltd.rl.replay_walk import ReplayWorld, Walk

MAX_LANES = 200_000


class Chooser(Protocol):
    """Decides for lanes; `size_decisions` is 1 when the choice of a size costs what the profile says."""

    size_decisions: int

    def begin(self, lanes: int) -> None:
        """So many lanes start on new answers."""

    def choose(self, lanes: np.ndarray, candidate: np.ndarray, position: np.ndarray) -> tuple[Any, ...]:
        """Return depth, charged depth decisions and size of the given lanes, each [B] or a number."""

    def accepted(self, lanes: np.ndarray, depth: np.ndarray, count: np.ndarray) -> None:
        """So many draft tokens of trees of these depths were accepted in the given lanes."""


class Stateless:
    """The parts of a chooser that looks at the tree alone."""

    size_decisions = 0

    def begin(self, lanes: int) -> None:
        """Nothing to remember."""

    def accepted(self, lanes: np.ndarray, depth: np.ndarray, count: np.ndarray) -> None:
        """Nothing to learn."""


@dataclass(frozen=True)
class LaneResults:
    """Seconds, cycles, summed depths and summed sizes of every candidate and answer, each [C, S]."""

    seconds: np.ndarray
    cycles: np.ndarray
    depth: np.ndarray
    size: np.ndarray

    def fastest(self) -> int:
        """The candidate with the least time over all answers; the first among equals."""
        return int(self.seconds.sum(axis=1).argmin())

    def summary(self, world: ReplayWorld, candidate: int) -> dict[str, Any]:
        """Speedup over plain decoding, overall and by task, acceptance length, mean depth and size."""
        plain = np.add.reduceat(world.latency.autoregressive[world.context_length], world.starts)
        seconds, tasks = self.seconds[candidate], np.array(world.traces.tasks)
        cycles = self.cycles[candidate].sum()
        return {
            "speedup": float(plain.sum() / seconds.sum()),
            "tasks": {
                str(t): float(plain[tasks == t].sum() / seconds[tasks == t].sum()) for t in np.unique(tasks)
            },
            "acceptance_length": float(world.traces.answer_tokens.sum() / cycles),
            "mean_depth": float(self.depth[candidate].sum() / cycles),
            "mean_size": float(self.size[candidate].sum() / cycles),
        }


def replay_lanes(world: ReplayWorld, chooser: Chooser, candidates: int) -> LaneResults:
    """Decode all answers with candidates 0 .. C - 1 of a chooser."""
    answers = len(world.starts)
    at_once = max(1, MAX_LANES // answers)
    parts = [
        _replay(world, chooser, np.arange(first, min(first + at_once, candidates)))
        for first in range(0, candidates, at_once)
    ]
    return LaneResults(*np.concatenate(parts, axis=1))


def _replay(world: ReplayWorld, chooser: Chooser, candidates: np.ndarray) -> np.ndarray:
    """Return the four results [4, C, S] of some candidates."""
    answers = len(world.starts)
    candidate = np.repeat(candidates, answers)
    walk = Walk(world, np.tile(world.starts, len(candidates)))
    results = np.zeros((4, len(candidate)))
    chooser.begin(len(candidate))
    running = np.arange(len(candidate))
    while len(running):
        depth, decisions, size = chooser.choose(running, candidate[running], walk.position[running])
        walk.depth[running], walk.decisions[running] = depth, decisions
        sizes = np.broadcast_to(size, running.shape)
        depths = walk.depth[running]
        tokens, seconds, ended = walk.finish(running, sizes, chooser.size_decisions)
        results[:, running] += seconds, np.ones_like(seconds), depths, sizes
        chooser.accepted(running, depths, tokens - 1)
        running = running[~ended]
    return results.reshape(4, len(candidates), answers)
