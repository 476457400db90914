"""The figure of speedups: a panel a task, a row a method, the fastest in the mean at the top.

Marks and line widths carry the meaning beside colour: learned policies are a square, the best static setting
is a star, as on the throughput plane; other methods are dots, replayed ones hollow.
"""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ltd.measurement.summary import MEAN_TASK
from ltd.methods import BASELINE, GRID, TUNED
from ltd.reporting.figures import INK, ordered_tasks
from ltd.reporting.findings import name, shown_rows

COLUMNS = 4  # panels side by side
GREY, BAND = "#858585", "#ebebeb"
OTHERS = {"color": GREY, "marker": "o", "markersize": 3.5, "elinewidth": 0.9}
EMPHASISED = {
    TUNED: {"color": "#d55e00", "marker": "s", "markersize": 4.5, "elinewidth": 2.0},
    GRID: {"color": INK, "marker": "*", "markersize": 7.5, "elinewidth": 2.0},
}


def speedup_figure(summary: pd.DataFrame) -> Figure:
    """Speedup of every method on every task, the mean first, with 95% intervals; all panels share their axes.

    `summary` has the rows of `ltd.measurement.summary.summarise` at one temperature.
    """
    shown = shown_rows(summary)
    shown = shown[shown["method"] != BASELINE]
    tasks = [MEAN_TASK, *(task for task in ordered_tasks(shown["task"]) if task != MEAN_TASK)]
    methods = _sorted_methods(shown)
    columns = min(COLUMNS, len(tasks))
    rows = -(-len(tasks) // columns)
    size = (1.4 + 1.9 * columns, 0.5 + rows * (0.4 + 0.155 * max(len(methods), 2)))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, task in zip(panels.flat, tasks, strict=False):
        _draw_task(axes, shown[shown["task"] == task].set_index(["method", "source"]), methods)
        axes.set_title(task, fontweight="bold" if task == MEAN_TASK else "normal")
    for axes in panels.flat[len(tasks) :]:
        axes.remove()
    for index, axes in enumerate(panels.flat[: len(tasks)]):
        axes.tick_params(labelbottom=index + columns >= len(tasks))
    # Shared by all: limits set before everything is drawn would cut off what comes later.
    panels[0, 0].set_xlim(left=0)
    panels[0, 0].xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    _label_methods(panels[:, 0], methods)
    figure.supxlabel("speedup: tokens/s over those of autoregressive decoding (dashed: 1)", fontsize=9)
    return figure


def _sorted_methods(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """(method, source), the fastest in the mean of the tasks first."""
    means = rows[rows["task"] == MEAN_TASK].sort_values("speedup", ascending=False, kind="stable")
    return list(zip(means["method"], means["source"], strict=True))


def _draw_task(axes: Axes, rows: pd.DataFrame, methods: list[tuple[str, str]]) -> None:
    """Points and intervals of one task; `rows` by (method, source), where a method may be missing."""
    axes.axvline(1, color=INK, linewidth=0.8, linestyle="--", zorder=1)
    for place, (method, source) in enumerate(methods):
        if method in EMPHASISED:
            axes.axhspan(place - 0.5, place + 0.5, color=BAND, linewidth=0, zorder=0)
        if (method, source) in rows.index:
            row = rows.loc[(method, source)]
            ends = np.abs(row[["speedup_low", "speedup_high"]].to_numpy(float) - row["speedup"])
            axes.errorbar(row["speedup"], place, xerr=ends[:, None], **_look(method, source))
    axes.grid(axis="x", color=BAND, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)


def _look(method: str, source: str) -> dict[str, Any]:
    look = EMPHASISED.get(method, OTHERS)
    return look | {"markerfacecolor": "white"} if source == "replay" else look


def _label_methods(first_column: np.ndarray, methods: list[tuple[str, str]]) -> None:
    """Name the rows at the left edge, the emphasised methods in bold; the first method is at the top."""
    for axes in first_column:
        labels = [name(method, source) for method, source in methods]
        axes.set_yticks(range(len(methods)), labels, fontsize=8)
        for (method, _), label in zip(methods, axes.get_yticklabels(), strict=True):
            label.set_fontweight("bold" if method in EMPHASISED else "normal")
        axes.set_ylim(len(methods) - 0.5, -0.5)
