"""Methods in replay on the test prompts: what every answer and every cycle took, as tables."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from ltd.ablations.policy_methods import DEFAULT_DEPTH, load_choices
from ltd.engine.controllers import static_or_plain
from ltd.errors import InputError
from ltd.measurement.replayed_runs import answer_labels
from ltd.methods import BASELINE, GRID, ORACLE
from ltd.replay.latency import LatencyProfile
from ltd.replay.oracle import oracle
from ltd.replay.simulator import Simulation, simulate
from ltd.replay.traces import Traces
from ltd.rl.evaluation import Evaluation, evaluate
from ltd.rl.policies import Policy
from ltd.rl.replay_walk import ReplayWorld

RUN_KEYS = ["method", "task", "prompt", "turn", "temperature", "source"]


def replay(
    methods: tuple[str, ...],
    traces: Traces,
    profile: LatencyProfile,
    grid: Mapping[str, int],
    policies: Path,
    default_depth: int = DEFAULT_DEPTH,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Replay plain decoding, the best static setting, the oracle and every one of `methods`.

    grid, default_depth: as in `ltd.ablations.policy_methods.load_choices`.

    Returns:
        runs, a row an answer: method, task, prompt, turn, temperature, source, tokens, seconds.
        cycles, a row a cycle: method, task, depth, verified, tokens, seconds, and the seconds of both
        policies, depth_policy and size_policy (the former alone where cycles are planned before they begin).
    """
    world = ReplayWorld(traces, profile, tuple(range(1, profile.max_size + 1)))
    others = [name for name in methods if name not in (BASELINE, GRID)]
    choices = {name: load_choices(policies, name, grid, default_depth) for name in others}
    for name, (depth, _) in choices.items():
        if isinstance(depth, int) and depth > traces.max_depth:
            raise InputError(
                f"{name}: decodes at depth {depth}, but the traces have trees of {traces.max_depth} levels; "
                "lower benchmark.default_depth"
            )
    static = {BASELINE: None, GRID: static_or_plain(grid["depth"], grid["size"])}
    logs = {name: _simulated_cycles(simulate(one, traces, profile)) for name, one in static.items()}
    logs |= {name: _cycles(world.charged_for(*pair), *pair) for name, pair in choices.items()}
    logs[ORACLE] = _simulated_cycles(oracle(traces, profile, world.sizes))
    cycles = pd.concat([log.assign(method=name) for name, log in logs.items()], ignore_index=True)
    cycles = cycles.join(answer_labels(traces), on="answer")
    runs = cycles.groupby(RUN_KEYS, sort=False)[["tokens", "seconds"]].sum().reset_index()
    return runs, cycles


def _cycles(world: ReplayWorld, depth: Policy | int, size: Policy | int) -> pd.DataFrame:
    log = evaluate(world, depth, size)
    table = pd.DataFrame({name: getattr(log, name) for name in ("answer", "depth", "tokens", "seconds")})
    verified = np.minimum(log.size, world.latency.pool[log.depth])
    asked, times = depth_decisions(log, depth), world.latency.decisions
    depth_seconds = times.seconds(asked)
    size_seconds = times.seconds(asked, (log.depth > 0) * isinstance(size, Policy)) - depth_seconds
    return table.assign(verified=verified, depth_policy=depth_seconds, size_policy=size_seconds)


def depth_decisions(log: Evaluation, depth: Policy | int) -> np.ndarray:
    """Depth decisions of every cycle; the last one is that at which drafting stopped."""
    if isinstance(depth, int):
        return np.zeros(len(log.depth), dtype=np.int64)
    levels = np.arange(log.world.max_depth)
    decisions = np.concatenate([[0], np.cumsum(depth.asked(levels))])
    return decisions[np.minimum(log.depth + 1, log.world.max_depth)]


def _simulated_cycles(simulation: Simulation) -> pd.DataFrame:
    names = ("depth", "verified", "tokens", "seconds")
    table = pd.DataFrame({name: getattr(simulation.log, name) for name in names})
    return table.assign(answer=simulation.log.sequence, depth_policy=0.0, size_policy=0.0)
