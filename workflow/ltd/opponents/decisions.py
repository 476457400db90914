"""Decisions worked out beforehand for every position and depth, and their replay.

A rule that looks at a draft alone decides the same whenever a cycle starts at a position, so all its
decisions over some traces fit into two tables, and a replay is a walk over the tables.
"""

from dataclasses import dataclass

import numpy as np

from ltd.rl.choices import DepthChoice, SizeChoice
from ltd.rl.evaluation import Evaluation, evaluate_choices
from ltd.rl.replay_walk import ReplayWorld, Walk


@dataclass(frozen=True)
class Decisions:
    """What is decided at N positions: go_on bool [N, 1 + D] at every depth, sizes [N, 1 + D] at every stop.

    asked bool [1 + D] tells at which depths deciding costs time; elsewhere go_on must be True. What stands at
    the largest depth of go_on, and at depth 0 of sizes, is not read.
    """

    go_on: np.ndarray
    sizes: np.ndarray
    asked: np.ndarray

    def deciders(self) -> tuple[DepthChoice, SizeChoice]:
        """Who decides so."""
        return _DecidedDepth(self), _DecidedSize(self)

    def replay(self, world: ReplayWorld) -> Evaluation:
        """Walk all answers of the world with these decisions."""
        return evaluate_choices(world, *self.deciders())


class _DecidedDepth:
    """A `ltd.rl.choices.DepthChoice` from the tables."""

    def __init__(self, decisions: Decisions) -> None:
        self.decisions = decisions

    def go_on(self, walk: Walk, lanes: np.ndarray) -> np.ndarray:
        """Look up whether to draft on."""
        depth = walk.depth[lanes]
        walk.decisions[lanes] += self.decisions.asked[depth]
        return self.decisions.go_on[walk.position[lanes], depth]


class _DecidedSize:
    """A `ltd.rl.choices.SizeChoice` from the tables."""

    decisions = 1

    def __init__(self, decisions: Decisions) -> None:
        self._sizes = decisions.sizes

    def sizes(self, walk: Walk, lanes: np.ndarray) -> np.ndarray:
        """Look up the sizes."""
        return self._sizes[walk.position[lanes], walk.depth[lanes]]
