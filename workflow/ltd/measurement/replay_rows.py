"""The replayed side of the benchmark: the same methods and prompts in arithmetic, and the clairvoyant oracle.

Beside the measured rows they show how well traces and latency profile predict the clock; the oracle, which
no method can decode with, exists here alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ltd.engine.controllers import Controller
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

    Replay walks whole recorded answers, from the first token on; it is exact where the benchmark's answers
    are as long. The oracle may verify any number of nodes up to the largest measured.
    """
    simulations = {name: simulate(controller, traces, profile) for name, controller in controllers.items()}
    simulations[ORACLE] = oracle(traces, profile, range(1, profile.max_size + 1))
    wanted = {(p.task, str(p.question_id), p.turn) for p in prompts}
    labels = pd.DataFrame(
        [
            {"task": s["task"], "prompt": str(s["question_id"]), "turn": s["turn"], "sequence": index}
            for index, s in enumerate(traces.sequences)
            if (s["task"], str(s["question_id"]), s["turn"]) in wanted
        ]
    ).assign(repeat=0, temperature=traces.temperature, source="replay")
    runs = pd.concat([_runs(name, simulation, labels) for name, simulation in simulations.items()])
    cycles = pd.concat([_cycles(name, simulation, labels) for name, simulation in simulations.items()])
    best = cycles.loc[cycles["method"] == ORACLE, ["temperature", "task", "depth", "size", "tokens"]]
    return ReplayRows(runs, cycles, best.reset_index(drop=True))


def answers_as_recorded(runs: pd.DataFrame, prompts: list[Sequence]) -> dict[str, int]:
    """How many `prompts` there are, and how many plain decoding answered the `same` as recorded, as far as
    both answers go; `runs` are the measured ones, with all prompts.

    Answers are recorded in batches, whose sums round otherwise than those of one sequence: where two tokens
    are nearly tied, decoding may choose the other one, and replay walks a text that the clock did not see.
    """
    baseline = runs[(runs["method"] == BASELINE) & (runs["repeat"] == 0)]
    decoded = {(row.task, row.prompt, row.turn): list(row.token_ids) for row in baseline.itertuples()}
    same = 0
    for prompt in prompts:
        answer = decoded[prompt.task, str(prompt.question_id), prompt.turn]
        recorded = prompt.answer.tolist()
        length = min(len(answer), len(recorded))
        same += answer[:length] == recorded[:length]
    return {"prompts": len(prompts), "same": same}


def _runs(name: str, simulation: Simulation, labels: pd.DataFrame) -> pd.DataFrame:
    index = labels["sequence"].to_numpy()
    return labels.assign(
        method=name,
        tokens=simulation.tokens[index],
        seconds=simulation.seconds[index],
        prefill_seconds=np.nan,
        lossless=True,
    )


def _cycles(name: str, simulation: Simulation, labels: pd.DataFrame) -> pd.DataFrame:
    columns = ("sequence", "depth", "size", "verified", "tokens")
    log = pd.DataFrame({column: getattr(simulation.log, column) for column in columns})
    # The profile times a cycle as a whole; its phases are left empty.
    return log.merge(labels, on="sequence").assign(method=name, **dict.fromkeys(PHASES, np.nan))
