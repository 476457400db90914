"""From the records of the benchmark to its table: throughput, speedup with paired intervals, lossless or not.

Two tables come in, one row each: a *run* (one method decoding one prompt once) and a *cycle* (one
draft-and-verify cycle of a run). A run's clock is the wall clock of its decode loop, from the first token
after prefill to the last; its `tokens` are those that the loop emitted, so the token that prefill gives
counts in neither. Replayed methods bring rows of the same form and are told apart by `source`.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pandas as pd

from ltd import world
from ltd.errors import InputError
from ltd.methods import BASELINE, GRID, ORACLE

MEAN_TASK = "mean"
# Always decoded, and what tables are of where nothing else is said; policies and grid may be learned at
# another temperature (`traces.temperature`).
GREEDY = 0.0
# The paper's four test tasks; means are over these. Beside tasks that are not built in, they are over all.
HEADLINE_TASKS = ("chat", "maths", "instructions", "qa")
RESAMPLES = 10_000
SUMMARY_COLUMNS = [
    "method",
    "task",
    "temperature",
    "source",
    "prompts",
    "repeats",
    "tokens",
    "seconds",
    "tokens_per_second",
    "speedup",
    "speedup_low",
    "speedup_high",
    "speedup_mean_of_ratios",
    "end_to_end_speedup",
    "acceptance_length",
    "mean_depth",
    "mean_size",
    "draft_ms",
    "verify_ms",
    "policy_ms",
    "rest_ms",
    "lossless",
]
PHASES = ("draft_ms", "verify_ms", "policy_ms", "rest_ms")
_GROUP = ["source", "temperature", "task"]


def headline_tasks(tasks: Sequence[str]) -> list[str]:
    """Return the tasks over which a mean is taken: of built-in tasks the paper's four that are present,
    else all of `tasks`.
    """
    present = [task for task in HEADLINE_TASKS if task in set(tasks)]
    return present if present and set(tasks) <= set(world.TASKS) else sorted(set(tasks))


def mean_over(tasks: Sequence[str]) -> str:
    """Say which of `tasks` the mean is over, and which stand beside it."""
    inside = headline_tasks(tasks)
    beside = [task for task in dict.fromkeys(tasks) if task not in inside]
    shown = f"; {_listed(beside)} stand{'s' * (len(beside) == 1)} beside it" if beside else ""
    return f"The mean is over {_listed(inside)}{shown}."


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def at_temperature(table: pd.DataFrame, temperature: float = GREEDY) -> pd.DataFrame:
    """Return the rows of one temperature of a benchmark's table, numbered anew.

    Raises InputError where there are none.
    """
    rows = table[table["temperature"] == temperature].reset_index(drop=True)
    if rows.empty:
        raise InputError(
            f"benchmark: no rows at temperature {temperature:g}; add it to benchmark.temperatures"
        )
    return rows


def metric_label(method: str, task: str, temperature: float) -> str:
    """Name a method on a task in MLflow, `<method>/<task>`; sampled, it begins with `t<temperature>/`."""
    # MLflow allows letters, digits, _ - . / and spaces; a task is named as its file.
    label = re.sub(r"[^\w./ -]", "-", f"{method}/{task}")
    return label if temperature == GREEDY else f"t{temperature:g}/{label}"


def mark_lossless(runs: pd.DataFrame) -> pd.DataFrame:
    """Add a bool column `lossless`: the run's token ids equal the autoregressive run's of the same prompt.

    Every repeat of the baseline must itself agree with the baseline's first repeat.
    """
    key = ["task", "prompt", "turn", "temperature"]
    first = runs[runs["method"] == BASELINE].sort_values("repeat").drop_duplicates(key)
    expected = {row[:-1]: tuple(row[-1]) for row in first[[*key, "token_ids"]].itertuples(index=False)}
    found = runs[[*key, "token_ids"]].itertuples(index=False)
    return runs.assign(lossless=[tuple(row[-1]) == expected[row[:-1]] for row in found])


def summarise(runs: pd.DataFrame, cycles: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return the benchmark's table: one row a (method, task, temperature, source), one for the tasks' mean.

    `runs` needs method, task, prompt, turn, repeat, temperature, source, tokens, seconds, prefill_seconds
    and lossless; `cycles` the same keys and depth, verified, tokens and milliseconds by phase. Speedups are
    ratios of tokens per second, each from sums over prompts and repeats; `speedup_low` and `speedup_high`
    bound 95% of paired bootstrap resamples of prompts. Phases are milliseconds a cycle. In the mean's row
    tokens, seconds and prompts are sums over the tasks, tokens a second their quotient, repeats the largest
    and every other number is the mean of the tasks' numbers; `lossless` is of all tasks, headline or not.
    """
    shapes = _cycle_means(cycles)
    rows = []
    for _, block in runs.groupby(["source", "temperature"], sort=True):
        rows += _block_rows(_per_prompt(block), shapes, block, seed)
    return pd.DataFrame(rows, columns=SUMMARY_COLUMNS)


def speedup_samples(
    prompts: pd.DataFrame, method: str, baseline: str, task: str, seed: int
) -> tuple[float, np.ndarray, float]:
    """Compare two methods on one task: ratio of sums, its bootstrap resamples [RESAMPLES], mean of ratios.

    `prompts` holds sums per (method, task, prompt). Both methods see the same resample of prompts, and so
    does every other pair of the same task and seed.
    """
    rows = prompts[prompts["task"] == task].set_index("prompt")[["method", "tokens", "seconds"]]
    ours, theirs = (rows[rows["method"] == name].drop(columns="method") for name in (method, baseline))
    columns = ours.merge(theirs, left_index=True, right_index=True).sort_index().to_numpy(dtype=float)
    # An answer that prefill alone finished has nothing to compare.
    columns = columns[(columns > 0).all(axis=1)]
    prompt_count = len(columns)
    if prompt_count == 0:
        return np.nan, np.full(RESAMPLES, np.nan), np.nan
    draws = _draws(seed, task, prompt_count)
    return float(_ratio(columns.sum(axis=0))), _ratio(draws @ columns), float(_ratio(columns).mean())


@lru_cache(maxsize=16)
def _draws(seed: int, task: str, prompts: int) -> np.ndarray:
    """How often each prompt of a task is in each resample, [RESAMPLES, prompts]."""
    rng = np.random.default_rng([seed, *task.encode()])
    return rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=RESAMPLES).astype(float)


def compare(runs: pd.DataFrame, method: str, baseline: str, seed: int = 0) -> pd.DataFrame:
    """Return `ratio`, `low`, `high` of one method's throughput over another's per task, and for their mean.

    The interval holds 95% of the paired resamples; one that lies below 1 means significantly slower. A task
    whose answers all end with their first token has no row and no part in the mean.
    """
    prompts = _per_prompt(runs)
    shared = set(prompts.loc[prompts["method"] == method, "task"])
    tasks = [t for t in dict.fromkeys(runs["task"]) if t in shared]
    results = {task: speedup_samples(prompts, method, baseline, task, seed) for task in tasks}
    results = {task: found for task, found in results.items() if not np.isnan(found[0])}
    rows = [_interval(task, ratio, samples) for task, (ratio, samples, _) in results.items()]
    means = headline_tasks(list(results))
    rows.append(
        _interval(
            MEAN_TASK,
            float(np.mean([results[t][0] for t in means])),
            np.mean([results[t][1] for t in means], axis=0),
        )
    )
    return pd.DataFrame(rows)


def clock_gap(runs: pd.DataFrame, cycles: pd.DataFrame) -> float:
    """Return how far the sum of all phases is from the wall time of all runs, as a fraction of the latter."""
    wall = runs["seconds"].sum()
    return float(abs(cycles[list(PHASES)].to_numpy().sum() / 1000 - wall) / wall)


def simulation_error(summary: pd.DataFrame) -> pd.DataFrame:
    """Return measured and replayed speedups of methods that have both, with replayed / measured - 1."""
    key = ["method", "task", "temperature"]
    measured, replayed = (
        summary.loc[summary["source"] == source, [*key, "speedup"]] for source in ("measured", "replay")
    )
    both = measured.merge(replayed, on=key, suffixes=("_measured", "_replayed"))
    return both.assign(error=both["speedup_replayed"] / both["speedup_measured"] - 1)


def gap_shares(summary: pd.DataFrame) -> pd.DataFrame:
    """Return `gap_share` of replayed methods: the part of the way from the best static setting to the oracle.

    Columns method, task, temperature, gap_share, the mean included; missing where the oracle gains nothing,
    no row where grid or oracle were not replayed.
    """
    key = ["task", "temperature"]
    replay = summary.loc[summary["source"] == "replay", ["method", *key, "speedup"]]
    both = replay
    for name in (GRID, ORACLE):
        bound = replay.loc[replay["method"] == name, [*key, "speedup"]].rename(columns={"speedup": name})
        both = both.merge(bound, on=key)
    gap = (both[ORACLE] - both[GRID]).where(both[ORACLE] > both[GRID])
    return both.assign(gap_share=(both["speedup"] - both[GRID]) / gap)[["method", *key, "gap_share"]]


def _interval(task: str, ratio: float, samples: np.ndarray) -> dict[str, object]:
    low, high = np.percentile(samples, [2.5, 97.5])
    return {"task": task, "ratio": ratio, "low": float(low), "high": float(high)}


def _ratio(columns: np.ndarray) -> np.ndarray:
    """Throughput over throughput from [..., (tokens, seconds, baseline tokens, baseline seconds)]."""
    return columns[..., 0] / columns[..., 1] / (columns[..., 2] / columns[..., 3])


def _throughput(runs: pd.DataFrame) -> float:
    return runs["tokens"].sum() / runs["seconds"].sum()


def _per_prompt(runs: pd.DataFrame) -> pd.DataFrame:
    """Sum turns and repeats: a conversation is one prompt, as its turns are not independent."""
    key = [*_GROUP, "method", "prompt"]
    return runs.groupby(key, sort=False)[["tokens", "seconds"]].sum().reset_index()


def _cycle_means(cycles: pd.DataFrame) -> pd.DataFrame:
    """Mean of a cycle, indexed by (source, temperature, task, method); `verified` of drafted cycles alone.

    No row where every answer was over with its first token.
    """
    key = [*_GROUP, "method"]
    means = cycles.groupby(key, sort=False)[["tokens", "depth", *PHASES]].mean()
    verified = cycles[cycles["depth"] > 0].groupby(key, sort=False)["verified"].mean()
    return means.assign(verified=verified.reindex(means.index, fill_value=0.0))


def _block_rows(prompts: pd.DataFrame, shapes: pd.DataFrame, runs: pd.DataFrame, seed: int) -> list[dict]:
    """Rows of one source and temperature: every method on every task, then its mean."""
    rows = []
    for method in dict.fromkeys(runs["method"]):
        samples, by_task = {}, {}
        for task in dict.fromkeys(runs.loc[runs["method"] == method, "task"]):
            ratio, samples[task], mean_ratio = speedup_samples(prompts, method, BASELINE, task, seed)
            mine, theirs = (
                runs[(runs["method"] == name) & (runs["task"] == task)] for name in (method, BASELINE)
            )
            by_task[task] = _task_row(mine, shapes) | {
                "speedup": ratio,
                "speedup_low": np.percentile(samples[task], 2.5),
                "speedup_high": np.percentile(samples[task], 97.5),
                "speedup_mean_of_ratios": mean_ratio,
                "end_to_end_speedup": _end_to_end(mine) / _end_to_end(theirs),
            }
        rows += [*by_task.values(), _mean_row(by_task, samples)]
    return rows


def _task_row(runs: pd.DataFrame, shapes: pd.DataFrame) -> dict[str, object]:
    """What one method did on one task, its speedup left aside."""
    group = {name: runs[name].iloc[0] for name in ("source", "temperature", "task", "method")}
    shape = shapes.reindex([tuple(group.values())]).iloc[0]
    return group | {
        "prompts": runs["prompt"].nunique(),
        "repeats": runs["repeat"].nunique(),
        "tokens": int(runs["tokens"].sum()),
        "seconds": runs["seconds"].sum(),
        "tokens_per_second": _throughput(runs),
        "acceptance_length": shape["tokens"],
        "mean_depth": shape["depth"],
        "mean_size": shape["verified"],
        **shape[list(PHASES)],
        "lossless": bool(runs["lossless"].all()),
    }


def _mean_row(rows: dict[str, dict[str, object]], samples: dict[str, np.ndarray]) -> dict[str, object]:
    # Where every answer ends with its first token, nothing was decoded that could be compared.
    decoded = [task for task, row in rows.items() if not np.isnan(row["speedup"])] or list(rows)
    table = pd.DataFrame([rows[task] for task in headline_tasks(decoded)])
    draws = np.mean([samples[task] for task in table["task"]], axis=0)
    mean = table.mean(numeric_only=True).to_dict()
    sums = {name: table[name].sum() for name in ("prompts", "tokens", "seconds")}
    return {
        **rows[table["task"].iloc[0]],
        **mean,
        **sums,
        "task": MEAN_TASK,
        "repeats": int(table["repeats"].max()),
        "tokens_per_second": sums["tokens"] / sums["seconds"],
        "speedup_low": np.percentile(draws, 2.5),
        "speedup_high": np.percentile(draws, 97.5),
        # Of all tasks: a wrong token counts also beside the mean.
        "lossless": all(row["lossless"] for row in rows.values()),
    }


def _end_to_end(runs: pd.DataFrame) -> float:
    """Tokens per second with prefill in the clock and prefill's own token counted."""
    # Replay has no prefill; its missing value must not count as none.
    prefill = runs["prefill_seconds"].sum(skipna=False)
    return (runs["tokens"].sum() + len(runs)) / (runs["seconds"].sum() + prefill)
