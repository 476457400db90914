"""Measure how many steps a second the replay environments make, without a learner.

    python -m ltd.replay_speed --traces results/default/traces/train-t0-w2.safetensors \\
        --profile results/default/latency/profile.json

Actions are random. The depth environment is the one that the target of 300,000 steps a second is about; the
paper's live environment makes some 55 on an A100. A process uses one core: training runs one beside another.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ltd.errors import InputError
from ltd.options import option, parse_options
from ltd.replay.latency import LatencyProfile
from ltd.replay.traces import Traces
from ltd.rl.choices import FixedDepth, FixedSize
from ltd.rl.policy_settings import OBSERVED, SIZES
from ltd.rl.replay_walk import ReplayWorld
from ltd.rl.rewards import Reward
from ltd.rl.vector_environment import DepthVecEnv, PolicyVecEnv, SizeVecEnv
from ltd.rl.worlds import observation_in


@dataclass(frozen=True, kw_only=True)
class SpeedOptions:
    """Options of the measurement."""

    traces: Path = option(help="traces to replay")
    profile: Path = option(help="latency profile of the same target and head")
    lanes: int = option(256, "environments stepped at once")
    steps: int = option(500, "steps of all lanes in one measurement")
    repetitions: int = option(5, "measurements; the median is printed")
    observation: tuple[str, ...] = option(OBSERVED, "parts of the observation")


def steps_per_second(env: PolicyVecEnv, steps: int, repetitions: int) -> list[float]:
    """Return the environment steps a second of every measurement, all lanes counted."""
    env.reset()
    actions = np.random.default_rng(0).integers(env.action_space.n, size=(steps, env.num_envs))
    speeds = []
    for _ in range(repetitions):
        begun = time.perf_counter()
        for row in actions:
            env.step(row)
        speeds.append(actions.size / (time.perf_counter() - begun))
    return speeds


def environments(options: SpeedOptions) -> dict[str, PolicyVecEnv]:
    """The environments of the first trainings; raises InputError for files that do not belong together."""
    if min(options.lanes, options.steps, options.repetitions) < 1:
        raise InputError("lanes, steps, repetitions: expected at least 1 of each")
    traces, profile = Traces.load(options.traces), LatencyProfile.load(options.profile)
    sizes = tuple(size for size in SIZES if size <= profile.max_size)
    world = ReplayWorld(traces, profile, sizes)
    spec = observation_in(world, options.observation, sizes)
    pay = Reward("throughput", world.step_seconds)
    common = {"lanes": options.lanes}
    return {
        "depth": DepthVecEnv(world, spec, pay, FixedSize(8, decisions=1), first_decision=1, **common),
        "size": SizeVecEnv(world, spec, pay, FixedDepth(traces.max_depth // 2), **common),
    }


def main(argv: list[str] | None = None) -> None:
    """Print one line an environment; a wrong input is one line and status 2."""
    options = parse_options(SpeedOptions, __doc__, argv)
    try:
        measured = environments(options)
    except InputError as error:
        raise SystemExit(f"replay_speed: {error}") from None
    for name, env in measured.items():
        speeds = np.array(steps_per_second(env, options.steps, options.repetitions))
        print(f"{name}: {np.median(speeds):,.0f} steps/s (from {speeds.min():,.0f} to {speeds.max():,.0f})")


if __name__ == "__main__":
    main()
