"""Figures of measurements and decisions: latency, the throughput plane, time composition, choices.

Every function takes tables and returns a matplotlib figure. Lightness, hatching and markers carry the
meaning, so the figures can be read in grey; axes name their units.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ltd.files import atomic_path
from ltd.measurement.summary import HEADLINE_TASKS, MEAN_TASK, headline_tasks

INK = "#1a1a1a"
STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "figure.dpi": 100,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "svg.hashsalt": "ltd",
}
HATCHES = ("", "///", "...", "\\\\\\", "xxx", "---", "ooo", "+++")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":")
MOST_LINES = 6  # in one panel
PHASE_LABELS = {"draft_ms": "draft", "verify_ms": "verify", "policy_ms": "policy", "rest_ms": "rest"}


@contextmanager
def style() -> Iterator[None]:
    """Apply the common look to figures made and saved inside."""
    with matplotlib.rc_context(STYLE):
        yield


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write `name`.svg and `name`.png (160 dots an inch) and return their paths."""
    paths = []
    for suffix in ("svg", "png"):
        with atomic_path(folder / f"{name}.{suffix}") as temporary:
            # A date would make every run's SVG differ; PNG has no such field.
            metadata = {"Date": None} if suffix == "svg" else None
            figure.savefig(temporary, format=suffix, dpi=160, bbox_inches="tight", metadata=metadata)
        paths.append(folder / f"{name}.{suffix}")
    return paths


def shades(count: int) -> list[str]:
    """Return `count` colours that differ in lightness, darkest first."""
    colours = matplotlib.colormaps["cividis"](np.linspace(0.0, 0.9, max(count, 2)))
    return [matplotlib.colors.to_hex(colour) for colour in colours[:count]]


def latency_figure(profile: dict[str, Any]) -> Figure:
    """Draft time against depth and verification time against size, one line a context length, with spread;
    dotted, the straight lines that fit the middle context length best.

    `profile` is the JSON of a latency profile (`ltd.replay.latency`).
    """
    figure = Figure(figsize=(7.5, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    tables, contexts = profile["tables"], profile["context_lengths"]
    step, verify = tables["draft_step"], tables["verify"]
    step_ms = np.cumsum(np.asarray(step["ms"]), axis=0)
    prefix_ms = np.asarray(tables["draft_prefix"]["ms"])[:1]
    draft_ms = np.concatenate([prefix_ms, prefix_ms + step_ms])
    depths = [1, *step["axis"]]
    colours = shades(len(contexts))
    for index, context in enumerate(contexts):
        look = {
            "color": colours[index],
            "marker": MARKERS[index % len(MARKERS)],
            "markersize": 3,
            "linewidth": 1,
        }
        left.plot(depths, draft_ms[:, index], label=f"{context} tokens", **look)
        _band(right, verify, index, look)
    autoregressive = np.asarray(tables["autoregressive_step"]["ms"])[0]
    right.axhline(autoregressive.mean(), color=INK, linestyle="--", linewidth=1)
    right.annotate(
        "autoregressive step",
        (1, autoregressive.mean()),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="bottom",
        fontsize=8,
    )
    left.set(xlabel="depth D (draft passes)", ylabel="draft time (ms)", ylim=(0, None))
    right.set(xlabel="size V (draft nodes verified)", ylabel="verification time (ms)", ylim=(0, None))
    contexts_legend = left.legend(title="context", loc="upper left")
    middle = len(contexts) // 2
    _fit(left, depths, draft_ms[:, middle], "pass")
    _fit(right, verify["axis"], np.asarray(verify["ms"], dtype=float)[:, middle], "node")
    left.add_artist(contexts_legend)
    return figure


def _fit(axes: Axes, places: Sequence[int], ms: np.ndarray, unit: str) -> None:
    """Draw the straight line that fits best, and say what it is."""
    slope, start = np.polyfit(places, ms, 1)
    ends = np.array([min(places), max(places)])
    label = f"{start:.2f} ms + {slope:.3f} ms a {unit}"
    (line,) = axes.plot(ends, start + slope * ends, color=INK, linestyle=":", linewidth=1.2, label=label)
    axes.legend(handles=[line], loc="lower right")


def lengths_figure(grid: pd.DataFrame) -> Figure:
    """Acceptance length against size, a line a depth, and against depth, a line a size.

    `grid`: depth, size, acceptance_length of every static setting.
    """
    table = grid[grid["depth"] > 0].pivot(index="depth", columns="size", values="acceptance_length")
    figure = Figure(figsize=(7.5, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _lines(left, table, "depth")
    _lines(right, table.T, "size")
    left.set(xlabel="size V (draft nodes verified)", ylabel="acceptance length (tokens a cycle)")
    left.set_ylim(bottom=1)
    right.set(xlabel="depth D (draft passes)")
    return figure


def _lines(axes: Axes, table: pd.DataFrame, name: str) -> None:
    """Draw a few rows of a table, spread evenly over their ratios, against its columns."""
    count = min(len(table), MOST_LINES)
    places = np.unique(np.geomspace(1, len(table), count).round().astype(int)) - 1
    for number, (place, colour) in enumerate(zip(places, shades(len(places)), strict=True)):
        row = table.iloc[place]
        axes.plot(row.index, row, color=colour, linestyle=LINES[number % len(LINES)], label=str(row.name))
    axes.legend(title=name, fontsize=7, ncols=3, loc="lower right")


def _band(axes: Axes, table: dict[str, Any], index: int, look: dict[str, Any]) -> None:
    """Draw the times of one context length and, around them, half the interquartile range either way."""
    middle, spread = (np.asarray(table[name], dtype=float)[:, index] for name in ("ms", "spread"))
    axes.plot(table["axis"], middle, **look)
    axes.fill_between(
        table["axis"], middle - spread / 2, middle + spread / 2, color=look["color"], alpha=0.15, linewidth=0
    )


def tradeoff_figure(grid: pd.DataFrame, policy: pd.DataFrame, oracle: pd.DataFrame | None) -> Figure:
    """The plane of static settings, shaded by replayed speedup, and where the methods work on it.

    `grid`: depth, size, speedup. `policy` and `oracle`: depth and size of single cycles; the area of a mark
    is its share of the cycles. The oracle sees the future, so its marks bound what any choice can gain.
    """
    figure = Figure(figsize=(6.8, 4.2), layout="constrained")
    axes = figure.subplots()
    table = grid[grid["depth"] > 0].pivot(index="depth", columns="size", values="speedup")
    sizes, depths = table.columns.to_numpy(float), table.index.to_numpy(float)
    image = axes.pcolormesh(_edges(sizes), _edges(depths), table, cmap="Greys_r", rasterized=True)
    label = "static setting: replayed speedup\n(validation prompts, all tasks together)"
    figure.colorbar(image, ax=axes, label=label)
    if min(table.shape) > 1:  # a line needs a plane
        contours = axes.contour(
            sizes, depths, table, levels=[1.0], colors="#ffffff", linewidths=1, linestyles="--"
        )
        axes.clabel(contours, fmt=lambda level: f"{level:.0f}x", fontsize=7)
    best = grid.loc[grid["speedup"].idxmax()]
    _cloud(axes, policy, "#d55e00", "s", "ltd", shift=-0.15)
    if oracle is not None:
        _cloud(axes, oracle, "#56b4e9", "o", "oracle", shift=0.15)
    label = f"best static ({best['depth']:.0f}, {best['size']:.0f}): {best['speedup']:.2f}x"
    look = {"marker": "*", "s": 200, "color": "#ffffff", "edgecolor": INK, "linewidth": 1.2, "zorder": 4}
    axes.scatter(best["size"], best["depth"], label=label, **look)
    axes.set_xscale("log", base=2)
    axes.set_xlim(left=0.7)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set_yticks(depths)
    axes.set(xlabel="size V (draft nodes verified)", ylabel="depth D (draft passes)")
    figure.legend(loc="outside upper center", ncols=3)
    return figure


def _edges(centres: np.ndarray) -> np.ndarray:
    """Borders half-way between the centres of cells."""
    middle = (centres[1:] + centres[:-1]) / 2
    first, last = 2 * centres[0] - middle[:1].sum(), 2 * centres[-1] - middle[-1:].sum()
    if len(centres) == 1:
        first, last = centres[0] - 0.5, centres[0] + 0.5
    return np.concatenate([[first], middle, [last]])


def _cloud(axes: Axes, choices: pd.DataFrame, colour: str, marker: str, name: str, shift: float) -> None:
    """Mark the share of cycles at every (depth, size); plain steps (depth 0) have no place on the plane.

    `shift` moves the marks off the depth's line, so that two clouds do not cover each other.
    """
    drafted = choices[choices["depth"] > 0]
    counts = drafted.groupby(["depth", "size"]).size()
    skipped = 1 - len(drafted) / max(len(choices), 1)
    label = name + (f", {100 * skipped:.0f}% plain steps" if skipped >= 0.005 else "")
    look = {
        "marker": marker,
        "facecolor": colour,
        "edgecolor": INK,
        "linewidth": 0.5,
        "alpha": 0.8,
        "zorder": 3,
    }
    place = counts.index.get_level_values("size"), counts.index.get_level_values("depth") + shift
    axes.scatter(*place, s=1500 * counts.to_numpy() / max(len(choices), 1), **look)
    axes.scatter([], [], s=40, label=label, **look)


def ordered_tasks(tasks: pd.Series) -> list[str]:
    """The paper's four tasks first, then others, the mean last."""
    present = list(dict.fromkeys(tasks))
    first = [task for task in HEADLINE_TASKS if task in present]
    others = sorted(task for task in present if task not in (*HEADLINE_TASKS, MEAN_TASK))
    return first + others + ([MEAN_TASK] if MEAN_TASK in present else [])


def composition_figure(summary: pd.DataFrame) -> Figure:
    """Milliseconds per emitted token by phase, mean of the tasks, one bar a measured method.

    The mean is of the quotients by task: mean milliseconds over mean tokens would weigh a task by its
    acceptance length.
    """
    measured = summary[(summary["task"] != MEAN_TASK) & (summary["source"] == "measured")]
    measured = measured.dropna(subset="acceptance_length")
    measured = measured[measured["task"].isin(headline_tasks(list(measured["task"])))]
    per_token = measured[list(PHASE_LABELS)].div(measured["acceptance_length"], axis=0)
    rows = per_token.groupby(measured["method"], sort=False).mean()
    figure = Figure(figsize=(6.5, 0.6 + 0.42 * len(rows)), layout="constrained")
    axes = figure.subplots()
    left = np.zeros(len(rows))
    for index, (column, label) in enumerate(PHASE_LABELS.items()):
        values = rows[column].to_numpy()
        axes.barh(
            rows.index,
            values,
            left=left,
            color=shades(5)[index + 1],
            hatch=HATCHES[index],
            edgecolor=INK,
            linewidth=0.6,
            label=label,
        )
        left += values
    axes.invert_yaxis()
    axes.set(xlabel="time per emitted token (ms)")
    figure.legend(loc="outside upper center", ncols=4)
    return figure


def choices_figure(cycles: pd.DataFrame, method: str) -> Figure:
    """Share of cycles at every (depth, size) chosen by `method`, hard cycles beside easy ones.

    Cycles, of the first repeat, are split at their median number of emitted tokens (the paper's Figure 6
    splits at 6).
    """
    cycles = cycles[cycles["repeat"] == 0]
    split = int(cycles["tokens"].median())
    parts = {
        f"up to {split} tokens gained": cycles[cycles["tokens"] <= split],
        f"more than {split} tokens gained": cycles[cycles["tokens"] > split],
    }
    sizes, depths = sorted(cycles["size"].unique()), sorted(cycles["depth"].unique())
    shares = [
        pd.crosstab(part["depth"], part["size"]).reindex(index=depths, columns=sizes, fill_value=0)
        / max(len(part), 1)
        for part in parts.values()
    ]
    figure = Figure(figsize=(7.5, 0.9 + 0.28 * max(len(depths), 6)), layout="constrained")
    top = max(share.to_numpy().max() for share in shares)
    for axes, (title, part), share in zip(
        figure.subplots(1, 2, sharey=True), parts.items(), shares, strict=True
    ):
        image = axes.imshow(share, origin="lower", aspect="auto", cmap="Greys", vmin=0, vmax=top)
        for (row, column), value in np.ndenumerate(share.to_numpy()):
            if value >= 0.01:
                colour = "white" if value > 0.55 * top else INK
                axes.text(
                    column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=7, color=colour
                )
        axes.set_xticks(range(len(sizes)), [f"{size:g}" for size in sizes])
        axes.set_yticks(range(len(depths)), [f"{depth:g}" for depth in depths])
        axes.set(title=f"{method}: {title} (n = {len(part)})", xlabel="size V (nodes)")
        for side in axes.spines.values():
            side.set_visible(True)
    figure.axes[0].set_ylabel("depth D (draft passes)")
    figure.colorbar(image, ax=figure.axes, label="share of cycles")
    return figure
