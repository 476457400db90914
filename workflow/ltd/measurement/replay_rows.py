"""The replayed side of the benchmark: the same methods and prompts in arithmetic, and the clairvoyant oracle.

Beside the measured rows they show how well traces and latency profile predict the clock; the oracle, which
no method can decode with, exists here alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ltd.engine.controllers import Controller
from ltd.measurement.replayed_runs import answer_labels, replayed_runs
from ltd.measurement.summary import PHASES
from ltd.methods import BASELINE, ORACLE
from ltd.replay.latency import LatencyProfile
from ltd.replay.oracle import oracle
from ltd.replay.simulator import Simulation, simulate
from ltd.replay.traces import Traces
from ltd.texts.responses import Sequence


@dataclass(frozen=True)
class ReplayRows:
    """Runs and cycles as the summary takes them; the oracle's cycles alone (temperature, task, depth,
    size, tokens).
    """

    runs: pd.DataFrame
    cycles: pd.DataFrame
    oracle: pd.DataFrame


def replay_rows(
    controllers: Mapping[str, Controller | None],
    traces: Traces,
    profile: LatencyProfile,
    prompts: list[Sequence],
) -> ReplayRows:
    """Simulate every method on the traces of the benchmark's prompts; None stands for plain decoding.

    Replay walks whole recorded answers, from the first token on: cycle by cycle as the clock does where the
    benchmark's answers are as long, but for rounding (see `as_recorded`). The oracle may verify any number of
    nodes up to the largest measured.
    """
    simulations = {name: simulate(controller, traces, profile) for name, controller in controllers.items()}
    simulations[ORACLE] = oracle(traces, profile, range(1, profile.max_size + 1))
    wanted = {(p.task, str(p.question_id), p.turn) for p in prompts}
    labels = answer_labels(traces)
    named = [key in wanted for key in zip(labels["task"], labels["prompt"], labels["turn"], strict=True)]
    labels = labels[named].assign(repeat=0)
    runs = replayed_runs(simulations, labels).assign(prefill_seconds=np.nan, lossless=True)
    cycles = pd.concat([_cycles(name, simulation, labels) for name, simulation in simulations.items()])
    best = cycles.loc[cycles["method"] == ORACLE, ["temperature", "task", "depth", "size", "tokens"]]
    return ReplayRows(runs, cycles, best.reset_index(drop=True))


def as_recorded(
    runs: pd.DataFrame, cycles: pd.DataFrame, replayed: pd.DataFrame, prompts: list[Sequence]
) -> dict[str, Any]:
    """How many `prompts` there are; how many of them plain decoding answered the `same` as recorded, as far
    as both answers go; and in how many of these, by method, all `cycles` were those of replay.

    `runs` and `cycles` are the measured ones, with all prompts; `replayed` the replayed cycles. Answers and
    drafts are recorded in batches, whose sums round otherwise than those of one sequence: where two tokens,
    or two drafted nodes, are nearly tied, decoding may choose the other one.
    """
    baseline = runs[(runs["method"] == BASELINE) & (runs["repeat"] == 0)]
    decoded = {(row.task, row.prompt, row.turn): list(row.token_ids) for row in baseline.itertuples()}
    same = set()
    for prompt in prompts:
        key = prompt.task, str(prompt.question_id), prompt.turn
        answer, recorded = decoded[key], prompt.answer.tolist()
        length = min(len(answer), len(recorded))
        if answer[:length] == recorded[:length]:
            same.add(key)
    walks, simulated = _walks(cycles[cycles["repeat"] == 0]), _walks(replayed)
    agree = {
        method: sum(walks[method].get(key) == simulated[method].get(key) for key in same)
        for method in walks
        if method in simulated
    }
    return {"prompts": len(prompts), "same": len(same), "cycles": agree}


def _walks(cycles: pd.DataFrame) -> dict[str, dict[tuple[str, str, int], list[tuple[int, int, int]]]]:
    """Depth, verified nodes and tokens of all cycles, by method and prompt."""
    walks: dict[str, dict] = {}
    columns = ("method", "task", "prompt", "turn", "depth", "verified", "tokens")
    for method, task, prompt, turn, *cycle in zip(*(cycles[name] for name in columns), strict=True):
        walks.setdefault(method, {}).setdefault((task, prompt, turn), []).append(tuple(cycle))
    return walks


def _cycles(name: str, simulation: Simulation, labels: pd.DataFrame) -> pd.DataFrame:
    columns = ("sequence", "depth", "size", "verified", "tokens")
    log = pd.DataFrame({column: getattr(simulation.log, column) for column in columns})
    # The profile times a cycle as a whole; its phases are left empty.
    return log.join(labels, on="sequence", how="inner").assign(method=name, **dict.fromkeys(PHASES, np.nan))
