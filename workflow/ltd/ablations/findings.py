"""One sentence an ablation, generated from its table and nothing else."""

from collections.abc import Callable

import pandas as pd

from ltd.measurement.summary import MEAN_TASK, compare, headline_tasks
from ltd.methods import GRID, ORACLE, PAPER, parse_method

SEED_TARGET = 0.02
WORDS = {
    "slower": "significantly slower",
    "faster": "significantly faster",
    "": "no significant difference",
}


def finding(
    ablation: str, table: pd.DataFrame, runs: pd.DataFrame, measured: dict[str, float], seed: int
) -> str:
    """The sentence of an ablation.

    Args:
        ablation: its name.
        table: what `ltd.ablations.comparison.comparison` returned.
        runs: the replayed runs, a row an answer.
        measured: share of the policies in the time of live decoding, by method; only `overhead` tells it.
        seed: of the resampling.
    """
    kind = ablation.removesuffix(f"-{PAPER}")
    special: dict[str, Callable[[], str]] = {
        "seeds": lambda: seed_spread(runs, table),
        "overhead": lambda: overhead(table, measured),
        "generalisation": lambda: generalisation(runs, table, seed),
    }
    return special.get(kind, lambda: against_reference(table))()


def means(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the tasks' mean, by method, without the oracle."""
    rows = table[(table["task"] == MEAN_TASK) & (table["method"] != ORACLE)]
    return rows.set_index("method")


def significance(low: float, high: float) -> str:
    """What a ratio with these bounds is: a key of `WORDS`."""
    return "faster" if low > 1 else "slower" if high < 1 else ""


def against_reference(table: pd.DataFrame) -> str:
    """Which methods are significantly faster or slower than the first, and which are not."""
    rows = means(table)
    reference = rows.iloc[0]
    others = list(rows.iloc[1:].itertuples())
    parts = []
    for word, label in WORDS.items():
        hits = [
            f"{row.Index} ({row.ratio:.3f}x, 95% interval {row.ratio_low:.3f} to {row.ratio_high:.3f})"
            for row in others
            if significance(row.ratio_low, row.ratio_high) == word
        ]
        if hits:
            parts.append(f"{label}: {', '.join(hits)}")
    return f"Against {reference.name} ({reference['speedup']:.3f}x), mean of the tasks: {'; '.join(parts)}."


def seed_spread(runs: pd.DataFrame, table: pd.DataFrame) -> str:
    """How far apart the seeds of the whole training end."""
    spread, low, high, count = seed_numbers(runs, table)
    word = "within" if spread < SEED_TARGET else "outside"
    speedups = means(table)["speedup"].drop(GRID)
    return (
        f"{count} seeds of the policies' training decode the test prompts at {low:.1f} to {high:.1f} "
        f"tokens/s in replay: (max - min) / mean is {100 * spread:.2f}%, {word} the "
        f"{100 * SEED_TARGET:g}% aimed at. Their speedups in the mean of the tasks are {speedups.min():.3f} "
        f"to {speedups.max():.3f}, {100 * (speedups.max() - speedups.min()) / speedups.mean():.2f}% apart."
    )


def seed_numbers(runs: pd.DataFrame, table: pd.DataFrame) -> tuple[float, float, float, int]:
    """(max - min) / mean of test throughput over the seeds, both ends in tokens a second, number of seeds."""
    chains = [method for method in means(table).index if method != GRID]
    sums = runs[runs["method"].isin(chains)].groupby("method")[["tokens", "seconds"]].sum()
    rates = sums["tokens"] / sums["seconds"]
    return float((rates.max() - rates.min()) / rates.mean()), rates.min(), rates.max(), len(rates)


def overhead(table: pd.DataFrame, measured: dict[str, float]) -> str:
    """Share of both policies in the decoding time."""
    parts = []
    for row in means(table).drop(index=GRID).itertuples():
        depth, size = 100 * row.depth_policy_share, 100 * row.size_policy_share
        clock = f" (measured live {100 * measured[row.Index]:.2f}%)" if row.Index in measured else ""
        parts.append(
            f"{row.Index} spends {depth:.2f}% of its time on depth and {size:.2f}% on size decisions, "
            f"{depth + size:.2f}% together{clock}"
        )
    return f"In replay {'; '.join(parts)}."


def generalisation(runs: pd.DataFrame, table: pd.DataFrame, seed: int) -> str:
    """How policies that saw one task alone do on the others."""
    reference, lone = (name for name in means(table).index if name != GRID)
    task = parse_method(lone).variant.removeprefix("trained-on-")
    elsewhere = runs[runs["task"] != task]
    found = {name: compare(elsewhere, lone, name, seed).set_index("task") for name in (reference, GRID)}
    parts = []
    for baseline, ratios in found.items():
        row = ratios.loc[MEAN_TASK]
        word = WORDS[significance(row["low"], row["high"])]
        parts.append(f"{row['ratio']:.3f}x {baseline} ({row['low']:.3f} to {row['high']:.3f}, {word})")
    tasks = found[GRID].drop(index=MEAN_TASK)
    slower = [name for name, row in tasks.iterrows() if row["high"] < 1]
    listed = ", ".join(slower) or "none"
    headline = headline_tasks(list(tasks.index))
    return (
        f"Trained on {task} alone, the policies reach on the mean of {', '.join(headline)} "
        f"{' and '.join(parts)}; tasks on which they are significantly slower than {GRID}: {listed}."
    )
