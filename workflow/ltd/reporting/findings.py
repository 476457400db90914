"""Sentences and tables of the report, generated from the benchmark's numbers and nothing else."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from ltd.baselines import NAMES as RULES
from ltd.baselines import PUBLISHED
from ltd.measurement.clock_noise import repeatability_limits
from ltd.measurement.summary import (
    GREEDY,
    MEAN_TASK,
    compare,
    gap_shares,
    headline_tasks,
    simulation_error,
)
from ltd.methods import BASELINE, GRID, LOOKUP, LOOKUP_LEARNED, ORACLE, TUNED
from ltd.opponents import NAMES as OPPONENTS
from ltd.reporting.figures import PHASE_LABELS, ordered_tasks
from ltd.reporting.paper_results import ALIASES, SOURCE, main_table, ratio_to_grid
from ltd.rl.presets import PRESETS

THIS_RUN = "this run"  # our column beside the paper's models
# Shares of a smaller gap between grid and oracle, a fraction of the grid's speed, tell nothing: replayed
# speedups are a few percent off the clock, and what a method loses to the grid would be many times the gap.
LEAST_GAP = 0.02


def markdown(rows: pd.DataFrame, formats: dict[str, str | Callable[[Any], str]] | None = None) -> str:
    """Render a table in Markdown; `formats` maps a column to a format specification or a function."""
    formats = formats or {}

    def cell(column: str, value: Any) -> str:
        shape = formats.get(column, "")
        if callable(shape):
            return shape(value)
        return "" if not isinstance(value, str) and pd.isna(value) else format(value, shape)

    lines = ["| " + " | ".join(map(str, rows.columns)) + " |"]
    lines.append("|" + "|".join("---:" if is_numeric_dtype(dtype) else "---" for dtype in rows.dtypes) + "|")
    for values in rows.itertuples(index=False):
        cells = (cell(name, value) for name, value in zip(rows.columns, values, strict=True))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main_rows(summary: pd.DataFrame) -> pd.DataFrame:
    """One row a method: the mean over the tasks, with the share of every phase in its time."""
    mean = shown_rows(summary)
    mean = mean[mean["task"] == MEAN_TASK]
    total = mean[list(PHASE_LABELS)].sum(axis=1)
    shares = {f"{label} %": 100 * mean[column] / total for column, label in PHASE_LABELS.items()}
    return pd.DataFrame(
        {
            "method": [name(m, s) for m, s in zip(mean["method"], mean["source"], strict=True)],
            "speedup": mean["speedup"],
            "95% interval": [
                f"{a:.2f} to {b:.2f}" for a, b in zip(mean["speedup_low"], mean["speedup_high"], strict=True)
            ],
            "mean of ratios": mean["speedup_mean_of_ratios"],
            "end to end": mean["end_to_end_speedup"],
            "tokens/s": mean["tokens_per_second"],
            "acceptance length": mean["acceptance_length"],
            "depth": mean["mean_depth"],
            "size": mean["mean_size"],
            **shares,
            "lossless": ["yes" if flag else "NO" for flag in mean["lossless"]],
        }
    )


def task_rows(summary: pd.DataFrame) -> pd.DataFrame:
    """Speedup with its interval: one row a method, one column a task."""
    rows = shown_rows(summary)
    rows = rows[rows["method"] != BASELINE]
    text = rows.assign(
        text=[f"{r.speedup:.2f} ({r.speedup_low:.2f} to {r.speedup_high:.2f})" for r in rows.itertuples()],
        method=[name(m, s) for m, s in zip(rows["method"], rows["source"], strict=True)],
    )
    table = text.pivot(index="method", columns="task", values="text")
    table = table.loc[list(dict.fromkeys(text["method"])), ordered_tasks(rows["task"])]
    return table.reset_index()


def shown_rows(summary: pd.DataFrame) -> pd.DataFrame:
    """Everything measured, and of the replayed methods those that cannot be decoded live."""
    measured = set(summary.loc[summary["source"] == "measured", "method"])
    return summary[(summary["source"] == "measured") | ~summary["method"].isin(measured)]


def name(method: str, source: str) -> str:
    """A method's name in tables, with a note when its number is replayed."""
    return f"{method} (replay)" if source == "replay" else method


def findings(
    summary: pd.DataFrame, runs: pd.DataFrame, limits: pd.Series, grid: dict[str, Any], seed: int
) -> list[str]:
    """Return one sentence a finding.

    `limits` are the repeatability limits by task (`ltd.measurement.clock_noise`), fractions: what differs by
    less is a tie whatever its interval says. `grid` is the outcome of the grid search (grid.json).
    """
    mean = summary[summary["task"] == MEAN_TASK].set_index(["source", "method"])
    measured = mean.loc["measured"]
    sentences = [
        lossless(summary),
        *(
            f"{method} decodes at {_speedup(row)} the speed of autoregressive decoding, mean of the tasks."
            for method, row in measured.iterrows()
            if method != BASELINE
        ),
    ]
    if GRID in measured.index:
        best, tasks = grid["best"], ordered_tasks(pd.Series(list(grid["grids"][0]["tasks"])))
        answers = kind_of_answers(grid["grids"][0]["temperature"])
        sentences.append(
            f"{GRID} is depth {best['depth']}, size {best['size']}: the best static setting on the "
            f"validation prompts of {', '.join(tasks)}, by {answers}."
        )
    if LOOKUP in measured.index:
        sentences.append(
            f"{LOOKUP} is another drafter for the same target: look-up of n-grams in its answers and in the "
            "present text, with the best static tree of its own."
        )
    if LOOKUP_LEARNED in measured.index:
        sentences.append(f"{LOOKUP_LEARNED} drafts by look-up, with policies of its own, untuned.")
    sentences += verdicts(runs, limits, seed)
    sentences += all_tasks(runs, seed)
    sentences += replayed(summary)
    if TUNED in measured.index:
        row = measured.loc[TUNED]
        share = row["policy_ms"] / row[list(PHASE_LABELS)].sum()
        sentences.append(f"The policies of {TUNED} take {100 * share:.1f}% of its decoding time.")
    return sentences


def kind_of_answers(temperature: float) -> str:
    """Name the answers that something was learned from or chosen by."""
    return f"answers sampled at temperature {temperature:g}" if temperature else "greedy answers"


def verdicts(runs: pd.DataFrame, limits: pd.Series, seed: int) -> list[str]:
    """Compare the policies with what they must beat, a sentence a pair of methods that were both measured."""
    pairs = [(TUNED, GRID), ("ltd:paper", GRID), (TUNED, "ltd:paper"), (LOOKUP, GRID)]
    pairs.append((LOOKUP_LEARNED, LOOKUP))
    pairs += [(TUNED, opponent) for opponent in OPPONENTS]
    decoded = set(runs["method"])
    return [verdict(runs, *pair, limits, seed) for pair in pairs if set(pair) <= decoded]


def all_tasks(runs: pd.DataFrame, seed: int) -> list[str]:
    """The policies over the best static setting in the mean of all tasks, where the mean leaves some out."""
    tasks = list(dict.fromkeys(runs["task"]))
    if not {TUNED, GRID} <= set(runs["method"]) or len(headline_tasks(tasks)) == len(tasks):
        return []
    ratios = compare(runs, TUNED, GRID, seed).set_index("task")["ratio"]
    return [f"In the mean of all {len(tasks)} tasks {TUNED} is {ratios[tasks].mean():.3f}x {GRID}."]


def judged(runs: pd.DataFrame, method: str, baseline: str, limits: pd.Series, seed: int) -> pd.DataFrame:
    """Compare two methods on every task and in the mean: columns ratio, low, high and word, by task.

    `word` is faster or slower where the interval and the task's repeatability limit allow it, else a tie.
    """
    table = compare(runs, method, baseline, seed).set_index("task")
    limit = limits.reindex(table.index)
    faster = (table["low"] > 1) & (table["ratio"] > 1 + limit)
    slower = (table["high"] < 1) & (table["ratio"] < 1 - limit)
    return table.assign(word=np.select([faster, slower], ["faster", "slower"], "a tie"))


def verdict(runs: pd.DataFrame, method: str, baseline: str, limits: pd.Series, seed: int) -> str:
    """Say on which tasks `method` is significantly faster or slower than `baseline`, and where they tie."""
    table = judged(runs, method, baseline, limits, seed)
    mean = table.loc[MEAN_TASK]
    word = "significant"
    if mean["word"] == "a tie":
        within = mean["low"] <= 1 <= mean["high"]
        word = "no significant difference" if within else "less than the timing noise"
    tasks = [task for task in ordered_tasks(table.index.to_series()) if task != MEAN_TASK]
    parts = []
    for label in ("faster", "slower", "a tie"):
        if hits := [
            f"{task} ({table.loc[task, 'ratio']:.2f}x)" for task in tasks if table.loc[task, "word"] == label
        ]:
            parts.append(f"{label} on {', '.join(hits)}")
    return (
        f"{method} against {baseline}: {mean['ratio']:.3f}x in the mean (95% interval {mean['low']:.3f} to "
        f"{mean['high']:.3f}, {word}); {'; '.join(parts)}."
    )


def noise_sentence(noise: pd.DataFrame) -> str:
    """Say how far timing noise alone takes rows apart, in the mean and by task: what is called a tie."""
    if noise.empty:
        return "Everything was decoded once: nothing tells timing noise from a difference."
    limits = repeatability_limits(noise, noise["task"])
    tasks = [task for task in ordered_tasks(noise["task"]) if task != MEAN_TASK]
    by_task = ", ".join(f"{task} {100 * limits[task]:.1f}%" for task in tasks)
    means = noise[noise["task"] == MEAN_TASK]
    farthest = means.loc[means["spread"].idxmax()]
    return (
        f"A/A: rows that differ in nothing lie within {100 * limits[MEAN_TASK]:.1f}% of each other in 95 of "
        f"100 cases in the mean, by task within: {by_task}. What differs by less is a tie. The farthest pair "
        f"found in the mean is {farthest['pair']}, {100 * farthest['spread']:.1f}%."
    )


def lossless(summary: pd.DataFrame) -> str:
    """Say whether every method emitted the tokens of autoregressive decoding, and which did not."""
    wrong = sorted(set(summary.loc[~summary["lossless"], "method"]))
    if wrong:
        return f"NOT LOSSLESS: {', '.join(wrong)} emitted tokens that differ from autoregressive decoding."
    return "Every method emitted exactly the tokens of autoregressive decoding on every prompt and repeat."


def _speedup(row: pd.Series) -> str:
    return f"{row['speedup']:.2f}x (95% interval {row['speedup_low']:.2f} to {row['speedup_high']:.2f})"


def replayed(summary: pd.DataFrame) -> list[str]:
    """Say how far the oracle gets, who closes how much of the gap, and how well replay predicts the clock."""
    return gap_sentences(summary) + replay_errors(summary)


def gap_sentences(summary: pd.DataFrame) -> list[str]:
    """Say how far the oracle gets, and who closes how much of the gap to it, where there is one."""
    replay = summary[(summary["task"] == MEAN_TASK) & (summary["source"] == "replay")].set_index("method")
    if not {TUNED, GRID, ORACLE} <= set(replay.index):
        return []
    ours, static, bound = (replay.loc[m, "speedup"] for m in (TUNED, GRID, ORACLE))
    reached = (
        f"In replay the clairvoyant oracle reaches {bound:.2f}x, {GRID} {static:.2f}x and {TUNED} {ours:.2f}x"
    )
    if not bound >= (1 + LEAST_GAP) * static:
        return [f"{reached}: there is hardly a gap to close."]
    shares = gap_shares(summary)
    shares = shares[shares["task"] == MEAN_TASK].set_index("method")["gap_share"]
    sentences = [f"{reached}: {TUNED} closes {100 * shares[TUNED]:.0f}% of the gap."]
    if others := [m for m in OPPONENTS if m in shares]:
        listed = ", ".join(f"{method} {100 * shares[method]:.0f}%" for method in others)
        sentences.append(f"Of the same gap its opponents close: {listed}.")
    return sentences


def replay_errors(summary: pd.DataFrame) -> list[str]:
    """Say how far replayed speedups are from measured ones: in the mean of the tasks, where errors of single
    tasks may cancel, and by task.
    """
    error = simulation_error(summary)
    error = error[error["method"] != BASELINE].dropna(subset="error")
    means, tasks = error[error["task"] == MEAN_TASK], error[error["task"] != MEAN_TASK]
    if means.empty:
        return []
    in_mean, on_task = (rows.loc[rows["error"].abs().idxmax()] for rows in (means, tasks))
    return [
        "Replay predicts the measured speedups in the mean of the tasks with a mean absolute error of "
        f"{100 * means['error'].abs().mean():.1f}% over the methods (largest {100 * in_mean['error']:+.1f}%, "
        f"{in_mean['method']}), on single tasks of {100 * tasks['error'].abs().mean():.1f}% over methods and "
        f"tasks (largest {100 * on_task['error']:+.1f}%, {on_task['method']} on {on_task['task']})."
    ]


def simulation_rows(summary: pd.DataFrame) -> pd.DataFrame:
    """Measured and replayed speedup in the mean of the tasks."""
    error = simulation_error(summary)
    error = error[(error["task"] == MEAN_TASK) & (error["method"] != BASELINE)]
    return pd.DataFrame(
        {
            "method": error["method"],
            "measured": error["speedup_measured"],
            "replayed": error["speedup_replayed"],
            "error %": 100 * error["error"],
        }
    )


def papers_table(summary: pd.DataFrame, temperature: float) -> pd.DataFrame:
    """The paper's table under our names: of a rule those of `<name>:published`, where it was decoded."""
    paper, suffix = main_table(temperature), f":{PUBLISHED}"
    decoded = [method for method in set(summary["method"]) if method.endswith(suffix)]
    ours = {method.removesuffix(suffix): method for method in decoded}
    return paper.assign(method=paper["method"].replace(ours))


def constants_sentence(methods: Iterable[str]) -> list[str]:
    """Say which of the rules beside the paper's have tuned constants; nothing where none has."""
    tuned = [method for method in methods if method in RULES]
    if not tuned:
        return []
    return [
        f"The constants of {', '.join(tuned)} come from a search on validation prompts; those of the paper's "
        "rules are fixed."
    ]


def paper_rows(summary: pd.DataFrame, temperature: float, column: str = "speedup") -> pd.DataFrame | None:
    """Our means of `column` beside the paper's for its five models; None where the paper has no such table or
    no method of it was decoded.

    `column` is `speedup` or `acceptance_length`.
    """
    paper = papers_table(summary, temperature)
    paper = paper[paper["task"] == "mean"]
    ours = shown_rows(summary)
    ours = ours[ours["task"].isin(papers_tasks(ours["task"])) & ours["method"].isin(set(paper["method"]))]
    if ours.empty:
        return None
    means = ours.groupby("method", sort=False)[column].mean().rename(THIS_RUN).to_frame()
    return means.join(paper.pivot(index="method", columns="model", values=column)).reset_index()


def papers_tasks(tasks: pd.Series) -> list[str]:
    """Those of our tasks that stand for the paper's four, by whichever name; all where none does."""
    known = set(main_table(GREEDY)["task"])
    names = [task for task in dict.fromkeys(tasks) if task != MEAN_TASK]
    return [task for task in names if ALIASES.get(task, task) in known] or names


def paper_task_rows(summary: pd.DataFrame, temperature: float) -> pd.DataFrame | None:
    """Ours beside the paper's by task, `speedup (acceptance length)`; None where the paper has no table."""
    paper = papers_table(summary, temperature)
    paper = paper[paper["task"] != "mean"]
    ours = shown_rows(summary)
    # A task of the paper's own name goes before one that is an alias of it.
    taken = set(ours["task"])
    ours = ours.assign(task=ours["task"].replace({a: t for a, t in ALIASES.items() if t not in taken}))
    ours = ours[ours["task"].isin(set(paper["task"])) & ours["method"].isin(set(paper["method"]))]
    if ours.empty:
        return None
    both = pd.concat([ours.assign(model=THIS_RUN), paper])
    cells = both["speedup"].map("{:.2f}".format) + both["acceptance_length"].map(" ({:.2f})".format)
    table = both.assign(cell=cells).pivot(index=["task", "method"], columns="model", values="cell")
    columns = [THIS_RUN, *sorted(set(paper["model"]))]
    return table.reindex(pd.MultiIndex.from_frame(ours[["task", "method"]]))[columns].fillna("").reset_index()


def paper_sentence(summary: pd.DataFrame, temperature: float) -> str | None:
    """Compare the gain of learned policies over the best static setting with the paper's."""
    theirs = ratio_to_grid(temperature)
    measured = summary[(summary["task"] != MEAN_TASK) & (summary["source"] == "measured")]
    speedups = measured.pivot(index="task", columns="method", values="speedup")
    if theirs.empty or not {"ltd:paper", GRID} <= set(speedups):
        return None
    speedups = speedups.loc[papers_tasks(speedups.index.to_series())]
    ours = [
        f"{(speedups[method] / speedups[GRID]).mean():.3f} for {method}"
        for method in ("ltd:paper", TUNED)
        if method in speedups
    ]
    return (
        f"The paper's policies have {theirs.min():.3f} to {theirs.max():.3f} of its best static setting's "
        f"speed (median {theirs.median():.3f} over {len(theirs)} models, {SOURCE}); "
        f"here it is {' and '.join(ours)}."
    )


def paper_training_sentence(settings: Mapping[str, Any]) -> str:
    """How the policies of the paper's formulation were trained, which is what their row is worth."""
    tasks, paper = ", ".join(settings["train_tasks"]) or "all tasks", PRESETS["paper"]
    steps = [f"{settings[name]:,} of the paper's {paper[name]:,}" for name in ("size_steps", "depth_steps")]
    return (
        f"ltd:paper is the paper's formulation, untuned, trained on {tasks} with {steps[0]} first steps for "
        f"the size and {steps[1]} for the depth."
    )


def bullet_list(sentences: Sequence[str]) -> str:
    """Render sentences as a Markdown list."""
    return "\n".join(f"- {sentence}" for sentence in sentences)
