"""The files of an experiment that the report is made of."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ltd.files import read_json
from ltd.reporting.training_figures import Chain, read_chain


@dataclass(frozen=True)
class Results:
    """What the report is made of, as read from the experiment's folder; None where there is no such file."""

    summary: pd.DataFrame
    runs: pd.DataFrame
    cycles: pd.DataFrame
    oracle: pd.DataFrame
    facts: dict[str, Any]
    grid: dict[str, Any]
    profile: dict[str, Any]
    head: dict[str, Any] | None
    target: dict[str, Any] | None
    tuning: dict[str, Any] | None
    chains: list[Chain]

    @classmethod
    def load(cls, experiment: Path) -> "Results":
        """Read everything; raises InputError naming the first file that the report cannot do without."""
        benchmark = experiment / "benchmark"
        chains = [read_chain(path) for path in sorted((experiment / "policies").glob("*"))]
        return cls(
            facts=read_json(benchmark / "benchmark.json"),
            grid=read_json(benchmark / "grid.json"),
            profile=read_json(experiment / "latency" / "profile.json"),
            summary=pd.read_csv(benchmark / "summary.csv"),
            runs=pd.read_parquet(benchmark / "runs.parquet"),
            cycles=pd.read_parquet(benchmark / "cycles.parquet"),
            oracle=pd.read_parquet(benchmark / "oracle.parquet"),
            head=_optional(experiment / "draft" / "training.json"),
            target=_optional(experiment / "target" / "training.json"),
            tuning=_optional(experiment / "tuning" / "best.json"),
            chains=[chain for chain in chains if chain is not None],
        )

    @property
    def temperature(self) -> float:
        """The temperature that was benchmarked."""
        return float(self.runs["temperature"].iloc[0])

    @property
    def spread(self) -> float:
        """A/A spread of the whole benchmark: the largest of any method, as a fraction."""
        return max((entry["spread"] for entry in self.facts["repeat_spread"].values()), default=0.0)


def _optional(path: Path) -> dict[str, Any] | None:
    return read_json(path) if path.is_file() else None
