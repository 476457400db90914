"""Hundreds of replayed environments stepped at once in numpy, or a live one, for Stable-Baselines3.

Both environments follow the paper's formulation (section 4): the depth policy decides after every draft pass
and is paid when it stops; the size policy decides once a cycle. The other policy is part of the environment.
An episode is one cycle or one answer. What a cycle brings and costs is up to the world, replayed or live.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from ltd.rl.choices import DepthChoice, RandomDepth, SizeChoice, draft
from ltd.rl.observations import ObservationSpec
from ltd.rl.policies import CONTINUE
from ltd.rl.policy_settings import asked_depths
from ltd.rl.rewards import Reward
from ltd.rl.worlds import World

# A size environment must not wait for ever for a depth policy that only takes plain steps.
MAX_PLAIN_STEPS = 32
# A machine of a family sees few cycles between two updates: earlier ones keep this share of their weight.
MEMORY = 0.8


class PolicyVecEnv(VecEnv):
    """L lanes that walk along the answers of a world; what both environments share. A live world has one.

    Observations are float32 [L, spec.width]. Episodes end by themselves and are never cut off, so no terminal
    observations are given. Over a family of machines, every lane is on one, drawn when it is reseeded.
    `tokens` and `seconds` [P] add up the finished cycles of every machine for the reward's rate.
    """

    def __init__(
        self,
        world: World,
        spec: ObservationSpec,
        reward: Reward,
        actions: int,
        lanes: int,
        whole_answers: bool,
        seed: int,
    ) -> None:
        self.world, self.spec, self.reward, self.whole_answers = world, spec, reward, whole_answers
        self._table = world.observations(spec)
        self.render_mode = None
        box = spaces.Box(-np.inf, np.inf, (spec.width,), np.float32)
        super().__init__(lanes, box, spaces.Discrete(actions))
        self.all_lanes = np.arange(lanes)
        self._infos: list[dict[str, Any]] = [{} for _ in range(lanes)]
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Start all lanes afresh, anywhere in the answers, from a seed; cycles before that are forgotten."""
        self.rng = np.random.default_rng(seed)
        roots = self.rng.integers(len(self.world.context_length), size=self.num_envs)
        family = len(self.world.family)
        self.tokens, self.seconds = np.zeros(family), np.zeros(family)
        machines = self.rng.permutation(self.num_envs) % family if family > 1 else None
        self.walk = self.world.walk(roots, machines)

    def follow_rate(self) -> None:
        """Tell the reward the throughput of the finished cycles, of every machine of a family by itself."""
        if len(self.tokens) > 1:
            if self.tokens.all():
                self.reward.attain(self.tokens, self.seconds)
                self.tokens, self.seconds = MEMORY * self.tokens, MEMORY * self.seconds
        elif self.seconds[0] > 0:
            self.reward.attain(self.tokens[0], self.seconds[0])
            self.tokens[0] = self.seconds[0] = 0.0

    def reset(self) -> np.ndarray:
        """Bring every lane to its next decision, of a cycle that begins."""
        self.walk.depth[:] = self.walk.decisions[:] = 0
        self._advance(self.all_lanes)
        return self._observe()

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions [L] for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Apply the actions; return observations, rewards [L], dones [L] and empty infos."""
        rewards, dones = self._act(self._actions)
        return self._observe(), rewards, dones, self._infos

    def _act(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        raise NotImplementedError

    def _advance(self, lanes: np.ndarray) -> Any:
        raise NotImplementedError

    def _observe(self) -> np.ndarray:
        return self._table.rows(self.walk.position, self.walk.depth, self.walk.machine)

    def _finish(self, lanes: np.ndarray, sizes: np.ndarray, decisions: int) -> tuple[np.ndarray, np.ndarray]:
        """Finish cycles, put lanes whose answer is over at the start of others; return rewards and dones."""
        positions, machines = self.walk.position[lanes], self.walk.machine[lanes]
        tokens, seconds, ended = self.walk.finish(lanes, sizes, decisions)
        self.tokens += np.bincount(machines, tokens, len(self.tokens))
        self.seconds += np.bincount(machines, seconds, len(self.seconds))
        if ended.any():
            self.walk.place(lanes[ended], self.rng.choice(self.world.starts, size=ended.sum()))
        rewards = self.reward(tokens, seconds, machines, positions)
        return rewards, ended if self.whole_answers else np.ones_like(ended)

    def close(self) -> None:
        """Nothing to release."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The same attribute for every lane."""
        return [getattr(self, attr_name)] * self._count(indices)

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Lanes share their attributes."""
        setattr(self, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Call a method once and answer for every lane."""
        return [getattr(self, method_name)(*args, **kwargs)] * self._count(indices)

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """Lanes have no wrappers."""
        return [False] * self._count(indices)

    def _count(self, indices: Any) -> int:
        return len(indices) if isinstance(indices, Sequence) else self.num_envs if indices is None else 1


class DepthVecEnv(PolicyVecEnv):
    """Stop (0) or continue (1) after every level; `first_decision` 0 allows plain steps."""

    def __init__(
        self,
        world: World,
        spec: ObservationSpec,
        reward: Reward,
        size: SizeChoice,
        lanes: int = 256,
        whole_answers: bool = False,
        first_decision: int = 0,
        interval: int = 1,
        seed: int = 0,
    ) -> None:
        self.size, self.first_decision, self.interval = size, first_decision, interval
        super().__init__(world, spec, reward, 2, lanes, whole_answers, seed)

    def _advance(self, lanes: np.ndarray) -> None:
        """Cycles start at the first depth where the policy is asked."""
        self.walk.depth[lanes] = self.first_decision

    def _act(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        walk, deepest = self.walk, self.world.max_depth
        rewards = np.zeros(self.num_envs, dtype=np.float32)
        dones = np.zeros(self.num_envs, dtype=bool)
        walk.decisions += 1
        go_on = actions == CONTINUE
        walk.depth += np.where(go_on, self.interval, 0)
        stopped = np.flatnonzero(~go_on | (walk.depth >= deepest))
        if len(stopped):
            np.minimum(walk.depth, deepest, out=walk.depth)
            sizes = self.size.sizes(walk, stopped)
            rewards[stopped], dones[stopped] = self._finish(stopped, sizes, self.size.decisions)
            self._advance(stopped)
        return rewards, dones


class SizeVecEnv(PolicyVecEnv):
    """Choose one of the world's sizes for every finished draft."""

    def __init__(
        self,
        world: World,
        spec: ObservationSpec,
        reward: Reward,
        depth: DepthChoice | None = None,
        lanes: int = 256,
        whole_answers: bool = False,
        first_decision: int = 0,
        interval: int = 1,
        seed: int = 0,
    ) -> None:
        """depth None draws depths at random, from the environment's own seed; it costs the decisions of a
        policy with this schedule.
        """
        self._depth, self._sizes = depth, np.asarray(world.sizes)
        self._asked = asked_depths(first_decision, interval, world.max_depth)
        super().__init__(world, spec, reward, len(world.sizes), lanes, whole_answers, seed)

    @property
    def depth(self) -> DepthChoice:
        """The deciding counterpart."""
        return self._depth or RandomDepth(self.rng, self._asked)

    def _advance(self, lanes: np.ndarray) -> np.ndarray:
        """Draft in all lanes; lanes whose depth policy wants a plain step take it, unpaid, and draft again.

        Returns a mask [L] of the lanes whose episode such a step ended.
        """
        walk, over = self.walk, np.zeros(self.num_envs, dtype=bool)
        for _ in range(MAX_PLAIN_STEPS):
            draft(walk, lanes, self.depth)
            lanes = lanes[walk.depth[lanes] == 0]
            if not len(lanes):
                return over
            over[lanes] |= self._finish(lanes, np.zeros(len(lanes), dtype=np.int64), 0)[1]
        walk.depth[lanes] = 1
        return over

    def _act(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rewards, dones = self._finish(self.all_lanes, self._sizes[actions], 1)
        return rewards, dones | self._advance(self.all_lanes)
