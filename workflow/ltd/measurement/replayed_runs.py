"""Replayed answers in the form in which `ltd.measurement.summary` takes measured runs: a row each."""

from collections.abc import Mapping

import pandas as pd

from ltd.replay.simulator import Simulation
from ltd.replay.traces import Traces


def answer_labels(traces: Traces) -> pd.DataFrame:
    """Task, prompt, turn, temperature and source of every answer, which the index numbers."""
    rows = [
        {"task": answer["task"], "prompt": str(answer["question_id"]), "turn": answer["turn"]}
        for answer in traces.sequences
    ]
    return pd.DataFrame(rows).assign(temperature=traces.temperature, source="replay")


def replayed_runs(simulations: Mapping[str, Simulation], labels: pd.DataFrame) -> pd.DataFrame:
    """Method, tokens and seconds beside all or some rows of `answer_labels`, for every simulation by name."""
    of_methods = [
        labels.assign(
            method=name, tokens=simulation.tokens[labels.index], seconds=simulation.seconds[labels.index]
        )
        for name, simulation in simulations.items()
    ]
    return pd.concat(of_methods, ignore_index=True)
