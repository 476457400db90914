"""The files of an experiment that the report is made of."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ltd.ablations.catalogue import LOOKUP_CHAIN
from ltd.files import read_json
from ltd.measurement.clock_noise import clock_noise, largest_by_task
from ltd.measurement.summary import GREEDY, at_temperature
from ltd.reporting.training_figures import Chain, read_chain

# Not validated on the traces and times of the other chains: another drafter's, and one for made-up machines.
NOT_COMPARED = {LOOKUP_CHAIN, "conditioned"}


@dataclass(frozen=True)
class Sampled:
    """The benchmark at a temperature above 0."""

    temperature: float
    summary: pd.DataFrame
    runs: pd.DataFrame
    facts: dict[str, Any]
    noise: pd.DataFrame

    @property
    def spread(self) -> pd.Series:
        """The largest A/A spread at this temperature by task, as a fraction."""
        return largest_by_task(self.noise, self.runs["task"])


@dataclass(frozen=True)
class Results:
    """What the report is made of, as read from the experiment's folder; None where there is no such file.

    The tables and `facts` of the benchmark are those of greedy decoding, and so is `noise`, the A/A
    comparison (`ltd.measurement.clock_noise`); other temperatures are in `sampled`. `profile` is the latency
    profile that policies and grid were chosen with, `machine` the one measured during the benchmark.
    """

    summary: pd.DataFrame
    runs: pd.DataFrame
    cycles: pd.DataFrame
    oracle: pd.DataFrame
    facts: dict[str, Any]
    noise: pd.DataFrame
    sampled: list[Sampled]
    grid: dict[str, Any]
    profile: dict[str, Any]
    machine: dict[str, Any]
    head: dict[str, Any] | None
    target: dict[str, Any] | None
    tuning: dict[str, Any] | None
    paper_training: dict[str, Any] | None
    chains: list[Chain]

    @classmethod
    def load(cls, experiment: Path) -> "Results":
        """Read everything; raises InputError naming the first file that the report cannot do without."""
        benchmark = experiment / "benchmark"
        folders = (path for path in (experiment / "policies").glob("*") if path.name not in NOT_COMPARED)
        chains = [read_chain(path) for path in sorted(folders)]
        facts = read_json(benchmark / "benchmark.json")
        summary = pd.read_csv(benchmark / "summary.csv")
        runs, cycles, oracle = (
            pd.read_parquet(benchmark / f"{name}.parquet") for name in ("runs", "cycles", "oracle")
        )
        sampled = []
        for temperature, own in ((float(name), own) for name, own in facts["further"].items()):
            rows = [at_temperature(table, temperature) for table in (summary, runs, cycles)]
            sampled.append(Sampled(temperature, *rows[:2], own, clock_noise(*rows[1:])))
        return cls(
            facts=facts,
            grid=read_json(benchmark / "grid.json"),
            profile=read_json(experiment / "latency" / "profile.json"),
            machine=read_json(benchmark / f"t{GREEDY:g}" / "profile.json"),
            summary=at_temperature(summary),
            runs=at_temperature(runs),
            cycles=at_temperature(cycles),
            noise=clock_noise(at_temperature(runs), at_temperature(cycles)),
            oracle=at_temperature(oracle),
            sampled=sampled,
            head=_optional(experiment / "draft" / "training.json"),
            target=_optional(experiment / "target" / "training.json"),
            tuning=_optional(experiment / "tuning" / "best.json"),
            paper_training=_optional(experiment / "policies" / "paper" / "best" / "settings.json"),
            chains=[chain for chain in chains if chain is not None],
        )

    @property
    def learned_at(self) -> float:
        """Temperature of the answers that policies, grid and baselines have learned from."""
        return self.grid["grids"][0]["temperature"]

    @property
    def temperatures(self) -> list[float]:
        """Every temperature that was benchmarked, greedy decoding first."""
        return [GREEDY, *(part.temperature for part in self.sampled)]

    @property
    def spread(self) -> pd.Series:
        """The largest A/A spread of greedy decoding by task, as a fraction."""
        return largest_by_task(self.noise, self.runs["task"])


def _optional(path: Path) -> dict[str, Any] | None:
    return read_json(path) if path.is_file() else None
