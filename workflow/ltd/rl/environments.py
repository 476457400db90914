"""Gymnasium environments `ltd/Depth-v0` and `ltd/Size-v0`, in replay or on the decoding engine.

    import gymnasium, ltd.rl.environments
    env = gymnasium.make("ltd/Depth-v0", traces="train.safetensors", profile="profile.json", size=8)
    env = gymnasium.make("ltd/Depth-v0", backend="live", target="target", draft="draft",
                         responses="train.safetensors", profile="profile.json", size=8)

They follow the paper's formulation (section 4): the depth policy answers stop (0) or continue (1) after every
level and is paid when it stops; the size policy chooses one of `sizes` for every finished draft. The back end
`live` decodes and measures time, as in the paper; `replay` looks both up and is some thousand times faster.
"""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from ltd.engine.drafting import Drafter
from ltd.engine.loading import load_engine
from ltd.engine.target import DEFAULT_TREE, TargetModel
from ltd.errors import InputError
from ltd.replay.latency import LatencyProfile
from ltd.replay.traces import Traces
from ltd.rl.choices import FixedDepth, FixedSize
from ltd.rl.live_walk import LiveWorld
from ltd.rl.observations import ObservationSpec
from ltd.rl.policy_settings import COMPACT, SIZES, PolicyShape
from ltd.rl.replay_walk import ReplayWorld
from ltd.rl.rewards import Reward
from ltd.rl.vector_environment import DepthVecEnv, PolicyVecEnv, SizeVecEnv
from ltd.rl.worlds import World, observation_in
from ltd.texts.responses import Responses

NEEDED = {"replay": ("traces",), "live": ("target", "draft", "responses")}
OPTIONAL = {"replay": (), "live": ("temperature", "device", "dtype", "quantisation")}


def open_world(
    backend: str, profile: LatencyProfile | str | Path, sizes: tuple[int, ...], **sources: Any
) -> World:
    """Make the world of a back end from files or from objects.

    `replay` needs `traces`; `live` needs `target` (a folder, hub id or `TargetModel`), `draft` (a folder or
    `Drafter`) and `responses`, and takes `temperature` and the options device, dtype and quantisation of
    `load_engine`. Raises InputError for an unknown back end, a missing source or one that it does not take.
    """
    if backend not in NEEDED:
        raise InputError(f"backend: {backend!r} is unknown; choose from {', '.join(NEEDED)}")
    known = (*NEEDED[backend], *OPTIONAL[backend])
    if unknown := [name for name in sources if name not in known]:
        raise InputError(
            f"{unknown[0]}: neither an option of this environment nor of the back end {backend}, which takes "
            f"{', '.join(known)}"
        )
    missing = [name for name in NEEDED[backend] if sources.get(name) is None]
    if missing:
        raise InputError(f"{missing[0]}: missing; the back end {backend} needs {', '.join(NEEDED[backend])}")
    if not isinstance(profile, LatencyProfile):
        profile = LatencyProfile.load(profile)
    if backend == "replay":
        traces = sources["traces"]
        return ReplayWorld(traces if isinstance(traces, Traces) else Traces.load(traces), profile, sizes)
    return _live_world(profile, sizes, **sources)


def _live_world(
    profile: LatencyProfile,
    sizes: tuple[int, ...],
    target: TargetModel | str | Path,
    draft: Drafter | str | Path,
    responses: Responses | str | Path,
    temperature: float = 0.0,
    **options: Any,
) -> LiveWorld:
    if not isinstance(responses, Responses):
        responses = Responses.load(responses)
    if not isinstance(target, TargetModel):
        longest = max((len(answer.tokens) for answer in responses.sequences()), default=1)
        shape = {"beam": profile.beam, "max_depth": profile.max_depth}
        limits = {"max_context": longest, "max_tree": max(DEFAULT_TREE, *sizes)}
        target, draft = load_engine(target, draft, **shape, **limits, **options)
    return LiveWorld(target, draft, responses, profile, sizes, temperature)


class _PolicyEnv(gymnasium.Env[np.ndarray, np.int64]):
    """What both environments share: back end, observation, reward."""

    def __init__(
        self,
        *,
        profile: LatencyProfile | str | Path,
        backend: str = "replay",
        sizes: tuple[int, ...] = SIZES,
        observation: tuple[str, ...] = COMPACT,
        top: int = 3,
        reward: str = "throughput",
        rate: float = 1.0,
        whole_answers: bool = False,
        seed: int = 0,
        counterpart: dict[str, Any],
        **sources: Any,
    ) -> None:
        """rate: what a second is worth under the reward `marginal`, in tokens an autoregressive step;
        sources: see `open_world`. Raises InputError for an option that cannot be meant.
        """
        schedule = {name: counterpart[name] for name in ("first_decision", "interval")}
        shape = PolicyShape(sizes=tuple(sizes), top=top, **schedule)
        if reward == "saving":
            raise InputError(
                "reward: 'saving' needs a pair of policies to save time against; choose 'marginal'"
            )
        _check_constant("size", counterpart, shape.sizes[-1], "the largest of sizes")
        world = open_world(backend, profile, shape.sizes, **sources)
        _check_constant("depth", counterpart, world.max_depth, "the largest depth of the trees")
        spec = observation_in(world, tuple(observation), shape.sizes, shape.top)
        pay = Reward(reward, world.step_seconds, rate)
        common = {"lanes": 1, "whole_answers": whole_answers, "seed": seed}
        self._lane = self._build(world, spec, pay, common, **counterpart)
        self.observation_space = self._lane.observation_space
        self.action_space = spaces.Discrete(int(self._lane.action_space.n))

    def _build(
        self, world: World, spec: ObservationSpec, reward: Reward, common: dict[str, Any]
    ) -> PolicyVecEnv:
        raise NotImplementedError

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Go on behind the last episode; with a seed, at a random root of the answers."""
        super().reset(seed=seed)
        if seed is not None:
            self._lane.reseed(int(self.np_random.integers(2**31)))
        return self._lane.reset()[0], {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Apply one action; the observation after the last step of an episode is that of the next one."""
        self._lane.step_async(np.asarray([action]))
        observations, rewards, dones, _ = self._lane.step_wait()
        return observations[0], float(rewards[0]), bool(dones[0]), False, {}


def _check_constant(name: str, counterpart: dict[str, Any], largest: int, what: str) -> None:
    """Raise InputError for a size or depth, where one is given, that no cycle can have."""
    value = counterpart.get(name)
    if value is not None and not 1 <= value <= largest:
        raise InputError(f"{name}: {value}: expected 1 to {largest}, {what}")


class DepthEnv(_PolicyEnv):
    """Stop or continue after every level, against a fixed size."""

    def __init__(self, *, size: int = 8, first_decision: int = 1, interval: int = 1, **common: Any) -> None:
        """The other options are those of both environments."""
        counterpart = {"size": size, "first_decision": first_decision, "interval": interval}
        super().__init__(counterpart=counterpart, **common)

    def _build(
        self,
        world: World,
        spec: ObservationSpec,
        reward: Reward,
        common: dict[str, Any],
        size: int,
        **schedule: int,
    ) -> PolicyVecEnv:
        return DepthVecEnv(world, spec, reward, FixedSize(size, decisions=1), **schedule, **common)


class SizeEnv(_PolicyEnv):
    """Choose a size for every draft, whose depth is fixed or, when None, drawn uniformly from 1 upwards."""

    def __init__(
        self, *, depth: int | None = None, first_decision: int = 1, interval: int = 1, **common: Any
    ) -> None:
        """first_decision, interval: the schedule whose decisions a drawn depth costs; the other options are
        those of both environments.
        """
        counterpart = {"depth": depth, "first_decision": first_decision, "interval": interval}
        super().__init__(counterpart=counterpart, **common)

    def _build(
        self,
        world: World,
        spec: ObservationSpec,
        reward: Reward,
        common: dict[str, Any],
        depth: int | None,
        **schedule: int,
    ) -> PolicyVecEnv:
        fixed = None if depth is None else FixedDepth(depth)
        return SizeVecEnv(world, spec, reward, fixed, **schedule, **common)


# Live rewards are measured times: the same seed and actions need not give the same ones.
for _name, _entry in (("Depth", "DepthEnv"), ("Size", "SizeEnv")):
    gymnasium.register(f"ltd/{_name}-v0", entry_point=f"ltd.rl.environments:{_entry}", nondeterministic=True)
