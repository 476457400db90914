"""Every decoded method beside the learned policies and beside the best static setting, in paired intervals.

Two methods whose intervals over autoregressive decoding overlap may still differ significantly: both decode
the same prompts, and most of either interval is how prompts differ.
"""

from collections.abc import Mapping

import pandas as pd

from ltd.measurement.summary import MEAN_TASK
from ltd.methods import BASELINE, GRID, TUNED
from ltd.reporting.figures import ordered_tasks
from ltd.reporting.findings import judged

INTRODUCTION = (
    "Throughput over throughput, mean of the tasks, with 95% intervals from paired resampling of prompts; in "
    "words what the interval and the timing noise (A/A) allow, and the same by task. Each interval is of its "
    "pair alone, not corrected for the number of pairs."
)
Pairs = Mapping[tuple[str, str], pd.DataFrame]


def judge_pairs(runs: pd.DataFrame, limits: pd.Series, seed: int) -> Pairs:
    """`ltd.reporting.findings.judged` by (method, baseline): the policies over others, those over the grid.

    `runs` are measured, at one temperature; nothing of a method that was not decoded.
    """
    decoded = [method for method in dict.fromkeys(runs["method"]) if method != BASELINE]
    pairs = [(TUNED, method) for method in decoded if TUNED in decoded and method != TUNED]
    pairs += [(method, GRID) for method in decoded if GRID in decoded and method != GRID]
    return {pair: judged(runs, *pair, limits, seed) for pair in dict.fromkeys(pairs)}


def pair_rows(pairs: Pairs) -> pd.DataFrame:
    """One row a method: the policies over it, and it over the best static setting, in words by task too."""
    methods = dict.fromkeys(name for pair in pairs for name in pair if name not in (TUNED, GRID))
    rows = []
    first = [GRID] if (TUNED, GRID) in pairs else []
    for method in [*first, *methods]:
        ours, static = pairs.get((TUNED, method)), pairs.get((method, GRID))
        rows.append(
            {
                "method": method,
                f"{TUNED} over it": _mean(ours),
                f"{TUNED}, by task": _by_task(ours),
                f"it over {GRID}": _mean(static),
                "it, by task": _by_task(static),
            }
        )
    return pd.DataFrame(rows)


def pair_sentences(pairs: Pairs) -> list[str]:
    """Say what the policies are faster than in the mean of the tasks, and what is faster than the grid."""
    ours = {baseline: table for (method, baseline), table in pairs.items() if method == TUNED}
    static = {method: table for (method, baseline), table in pairs.items() if baseline == GRID}
    return [
        f"{subject}: {_groups(tables)}."
        for subject, tables in (
            (f"{TUNED} over each other method", ours),
            (f"Each method over {GRID}", static),
        )
        if tables
    ]


def _groups(tables: Mapping[str, pd.DataFrame]) -> str:
    parts = []
    for word, label in (
        ("faster", "significantly faster"),
        ("a tie", "a tie"),
        ("slower", "significantly slower"),
    ):
        means = {name: table.loc[MEAN_TASK] for name, table in tables.items()}
        hits = [f"{name} ({row['ratio']:.3f}x)" for name, row in means.items() if row["word"] == word]
        if hits:
            parts.append(f"{label}: {', '.join(hits)}")
    return "; ".join(parts)


def _mean(table: pd.DataFrame | None) -> str:
    if table is None:
        return ""
    row = table.loc[MEAN_TASK]
    return f"{row['ratio']:.3f} ({row['low']:.3f} to {row['high']:.3f}), {row['word']}"


def _by_task(table: pd.DataFrame | None) -> str:
    if table is None:
        return ""
    parts = []
    for word in ("faster", "slower", "a tie"):
        hits = [task for task in ordered_tasks(table.index.to_series()) if table.loc[task, "word"] == word]
        if hits := [task for task in hits if task != MEAN_TASK]:
            parts.append(f"{word}: {', '.join(hits)}")
    return "; ".join(parts)
