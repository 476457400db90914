"""Put the benchmarks of several temperatures together: one row a method, task and temperature.

Each temperature is decoded by a run of `ltd.benchmark` of its own, so that another one can be added later
without decoding again at those that are there.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ltd.errors import InputError
from ltd.files import atomic_path, read_json, write_json
from ltd.options import StageOptions, option, run_stage
from ltd.tracking import StageRun

TABLES = ("cycles", "runs", "oracle")


@dataclass(frozen=True, kw_only=True)
class JoinBenchmarkOptions(StageOptions):
    """Options of the joining."""

    parts: tuple[Path, ...] = option(help="folders of benchmarks, one a temperature, temperature 0 first")
    output: Path = option(help="folder of cycles.parquet, runs.parquet, summary.csv and benchmark.json")


@dataclass(frozen=True)
class Part:
    """What the benchmark wrote at one temperature: its tables by name, and the facts of benchmark.json."""

    temperature: float
    summary: pd.DataFrame
    tables: dict[str, pd.DataFrame]
    facts: dict[str, Any]

    @classmethod
    def load(cls, folder: Path) -> "Part":
        """Read the files of a folder; raises InputError for a missing one, or several temperatures."""
        files = {name: folder / f"{name}.parquet" for name in TABLES}
        for file in (*files.values(), folder / "summary.csv"):
            if not file.is_file():
                raise InputError(f"{file}: no such file; run the benchmark at this temperature first")
        summary = pd.read_csv(folder / "summary.csv")
        found = sorted(set(summary["temperature"]))
        if len(found) != 1:
            raise InputError(f"{folder}: temperatures {found}, expected the benchmark of a single one")
        tables = {name: pd.read_parquet(file) for name, file in files.items()}
        return cls(float(found[0]), summary, tables, read_json(folder / "benchmark.json"))


def join_benchmark(options: JoinBenchmarkOptions, run: StageRun) -> None:
    """The stage: the tables one below the other, the facts of the first with those of the `further` ones."""
    parts = [Part.load(folder) for folder in options.parts]
    temperatures = [part.temperature for part in parts]
    if not parts or temperatures[0] != 0 or len(set(temperatures)) < len(parts):
        raise InputError(f"parts: temperatures {temperatures}; expected 0 first, and each of them once")
    for name in TABLES:
        with atomic_path(options.output / f"{name}.parquet") as temporary:
            joined = pd.concat([part.tables[name] for part in parts], ignore_index=True)
            joined.to_parquet(temporary, index=False)
    with atomic_path(options.output / "summary.csv") as temporary:
        pd.concat([part.summary for part in parts]).to_csv(temporary, index=False)
    further = {f"{part.temperature:g}": part.facts for part in parts[1:]}
    write_json(options.output / "benchmark.json", parts[0].facts | {"further": further})
    for name in ("summary.csv", "benchmark.json"):
        run.artifact(options.output / name)


def main(argv: list[str] | None = None) -> None:
    """Run the stage from the command line."""
    run_stage("join_benchmark", JoinBenchmarkOptions, join_benchmark, __doc__, argv)


if __name__ == "__main__":
    main()
