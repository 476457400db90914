"""The figure of all methods' speedups by task."""

from itertools import pairwise

import pandas as pd
import pytest

from ltd.reporting.speedup_figure import speedup_figure
from report_files import measured_and_replayed


def marks_by_row(axes):
    """Row labels from the top, and the places of the marks on the axis, by row number."""
    labels = [label.get_text() for label in axes.get_yticklabels()]
    bottom, top = axes.get_ylim()
    assert bottom > top
    marks = {bars.lines[0].get_ydata()[0]: bars.lines[0].get_xdata()[0] for bars in axes.containers}
    return labels, marks


def test_speedup_figure_has_a_panel_a_task_and_a_row_a_method():
    _, _, summary = measured_and_replayed(noise=0.0)
    figure = speedup_figure(summary)
    assert [axes.get_title() for axes in figure.axes] == ["mean", "chat", "maths", "stdlib"]
    labels, marks = marks_by_row(figure.axes[0])
    # Sorted by speed; what was measured is not shown replayed, and the baseline is the line at 1.
    assert labels == ["oracle (replay)", "ltd", "ltd:paper", "eagle3_grid", "eagle3"]
    assert marks == pytest.approx({0: 2.0, 1: 1.6, 2: 1.45, 3: 1.4, 4: 0.9})
    for axes in figure.axes:
        assert list(axes.lines[0].get_xdata()) == [1, 1]
        assert axes.get_xlim() == figure.axes[0].get_xlim()
    bold = {label.get_text(): label.get_fontweight() for label in figure.axes[0].get_yticklabels()}
    assert [name for name, weight in bold.items() if weight == "bold"] == ["ltd", "eagle3_grid"]


def test_speedup_figure_shows_intervals_and_leaves_out_what_a_task_lacks():
    _, _, summary = measured_and_replayed()
    summary = summary[(summary["method"] != "eagle3") | (summary["task"] != "maths")]
    # One task much faster than the mean: its marks are within the shared axis too.
    summary.loc[summary["task"] == "stdlib", ["speedup", "speedup_low", "speedup_high"]] *= 2
    figure = speedup_figure(summary)
    left, right = figure.axes[0].get_xlim()
    assert left == 0 and right > summary["speedup_high"].max()
    for axes, task in zip(figure.axes, ("mean", "chat", "maths", "stdlib"), strict=True):
        rows = summary[(summary["task"] == task) & (summary["method"] == "ltd")]
        row = rows[rows["source"] == "measured"].iloc[0]
        interval = axes.containers[1].lines[2][0].get_segments()[0][:, 0]
        assert interval == pytest.approx([row["speedup_low"], row["speedup_high"]])
        assert len(axes.containers) == (4 if task == "maths" else 5)


@pytest.mark.parametrize("count", [2, 25])
def test_speedup_figure_grows_with_the_methods(count, tmp_path):
    """Rows have the same height however many there are, and no label covers its neighbour."""
    _, _, summary = measured_and_replayed({"autoregressive": 1.0, "ltd": 1.6, "eagle3_grid": 1.4})
    summary = summary[summary["source"] == "measured"]
    ours = summary[summary["method"] == "ltd"]
    variants = [ours.assign(method=f"ltd:variant-{number}") for number in range(count - 2)]
    figure = speedup_figure(pd.concat([summary, *variants]))
    figure.savefig(tmp_path / "speedups.svg")
    first = figure.axes[0]
    boxes = [label.get_window_extent() for label in first.get_yticklabels()]
    assert len(boxes) == count
    assert all(upper.y0 >= lower.y1 for upper, lower in pairwise(boxes))
