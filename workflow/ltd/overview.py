"""Write the table across experiments: what each one's learned policies gain, on which machine.

Reads what the experiments' benchmarks left behind and computes nothing new but the ratio of the policies to
the best static setting, with its interval over prompts.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ltd.errors import InputError
from ltd.files import atomic_path
from ltd.measurement.summary import GREEDY, MEAN_TASK
from ltd.methods import BASELINE, GRID, ORACLE, TUNED
from ltd.options import option, parse_options
from ltd.reporting.findings import bullet_list, judged, markdown
from ltd.reporting.results import Decoded, Results

FORMATS = dict.fromkeys(("grid", "ltd", "oracle"), ".2f") | {"tokens/s": ".0f", "temperature": "g"}
INTRODUCTION = (
    "Speedups are ratios of tokens per second over autoregressive decoding on the same engine and machine, "
    "means of the tasks. `grid` is the best static setting, `over grid` what the learned policies gain over "
    "it, with 95% intervals from paired resampling of prompts; the clairvoyant `oracle` is replayed. An "
    "experiment that learned from sampled answers has a row at their temperature too, where it decoded there."
)


@dataclass(frozen=True, kw_only=True)
class OverviewOptions:
    """Options of the overview."""

    experiments: tuple[Path, ...] = option(help="folders of the experiments")
    targets: tuple[str, ...] = option(help="what to call the target of each")
    heads: tuple[str, ...] = option(help="what to call the draft head of each")
    output: Path = option(help="folder to write overview.csv and overview.md to")


def overview(options: OverviewOptions) -> None:
    """Write overview.csv and overview.md. Raises InputError for a folder without a benchmark."""
    if not len(options.experiments) == len(options.targets) == len(options.heads):
        raise InputError("overview: experiments, targets and heads differ in number; give one of each")
    named = zip(options.experiments, options.targets, options.heads, strict=True)
    rows = [
        row
        for folder, target, head in named
        for row in overview_rows(folder.name, Results.load(folder), target, head)
    ]
    table = pd.DataFrame(rows)
    with atomic_path(options.output / "overview.csv") as temporary:
        table.to_csv(temporary, index=False)
    with atomic_path(options.output / "overview.md") as temporary:
        temporary.write_text(overview_text(table), encoding="utf-8")


def overview_rows(experiment: str, results: Results, target: str, head: str) -> list[dict[str, Any]]:
    """One experiment in numbers, a row a temperature at which its methods are ranked."""
    machine = results.machine
    names = {
        "experiment": experiment,
        "target": target,
        "head": head,
        "machine": f"{machine['device']}, {machine['dtype']}, {machine['threads']} threads",
    }
    return [names | _numbers(decoded) for decoded in results.ranked]


def _numbers(decoded: Decoded) -> dict[str, Any]:
    """One temperature in numbers; a method that was not decoded with has none."""
    summary, best = decoded.summary, decoded.facts["grid"]
    mean = summary[summary["task"] == MEAN_TASK].set_index(["source", "method"])

    def number(source: str, method: str, column: str = "speedup") -> float:
        return float(mean[column].get((source, method), float("nan")))

    over = {"ratio": float("nan"), "low": float("nan"), "high": float("nan"), "word": ""}
    if {TUNED, GRID} <= set(decoded.runs["method"]):
        over = judged(decoded.runs, TUNED, GRID, decoded.limits, decoded.facts["seed"]).loc[MEAN_TASK]
    return {
        "temperature": decoded.temperature,
        "tokens_per_second": number("measured", BASELINE, "tokens_per_second"),
        "grid_depth": best["depth"],
        "grid_size": best["size"],
        "grid": number("measured", GRID),
        "ltd": number("measured", TUNED),
        "ltd_low": number("measured", TUNED, "speedup_low"),
        "ltd_high": number("measured", TUNED, "speedup_high"),
        "over_grid": over["ratio"],
        "over_grid_low": over["low"],
        "over_grid_high": over["high"],
        "over_grid_word": over["word"],
        "oracle": number("replay", ORACLE),
        "lossless": bool(summary.loc[summary["source"] == "measured", "lossless"].all()),
    }


def overview_text(table: pd.DataFrame) -> str:
    """overview.md: the table for reading, and what the intervals say."""
    shown = pd.DataFrame(
        {
            "experiment": table["experiment"],
            "target": table["target"],
            "head": table["head"],
            "machine": table["machine"],
            "temperature": table["temperature"],
            "tokens/s": table["tokens_per_second"],
            "grid": table["grid"],
            "of depth, size": [f"{row.grid_depth}, {row.grid_size}" for row in table.itertuples()],
            "ltd": table["ltd"],
            "over grid": [_interval(row) for row in table.itertuples()],
            "oracle": table["oracle"],
            "lossless": ["yes" if flag else "NO" for flag in table["lossless"]],
        }
    )
    parts = ["# Overview", INTRODUCTION, markdown(shown, FORMATS), bullet_list(verdicts(table))]
    return "\n\n".join(part for part in parts if part) + "\n"


def verdicts(table: pd.DataFrame) -> list[str]:
    """One sentence a group: where the policies are faster than the best static setting, slower, neither."""
    compared = table[table["over_grid"].notna()]
    faster, slower = (compared["over_grid_word"] == word for word in ("faster", "slower"))
    groups = {
        "ltd is faster than the best static setting": compared[faster],
        "ltd is slower than the best static setting": compared[slower],
        "no difference beyond the intervals and the timing noise between ltd and the best static setting": (
            compared[~faster & ~slower]
        ),
    }
    return [
        f"{sentence} on {len(rows)} of {len(compared)}: {', '.join(map(_named, rows.itertuples()))}."
        for sentence, rows in groups.items()
        if len(rows)
    ]


def _named(row: Any) -> str:
    return row.experiment + (f" (temperature {row.temperature:g})" if row.temperature != GREEDY else "")


def _interval(row: Any) -> str:
    if pd.isna(row.over_grid):
        return ""
    return f"{row.over_grid:.3f} ({row.over_grid_low:.3f} to {row.over_grid_high:.3f})"


def main(argv: list[str] | None = None) -> None:
    """Run the stage from the command line."""
    try:
        overview(parse_options(OverviewOptions, __doc__, argv))
    except InputError as error:
        print(f"overview: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
