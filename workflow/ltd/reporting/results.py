"""The files of an experiment that the report is made of."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ltd.files import read_json
from ltd.measurement.clock_noise import clock_noise, repeatability_limits
from ltd.measurement.summary import GREEDY, at_temperature
from ltd.methods import LOOKUP_CHAIN
from ltd.reporting.training_figures import Chain, read_chain

# The chains that the report waits for (workflow/rules/report.smk).
CHAINS = ("default", "paper", "ltd")
# Not validated on the traces and times of the other chains: another drafter's, and one for made-up machines.
NOT_COMPARED = {LOOKUP_CHAIN, "conditioned"}


@dataclass(frozen=True)
class Decoded:
    """The benchmark at one temperature; `noise` is its A/A comparison (`ltd.measurement.clock_noise`)."""

    temperature: float
    summary: pd.DataFrame
    runs: pd.DataFrame
    facts: dict[str, Any]
    noise: pd.DataFrame

    @property
    def limits(self) -> pd.Series:
        """Repeatability limits by task, as fractions: what differs by less is a tie."""
        return repeatability_limits(self.noise, self.runs["task"])


@dataclass(frozen=True)
class Results:
    """What the report is made of, as read from the experiment's folder; None where there is no such file.

    The tables, `facts` and `noise` of the benchmark are those of greedy decoding; temperatures above 0 are in
    `sampled`. `profile` is the latency profile that policies and grid were chosen with, `machine` the one
    measured during the benchmark.
    """

    summary: pd.DataFrame
    runs: pd.DataFrame
    cycles: pd.DataFrame
    oracle: pd.DataFrame
    facts: dict[str, Any]
    noise: pd.DataFrame
    sampled: list[Decoded]
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
        facts = read_json(benchmark / "benchmark.json")
        summary = pd.read_csv(benchmark / "summary.csv")
        runs, cycles, oracle = (
            pd.read_parquet(benchmark / f"{name}.parquet") for name in ("runs", "cycles", "oracle")
        )
        sampled = []
        for temperature, own in ((float(name), own) for name, own in facts["further"].items()):
            rows = [at_temperature(table, temperature) for table in (summary, runs, cycles)]
            sampled.append(Decoded(temperature, *rows[:2], own, clock_noise(*rows[1:])))
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
            chains=read_chains(experiment / "policies"),
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
    def greedy(self) -> Decoded:
        """The benchmark at temperature 0."""
        return Decoded(GREEDY, self.summary, self.runs, self.facts, self.noise)

    @property
    def ranked(self) -> list[Decoded]:
        """Where methods are ranked: at temperature 0 and, where it was decoded, at the one learned at."""
        return [self.greedy, *(part for part in self.sampled if part.temperature == self.learned_at)]


def read_chains(policies: Path) -> list[Chain]:
    """Read the chains of the run, and others that were trained on the same files as `default`: a folder may
    hold what an earlier configuration trained, on other traces or times.
    """
    trained_on = _trained_on(policies / "default")
    folders = [
        folder
        for folder in sorted(policies.glob("*"))
        if folder.name in CHAINS
        or (folder.name not in NOT_COMPARED and trained_on and _trained_on(folder) == trained_on)
    ]
    chains = [read_chain(folder) for folder in folders]
    return [chain for chain in chains if chain is not None]


def _trained_on(chain: Path) -> dict[str, str] | None:
    """Hashes of the files that the used policies of a chain were trained on; None where none is used."""
    description = _optional(chain / "best" / "policy.json")
    return description and description["size"]["trained_on"]


def _optional(path: Path) -> dict[str, Any] | None:
    return read_json(path) if path.is_file() else None
