"""The A/A comparison: how far two decodings lie apart between which nothing differs but their timing.

Two repeats of all methods at a time are shuffled together for every prompt, so the odd and the even repeats
of one method stand to each other as two methods do that were decoded half as often as a row of the table. A
row is a mean of twice as many, so two rows lie closer, by the square root of two. Two methods that are the
same static tree are such rows: `best_constant` often finds what the grid search found. All pairs together
tell how far two rows lie apart by timing noise alone: what differs by less than the repeatability limit
cannot be told from it.
"""

import math
from collections.abc import Iterable
from itertools import combinations

import numpy as np
import pandas as pd

from ltd.measurement.summary import MEAN_TASK, headline_tasks

# Methods without a network or a rule, so that equal choices are equal work.
STATIC_METHODS = ("eagle3", "eagle3_grid", "best_constant")
COLUMNS = ["pair", "task", "spread"]
# 95 of 100 draws of a normal distribution lie within so many standard deviations.
WITHIN_95 = 1.96


def clock_noise(runs: pd.DataFrame, cycles: pd.DataFrame) -> pd.DataFrame:
    """Return how far every A/A pair lies apart on every task: `spread` is the ratio of the two throughputs
    minus one, absolute, of halves scaled to what it is between two rows of the table.

    `runs` and `cycles` are measured, at one temperature. A pair is named by its method, or by its two
    methods; rows of the task `mean` are of the mean of the tasks' ratios, as in
    `ltd.measurement.summary.compare`. Empty where everything was decoded once and no two static methods are
    the same tree.
    """
    odd = runs["repeat"] % 2 == 1
    by_method = {method: runs["method"] == method for method in dict.fromkeys(runs["method"])}
    half = 1 / math.sqrt(2)
    pairs = {method: (mine & odd, mine & ~odd, half) for method, mine in by_method.items()}
    pairs |= {f"{a} and {b}": (by_method[a], by_method[b], 1.0) for a, b in same_trees(cycles)}
    rows = [
        {"pair": pair, "task": task, "spread": abs(ratio - 1) * between_rows}
        for pair, (ours, theirs, between_rows) in pairs.items()
        if ours.any()
        for task, ratio in _ratios(runs[ours], runs[theirs]).items()
    ]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"spread": float})


def same_trees(cycles: pd.DataFrame) -> list[tuple[str, str]]:
    """Pairs of static methods that chose the same depth and size in all of their cycles."""
    chosen = cycles[cycles["method"].isin(STATIC_METHODS)].groupby("method")[["depth", "size"]]
    settings = chosen.agg("first")[(chosen.nunique() == 1).all(axis=1)]
    names = list(settings.index)
    return [(a, b) for a, b in combinations(names, 2) if settings.loc[a].equals(settings.loc[b])]


def repeatability_limits(noise: pd.DataFrame, tasks: Iterable[str]) -> pd.Series:
    """What 95 of 100 differences between two rows that differ in nothing stay below, as a fraction, on each
    of `tasks` and in their mean; 0 where there is no pair.

    From the root mean square over all pairs: the largest would grow with the number of methods decoded.
    """
    deviation = np.sqrt((noise["spread"] ** 2).groupby(noise["task"]).mean())
    return (WITHIN_95 * deviation).reindex(list(dict.fromkeys([*tasks, MEAN_TASK])), fill_value=0.0)


def _ratios(ours: pd.DataFrame, theirs: pd.DataFrame) -> dict[str, float]:
    """Throughput over throughput on every task, and the mean of the headline tasks."""
    sums = [part.groupby("task", sort=False)[["tokens", "seconds"]].sum() for part in (ours, theirs)]
    rates = [part["tokens"] / part["seconds"] for part in sums]
    ratios = (rates[0] / rates[1]).dropna()  # of a task whose answers end with their first token
    return {**ratios, MEAN_TASK: ratios[headline_tasks(list(ratios.index))].mean()}
