"""Gymnasium environments `ltd/Depth-v0` and `ltd/Size-v0`: one lane of the vectorised replay.

    import gymnasium, ltd.rl.environments
    env = gymnasium.make("ltd/Depth-v0", traces="train.safetensors", profile="profile.json", size=8)

They follow the paper's formulation (section 4): the depth policy answers stop (0) or continue (1) after every
level and is paid when it stops; the size policy chooses one of `sizes` for every finished draft.
"""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from ltd.replay.latency import LatencyProfile
from ltd.replay.traces import Traces
from ltd.rl.choices import FixedDepth, FixedSize
from ltd.rl.observations import ObservationSpec
from ltd.rl.policy_settings import COMPACT, SIZES
from ltd.rl.replay_walk import ReplayWorld
from ltd.rl.rewards import Reward
from ltd.rl.vector_environment import DepthVecEnv, ReplayVecEnv, SizeVecEnv


class _ReplayEnv(gymnasium.Env[np.ndarray, np.int64]):
    """What both environments share: traces and profile from files or as objects, observation, reward."""

    def __init__(
        self,
        traces: Traces | str | Path,
        profile: LatencyProfile | str | Path,
        *,
        sizes: tuple[int, ...] = SIZES,
        observation: tuple[str, ...] = COMPACT,
        top: int = 3,
        reward: str = "throughput",
        rate: float = 1.0,
        whole_answers: bool = True,
        seed: int = 0,
        **counterpart: Any,
    ) -> None:
        """rate: what a second is worth under the reward `marginal`, in tokens an autoregressive step."""
        if not isinstance(traces, Traces):
            traces = Traces.load(traces)
        if not isinstance(profile, LatencyProfile):
            profile = LatencyProfile.load(profile)
        world = ReplayWorld(traces, profile, tuple(sizes))
        spec = ObservationSpec(tuple(observation), traces.beam, traces.max_depth, tuple(sizes), top)
        pay = Reward(reward, world.step_seconds, rate)
        common = {"lanes": 1, "whole_answers": whole_answers, "seed": seed}
        self._lane = self._build(world, spec, pay, common, **counterpart)
        self.observation_space = self._lane.observation_space
        self.action_space = spaces.Discrete(int(self._lane.action_space.n))

    def _build(
        self, world: ReplayWorld, spec: ObservationSpec, reward: Reward, common: dict[str, Any]
    ) -> ReplayVecEnv:
        raise NotImplementedError

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode at a random root of the answers."""
        super().reset(seed=seed)
        self._lane.reseed(int(self.np_random.integers(2**31)))
        return self._lane.reset()[0], {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Apply one action; the observation after the last step of an episode is that of the next one."""
        self._lane.step_async(np.asarray([action]))
        observations, rewards, dones, _ = self._lane.step_wait()
        return observations[0], float(rewards[0]), bool(dones[0]), False, {}


class DepthEnv(_ReplayEnv):
    """Stop or continue after every level, against a fixed size."""

    def _build(
        self,
        world: ReplayWorld,
        spec: ObservationSpec,
        reward: Reward,
        common: dict[str, Any],
        size: int = 8,
        first_decision: int = 1,
        interval: int = 1,
    ) -> ReplayVecEnv:
        counterpart = FixedSize(size, decisions=1)
        schedule = {"first_decision": first_decision, "interval": interval}
        return DepthVecEnv(world, spec, reward, counterpart, **schedule, **common)


class SizeEnv(_ReplayEnv):
    """Choose a size for every draft, whose depth is fixed or, when None, drawn uniformly from 1 upwards."""

    def _build(
        self,
        world: ReplayWorld,
        spec: ObservationSpec,
        reward: Reward,
        common: dict[str, Any],
        depth: int | None = None,
    ) -> ReplayVecEnv:
        counterpart = None if depth is None else FixedDepth(depth)
        return SizeVecEnv(world, spec, reward, counterpart, **common)


gymnasium.register("ltd/Depth-v0", entry_point="ltd.rl.environments:DepthEnv")
gymnasium.register("ltd/Size-v0", entry_point="ltd.rl.environments:SizeEnv")
