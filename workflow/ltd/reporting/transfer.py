"""The report's section on moving policies to other machines: findings, table and figure."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ltd.files import read_json
from ltd.measurement.summary import MEAN_TASK
from ltd.methods import BASELINE, GRID, ORACLE
from ltd.reporting.figures import HATCHES, INK, shades
from ltd.reporting.findings import bullet_list, markdown

# Methods and files of `ltd.transfer`.
MOVED, CONDITIONED, RETRAINED = "moved", "conditioned", "retrained"
LEARNED = (MOVED, CONDITIONED, RETRAINED)
RUNS, RATIOS, FACTS = "runs.csv", "ratios.csv", "transfer.json"
FIGURE = "transfer"
CAPTION = "Throughput over that of the best static setting of each machine, in replay; whiskers hold 95%."
INTRODUCTION = (
    "In replay, test prompts, mean of the tasks: `moved` are the policies of the chain default, trained on "
    "this machine's latency profile and run as they are; `conditioned` observe the machine and were trained "
    "on a family of made-up ones; `retrained` were trained for the machine from the same traces. The grid is "
    "searched again on each. `slower-*` are made up from `measured`."
)


@dataclass(frozen=True)
class Move:
    """One machine as `ltd.transfer` wrote it: ratios of the tasks' mean by (method, baseline), and facts."""

    name: str
    ratios: pd.DataFrame
    facts: dict[str, Any]

    def shown(self, method: str, baseline: str, digits: int = 3) -> str:
        """A ratio with its interval."""
        row = self.ratios.loc[(method, baseline)]
        return f"{row['ratio']:.{digits}f} ({row['low']:.{digits}f} to {row['high']:.{digits}f})"


def read_moves(experiment: Path, machines: tuple[str, ...]) -> list[Move]:
    """Read the moves to some machines; raises InputError when one is not there."""
    moves = []
    for machine in machines:
        folder = experiment / "transfer" / machine
        facts = read_json(folder / FACTS)
        ratios = pd.read_csv(folder / RATIOS)
        means = ratios[ratios["task"] == MEAN_TASK].set_index(["method", "baseline"])
        moves.append(Move(machine, means, facts))
    return moves


def draw(moves: list[Move]) -> dict[str, Figure]:
    """The figure by its file name; nothing without moves."""
    if not moves:
        return {}
    figure = Figure(figsize=(6.5, 3.0), layout="constrained")
    axes = figure.subplots()
    for index, (method, colour) in enumerate(zip(LEARNED, shades(len(LEARNED) + 1)[1:], strict=True)):
        rows = pd.DataFrame([move.ratios.loc[(method, GRID)] for move in moves])
        ends = np.abs(rows[["low", "high"]].to_numpy(float).T - rows["ratio"].to_numpy(float))
        place = np.arange(len(moves)) + 0.26 * (index - 1)
        look = {"color": colour, "hatch": HATCHES[index], "edgecolor": INK, "linewidth": 0.6}
        axes.bar(place, rows["ratio"], 0.24, yerr=ends, capsize=2, label=method, **look)
    axes.axhline(1.0, color=INK, linewidth=0.6)
    axes.set_xticks(range(len(moves)), [move.name for move in moves])
    lowest = min(move.ratios.loc[(method, GRID), "low"] for move in moves for method in LEARNED)
    axes.set(ylabel="throughput over the grid's", ylim=(min(0.8, lowest - 0.05), None))
    figure.legend(loc="outside upper center", ncols=len(LEARNED))
    return {FIGURE: figure}


def sections(moves: list[Move]) -> list[str]:
    """The section in Markdown; nothing without moves."""
    if not moves:
        return []
    rows = pd.DataFrame([_row(move) for move in moves])
    sentences = [sentence for move in moves for sentence in findings(move)]
    figure = f"![{CAPTION}]({FIGURE}.svg)\n\n*{CAPTION}*"
    title = "## Transfer between machines"
    return [title, INTRODUCTION, bullet_list(sentences), markdown(rows), figure]


def _row(move: Move) -> dict[str, str]:
    grid, trained = move.facts["grid"], move.facts.get("retraining")
    speedups = {name: f"{move.ratios.loc[(name, BASELINE), 'ratio']:.3f}" for name in (*LEARNED, ORACLE)}
    static = f"{move.ratios.loc[(GRID, BASELINE), 'ratio']:.3f} ({grid['depth']}, {grid['size']})"
    last = f"{trained['seconds']:.0f} s ({trained['cpu_seconds']:.0f} s)" if trained else "at home"
    return {
        "machine": move.name,
        "grid (depth, size)": static,
        **speedups,
        f"{CONDITIONED} / {RETRAINED}": move.shown(CONDITIONED, RETRAINED),
        "retraining (processor)": last,
    }


def findings(move: Move) -> list[str]:
    """What the move says, in sentences from its numbers."""
    trained = move.facts.get("retraining")
    against = f"{move.shown(CONDITIONED, RETRAINED)} of the throughput of those trained for it"
    sentence = f"On {move.name} policies for any machine attain {against}{_judged(move, CONDITIONED)}"
    if trained is None:
        return [f"{sentence}."]
    moved = f"the moved ones {move.shown(MOVED, RETRAINED)}{_judged(move, MOVED)}"
    spent = f"{trained['seconds']:.0f} s ({trained['cpu_seconds']:.0f} s of processor time)"
    return [f"{sentence}, {moved}; retraining took {spent}."]


def _judged(move: Move, method: str) -> str:
    row = move.ratios.loc[(method, RETRAINED)]
    return ", no significant difference" if row["low"] <= 1 <= row["high"] else ""
