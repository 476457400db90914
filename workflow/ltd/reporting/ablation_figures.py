"""Figures of ablations: speedup by iteration, and policies of one task on the others."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ltd.methods import GRID, TUNED
from ltd.reporting.figures import INK, LINES, MARKERS, ordered_tasks, shades


def iterations_figure(means: pd.DataFrame, paper: pd.DataFrame) -> Figure:
    """Speedup after every iteration with the best static setting beside it; in a second panel the paper's.

    Args:
        means: rows of the tasks' mean, by method `...iteration-<n>`.
        paper: the paper's mean speedups, a row `iteration-<n>`, a column a model.
    """
    figure = Figure(figsize=(7.5, 3.0), layout="constrained")
    ours, theirs = figure.subplots(1, 2)
    rows = means[means.index.str.contains("iteration-")]
    numbers = np.arange(len(rows))
    errors = np.abs(rows[["speedup_low", "speedup_high"]].to_numpy().T - rows["speedup"].to_numpy())
    ours.errorbar(numbers, rows["speedup"], yerr=errors, color=INK, marker="o", capsize=3, label="policies")
    ours.axhline(means.loc[GRID, "speedup"], color=INK, linestyle="--", linewidth=0.8)
    ours.annotate(
        "best static setting",
        (0.02, means.loc[GRID, "speedup"]),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        fontsize=8,
    )
    ours.set(title="this run (replay)", ylabel="speedup over autoregressive decoding")
    for index, model in enumerate(paper.columns):
        style = {"color": shades(len(paper.columns))[index], "linestyle": LINES[index]}
        theirs.plot(numbers_of(paper.index), paper[model], marker=MARKERS[index], label=model, **style)
    theirs.set(title="the paper (A100)")
    theirs.legend()
    for axes, count in ((ours, len(rows)), (theirs, len(paper))):
        axes.set_xticks(range(count))
        axes.set_xlabel("iteration of co-adaptation")
    return figure


def numbers_of(variants: pd.Index) -> list[int]:
    """The numbers of `iteration-<n>`."""
    return [int(variant.rpartition("-")[2]) for variant in variants]


def generalisation_figure(table: pd.DataFrame) -> Figure:
    """Throughput over that of the best static setting, by task: policies of all tasks and of one alone.

    `table` is that of an ablation whose reference is the best static setting.
    """
    methods = [name for name in dict.fromkeys(table["method"]) if name.partition(":")[0] == TUNED]
    tasks = ordered_tasks(table["task"])
    figure = Figure(figsize=(max(7.5, 0.25 * len(tasks)), 3.0), layout="constrained")
    axes = figure.subplots()
    for index, method in enumerate(methods):
        rows = table[table["method"] == method].set_index("task").loc[tasks]
        axes.errorbar(
            np.arange(len(tasks)) + 0.2 * (index - (len(methods) - 1) / 2),
            rows["ratio"],
            yerr=np.abs(rows[["ratio_low", "ratio_high"]].to_numpy().T - rows["ratio"].to_numpy()),
            color=shades(len(methods) + 1)[index],
            marker=MARKERS[index],
            linestyle="none",
            capsize=3,
            label=method,
        )
    axes.axhline(1, color=INK, linestyle="--", linewidth=0.8)
    axes.set_xticks(range(len(tasks)), tasks, rotation=90 if len(tasks) > 10 else 0)
    axes.set(xlabel="task", ylabel="throughput over the best\nstatic setting's (replay)")
    figure.legend(loc="outside upper right", ncols=len(methods))
    return figure
