"""Validation of a pair of policies: every answer of the traces decoded in replay, all of them side by side.

Equal to simulating a `PolicyController` answer by answer, and hundreds of times faster.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ltd.replay.static_grid import static_grid
from ltd.rl.choices import DepthChoice, SizeChoice, depth_choice, draft, size_choice
from ltd.rl.policies import Policy
from ltd.rl.replay_walk import ReplayWorld, Walk


@dataclass(frozen=True)
class Evaluation:
    """The cycles of a replay over all answers; C cycles in no particular order.

    answer, position, depth, size, tokens, seconds: [C]; size is 0 for plain steps. Over a family of machines
    the answers take turns, answer i is decoded by machine i modulo their number.
    """

    world: ReplayWorld
    answer: np.ndarray
    position: np.ndarray
    depth: np.ndarray
    size: np.ndarray
    tokens: np.ndarray
    seconds: np.ndarray

    @cached_property
    def plain_seconds(self) -> np.ndarray:
        """Autoregressive step at every position of the traces, on the machine of its answer."""
        return autoregressive_seconds(self.world)

    @cached_property
    def throughput(self) -> float:
        """Tokens per second over the whole workload."""
        return float(self.tokens.sum() / self.seconds.sum())

    @cached_property
    def speedup(self) -> float:
        """Throughput over that of plain autoregressive decoding of the same answers."""
        return float(self.plain_seconds.sum() / self.seconds.sum())

    @cached_property
    def mean_of_ratios(self) -> float:
        """Mean over cycles of tokens per autoregressive step's time: what the paper's reward maximises."""
        return float((self.tokens / self.seconds).mean() * self.world.step_seconds)

    @cached_property
    def task_speedups(self) -> dict[str, float]:
        """Speedup of every task."""
        tasks, plain = np.asarray(self.world.traces.tasks), self.plain_seconds
        task_of_position, task_of_cycle = tasks[self.world.traces.sequence], tasks[self.answer]
        return {
            str(task): float(
                plain[task_of_position == task].sum() / self.seconds[task_of_cycle == task].sum()
            )
            for task in np.unique(tasks)
        }

    def by_machine(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and seconds on every machine of the family, [P] each."""
        family = len(self.world.family)
        tokens, seconds = (np.bincount(self.answer % family, x, family) for x in (self.tokens, self.seconds))
        return tokens, seconds

    def summary(self) -> dict[str, float]:
        """The numbers that training curves show."""
        return {
            "speedup": self.speedup,
            "acceptance_length": float(self.tokens.mean()),
            "mean_depth": float(self.depth.mean()),
            "mean_size": float(self.size[self.depth > 0].mean()) if (self.depth > 0).any() else 0.0,
            "mean_of_ratios": self.mean_of_ratios,
        }


def autoregressive_seconds(world: ReplayWorld) -> np.ndarray:
    """An autoregressive step at every position of the traces, on the machine of its answer, [N]."""
    machine = world.traces.sequence % len(world.family)
    return world.latency.autoregressive[world.column(np.arange(len(machine)), machine)]


def evaluate_static(world: ReplayWorld, depth: int, size: int) -> Evaluation:
    """Replay every answer with a static setting; at depth 0 without a draft head, as in the static grid."""
    if depth:
        return evaluate(world, depth, size)
    seconds = autoregressive_seconds(world)
    position, none = np.arange(len(seconds)), np.zeros(len(seconds), dtype=np.int64)
    return Evaluation(world, world.traces.sequence, position, none, none, none + 1, seconds)


def evaluate(world: ReplayWorld, depth: Policy | int, size: Policy | int) -> Evaluation:
    """Replay every answer of the world's traces with policies or constants."""
    return evaluate_choices(world, depth_choice(depth, world), size_choice(size, world))


def evaluate_choices(world: ReplayWorld, depth: DepthChoice, size: SizeChoice) -> Evaluation:
    """As `evaluate`, for any two deciders."""
    running = np.arange(len(world.starts))
    walk = Walk(world, world.starts, running % len(world.family))
    cycles: list[tuple[np.ndarray, ...]] = []
    while len(running):
        draft(walk, running, depth)
        sizes = np.zeros(len(running), dtype=np.int64)
        drafted = walk.depth[running] > 0
        sizes[drafted] = size.sizes(walk, running[drafted])
        before = (running, walk.position[running], walk.depth[running], sizes)
        tokens, seconds, ended = walk.finish(running, sizes, size.decisions)
        cycles.append((*before, tokens, seconds))
        running = running[~ended]
    return Evaluation(world, *map(np.concatenate, zip(*cycles, strict=True)))


def best_static(world: ReplayWorld, least_depth: int = 1) -> tuple[int, int]:
    """The fastest static depth, `least_depth` or more, and size among the world's sizes."""
    depths = range(least_depth, world.max_depth + 1)
    return static_grid(world.traces, world.profile, depths, world.sizes).best()[:2]


def best_beside(
    world: ReplayWorld, kind: str, other: Policy, constants: tuple[int, ...]
) -> tuple[int, float]:
    """Find the constant action that serves best in the place of a policy.

    Args:
        kind: which policy is replaced, `depth` or `size`; other: its partner.
        constants: the depths or sizes to try.

    Returns:
        The constant and its speedup; a constant costs no decision time.
    """
    world = world.charged_for(other)
    pairs = [(constant, other) if kind == "depth" else (other, constant) for constant in constants]
    speedups = [evaluate(world, *pair).speedup for pair in pairs]
    best = int(np.argmax(speedups))
    return constants[best], speedups[best]
