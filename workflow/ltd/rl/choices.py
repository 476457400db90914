"""Who decides in a replay: trained policies, constants and chance, for many lanes at once."""

from typing import Protocol

import numpy as np

from ltd.rl.policies import CONTINUE, Policy
from ltd.rl.worlds import Lanes, World


class DepthChoice(Protocol):
    """Decides whether drafting goes on."""

    def go_on(self, walk: Lanes, lanes: np.ndarray) -> np.ndarray:
        """Return a mask [B] of the lanes that draft one more level; counts the decisions that cost time."""


class SizeChoice(Protocol):
    """Decides how many nodes are verified; `decisions` is 1 when asking it costs time."""

    decisions: int

    def sizes(self, walk: Lanes, lanes: np.ndarray) -> np.ndarray:
        """Return the sizes [B] of the finished drafts of the given lanes."""


def draft(walk: Lanes, lanes: np.ndarray, choice: DepthChoice) -> None:
    """Draft level after level until `choice` stops, or the largest depth is reached, in all given lanes."""
    while len(lanes := lanes[walk.depth[lanes] < walk.world.max_depth]):
        lanes = lanes[choice.go_on(walk, lanes)]
        walk.depth[lanes] += 1


class FixedDepth:
    """Always the same depth, at no cost."""

    def __init__(self, depth: int) -> None:
        self.depth = depth

    def go_on(self, walk: Lanes, lanes: np.ndarray) -> np.ndarray:
        """Continue below the fixed depth."""
        return walk.depth[lanes] < self.depth


class RandomDepth:
    """A depth drawn uniformly from 1 to the largest: the counterpart of the first size training (paper, 4.2).

    Its decisions cost what those of a depth policy that is asked at the depths `asked` would.
    """

    def __init__(self, rng: np.random.Generator, asked: np.ndarray) -> None:
        self.rng, self._asked = rng, asked

    def go_on(self, walk: Lanes, lanes: np.ndarray) -> np.ndarray:
        """Stop with the hazard that makes every depth equally likely."""
        depth = walk.depth[lanes]
        walk.decisions[lanes] += np.isin(depth, self._asked)
        chance = np.where(depth > 0, 1 / (walk.world.max_depth - depth + 1), 0)
        return self.rng.random(len(lanes)) >= chance


class PolicyDepth:
    """The most probable action of a trained depth policy."""

    def __init__(self, policy: Policy, world: World) -> None:
        self.policy, self._table = policy, world.observations(policy.spec)

    def go_on(self, walk: Lanes, lanes: np.ndarray) -> np.ndarray:
        """Ask the policy where it is to be asked; go on elsewhere."""
        answer = np.ones(len(lanes), dtype=bool)
        asked = self.policy.asked(walk.depth[lanes])
        lanes = lanes[asked]
        walk.decisions[lanes] += 1
        rows = self._table.rows(walk.position[lanes], walk.depth[lanes], walk.machine[lanes])
        answer[asked] = self.policy.network.logits(rows).argmax(axis=1) == CONTINUE
        return answer


class FixedSize:
    """Always the same size; it stands for a policy's (decisions 1) or is a plain constant (decisions 0)."""

    def __init__(self, size: int, decisions: int) -> None:
        self.size, self.decisions = size, decisions

    def sizes(self, walk: Lanes, lanes: np.ndarray) -> np.ndarray:
        """The fixed size for every lane."""
        return np.full(len(lanes), self.size)


class PolicySize:
    """The most probable action of a trained size policy."""

    decisions = 1

    def __init__(self, policy: Policy, world: World) -> None:
        self.policy, self._table = policy, world.observations(policy.spec)
        self._actions = np.asarray(policy.actions)

    def sizes(self, walk: Lanes, lanes: np.ndarray) -> np.ndarray:
        """Ask the policy for every lane."""
        rows = self._table.rows(walk.position[lanes], walk.depth[lanes], walk.machine[lanes])
        return self._actions[self.policy.network.logits(rows).argmax(axis=1)]


def depth_choice(depth: Policy | int, world: World) -> DepthChoice:
    """Wrap a policy or a constant depth."""
    return FixedDepth(depth) if isinstance(depth, int) else PolicyDepth(depth, world)


def size_choice(size: Policy | int, world: World) -> SizeChoice:
    """Wrap a policy or a constant size."""
    return FixedSize(size, decisions=0) if isinstance(size, int) else PolicySize(size, world)
