"""The table of an ablation: every method on every task and in their mean, with paired intervals."""

import numpy as np
import pandas as pd

from ltd.measurement.summary import MEAN_TASK, compare, headline_tasks
from ltd.methods import BASELINE, GRID, ORACLE

MEANS = ["acceptance_length", "mean_depth", "mean_size", "depth_policy_share", "size_policy_share"]
COLUMNS = [
    "method",
    "task",
    "prompts",
    "tokens",
    "seconds",
    "tokens_per_second",
    "speedup",
    "speedup_low",
    "speedup_high",
    "ratio",
    "ratio_low",
    "ratio_high",
    "gap_share",
    *MEANS,
]


def comparison(runs: pd.DataFrame, cycles: pd.DataFrame, methods: tuple[str, ...], seed: int) -> pd.DataFrame:
    """Compare methods with plain decoding and with the first of them.

    Args:
        runs, cycles: as `ltd.ablations.replayed.replay` returns them.
        methods: the reference first; the oracle is added to them.

    Returns:
        One row a (method, task), the mean of the headline tasks included. `speedup` and `ratio` are ratios of
        tokens per second, over plain decoding and over the reference, with bounds of 95% of paired resamples
        of prompts; `gap_share` is the part of the way from the best static setting to the oracle; shares
        of the policies are of all time.
    """
    rows = []
    for method in (*methods, ORACLE):
        table = _shapes(runs, cycles, method)
        for name, baseline in (("speedup", BASELINE), ("ratio", methods[0])):
            found = compare(runs, method, baseline, seed).set_index("task")
            columns = {"ratio": name, "low": f"{name}_low", "high": f"{name}_high"}
            table = table.join(found.rename(columns=columns))
        rows.append(table.reset_index(names="task").assign(method=method))
    whole = pd.concat(rows, ignore_index=True)
    bounds = {name: compare(runs, name, BASELINE, seed).set_index("task")["ratio"] for name in (GRID, ORACLE)}
    low, high = (whole["task"].map(bounds[name]) for name in (GRID, ORACLE))
    share = (whole["speedup"] - low) / (high - low).where(high > low)
    return whole.assign(gap_share=share)[COLUMNS]


def _shapes(runs: pd.DataFrame, cycles: pd.DataFrame, method: str) -> pd.DataFrame:
    """Sums and means of a method by task, and for the tasks' mean."""
    mine, log = runs[runs["method"] == method], cycles[cycles["method"] == method]
    by_task = mine.groupby("task", sort=False)
    table = by_task[["tokens", "seconds"]].sum().assign(prompts=by_task["prompt"].nunique())
    logs = log.groupby("task", sort=False)
    table["acceptance_length"] = logs["tokens"].mean()
    table["mean_depth"] = logs["depth"].mean()
    table["mean_size"] = log[log["depth"] > 0].groupby("task")["verified"].mean()
    for kind in ("depth", "size"):
        table[f"{kind}_policy_share"] = logs[f"{kind}_policy"].sum() / table["seconds"]
    headline = table.loc[headline_tasks(list(table.index))]
    table.loc[MEAN_TASK] = pd.concat(
        [headline[["tokens", "seconds", "prompts"]].sum(), headline[MEANS].mean()]
    )
    table["mean_size"] = table["mean_size"].replace(np.nan, 0.0)
    return table.assign(tokens_per_second=table["tokens"] / table["seconds"])
