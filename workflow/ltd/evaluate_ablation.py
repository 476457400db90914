"""Compare variants of the policies in replay on the test prompts: one ablation's table and its finding.

All methods walk the same recorded answers under the same latency profile, each charged with what its own
networks take; nothing is decoded. Any of the methods can also be decoded live: name it in benchmark.methods.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ltd.ablations.catalogue import ALL_NAMES
from ltd.ablations.comparison import comparison
from ltd.ablations.findings import finding, means, seed_numbers
from ltd.ablations.policy_methods import DEFAULT_DEPTH
from ltd.ablations.replayed import replay
from ltd.errors import InputError
from ltd.files import atomic_path, write_json
from ltd.measurement.summary import PHASES, headline_tasks, metric_label
from ltd.methods import BASELINE
from ltd.options import StageOptions, option, run_stage
from ltd.replay.latency import LatencyProfile
from ltd.replay.static_grid import read_best
from ltd.replay.traces import Traces, of_tasks
from ltd.tracking import StageRun


@dataclass(frozen=True, kw_only=True)
class EvaluateAblationOptions(StageOptions):
    """Options of an ablation."""

    name: str = option(help="the ablation", choices=ALL_NAMES)
    methods: tuple[str, ...] = option(help="methods to compare, the reference first")
    traces: Path = option(help="traces of the test prompts")
    profile: Path = option(help="latency profile of the machine")
    grid: Path = option(help="result of the static grid search")
    policies: Path = option(help="folder with one folder a chain of policies")
    default_depth: int = option(DEFAULT_DEPTH, "depth of a size policy alone, that of `eagle3`")
    cycles: Path | None = option(None, "cycles.parquet of the benchmark, for the measured overhead")
    test_tasks: tuple[str, ...] = option((), "tasks to compare on; none: all of the traces")
    output: Path = option(help="table of the ablation, CSV; its finding is written beside it as JSON")


def evaluate_ablation(options: EvaluateAblationOptions, run: StageRun) -> None:
    """The stage: replay, compare, write `<name>.csv` and `<name>.json`."""
    if not options.methods:
        raise InputError("methods: none given; name those to compare, the reference first")
    compared_on = options.test_tasks, str(options.traces), "benchmark.test_tasks"
    traces = of_tasks(Traces.load(options.traces), *compared_on)
    profile = LatencyProfile.load(options.profile)
    grid = read_best(options.grid, traces.beam)
    runs, cycles = replay(options.methods, traces, profile, grid, options.policies, options.default_depth)
    table = comparison(runs, cycles, options.methods, options.seed)
    measured = measured_overhead(options.cycles, traces.temperature) if options.cycles is not None else {}
    facts: dict[str, Any] = {
        "ablation": options.name,
        "temperature": traces.temperature,
        "reference": options.methods[0],
        "finding": finding(options.name, table, runs, measured, options.seed),
        "seed": options.seed,
        "prompts": {task: int(n) for task, n in runs.groupby("task")["prompt"].nunique().items()},
        "measured_policy_share": measured,
    }
    if options.name.startswith("seeds"):
        facts["seed_spread"] = seed_numbers(runs, table)[0]
        run.metrics({"seed_spread": facts["seed_spread"]})
    with atomic_path(options.output) as temporary:
        table.to_csv(temporary, index=False)
    write_json(options.output.with_suffix(".json"), facts)
    log(run, table, traces.temperature)
    for path in (options.output, options.output.with_suffix(".json")):
        run.artifact(path)
    shown = ["speedup", "speedup_low", "speedup_high", "ratio", "ratio_low", "ratio_high", "gap_share"]
    print(means(table)[shown].round(3).to_string())
    print(facts["finding"])


def measured_overhead(path: Path, temperature: float) -> dict[str, float]:
    """Share of the policies in the wall time at a temperature, by method: mean of the headline tasks.

    Empty where the benchmark did not decode at it.
    """
    cycles = pd.read_parquet(path, columns=["method", "task", "temperature", *PHASES])
    cycles = cycles[cycles["temperature"] == temperature]
    if cycles.empty:
        return {}
    sums = cycles[cycles["method"] != BASELINE].groupby(["method", "task"])[list(PHASES)].sum()
    shares = (sums["policy_ms"] / sums.sum(axis=1)).unstack("task")
    return {
        str(name): float(share) for name, share in shares[headline_tasks(list(shares))].mean(axis=1).items()
    }


def log(run: StageRun, table: pd.DataFrame, temperature: float) -> None:
    """Log speedup, acceptance length and share of the gap to the oracle by method and task."""
    values = {}
    for row in table.itertuples():
        label = metric_label(row.method, row.task, temperature)
        for name in ("speedup", "acceptance_length", "gap_share"):
            if pd.notna(value := getattr(row, name)):
                values[f"{name}/{label}"] = value
    run.metrics(values)


def main(argv: list[str] | None = None) -> None:
    """Run the stage from the command line."""
    run_stage("evaluate_ablation", EvaluateAblationOptions, evaluate_ablation, __doc__, argv)


if __name__ == "__main__":
    main()
