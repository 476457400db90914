"""Figures of training: the head's acceptance, the policies' curves, co-adaptation by iteration."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ltd.files import read_json
from ltd.reporting.figures import INK, LINES, MARKERS, shades
from ltd.rl import KINDS, retrained_kind


@dataclass(frozen=True)
class PolicyTraining:
    """One training of a chain: which policy, at which stage (`initial` or the iteration), and its curves."""

    kind: str
    stage: str
    best_steps: float
    curves: list[dict[str, float]]


@dataclass(frozen=True)
class Chain:
    """A chain of policies: its trainings in order, the validation of every iteration, and which is used."""

    name: str
    trainings: list[PolicyTraining]
    validations: list[dict[str, Any]]
    best_iteration: int


def read_chain(folder: Path) -> Chain | None:
    """Read a chain's folder (see `ltd.rl.policy_folders`); None when nothing was chosen from it.

    Its iterations are those that were chosen from: the folder may hold more, of a longer chain.
    """
    if not (choice := folder / "best" / "chosen.json").is_file():
        return None
    chosen = read_json(choice)
    names = list(chosen["validation_speedup"])
    iterations = [folder / name for name in names]
    trainings = []
    for kind in KINDS:
        if (file := folder / "initial" / kind / f"{kind}.training.json").is_file():
            trainings.append(_training(kind, "initial", file))
    for number, path in enumerate(iterations):
        kind = retrained_kind(number)
        # Iteration 0 only combines.
        if number and (file := path / f"{kind}.training.json").is_file():
            trainings.append(_training(kind, f"iteration {number}", file))
    validations = [read_json(path / "validation.json") for path in iterations]
    return Chain(folder.name, trainings, validations, names.index(chosen["chosen"]))


def _training(kind: str, stage: str, file: Path) -> PolicyTraining:
    value = read_json(file)
    return PolicyTraining(kind, stage, value["best_steps"], value["curves"])


def policy_figure(chain: Chain) -> Figure:
    """Training reward and validation speedup against steps; the kept checkpoint is ringed."""
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    panels = figure.subplots(2, 2, sharex="col")
    colours = shades(max(len(chain.trainings), 2))
    for column, kind in enumerate(KINDS):
        reward, speedup = panels[:, column]
        mine = [training for training in chain.trainings if training.kind == kind]
        for index, training in enumerate(mine):
            steps = [row["steps"] / 1000 for row in training.curves]
            look = {
                "color": colours[index],
                "linestyle": LINES[index % len(LINES)],
                "marker": MARKERS[index % len(MARKERS)],
                "markersize": 3,
                "linewidth": 1,
            }
            reward.plot(steps, [row["reward"] for row in training.curves], label=training.stage, **look)
            speedup.plot(steps, [row["speedup"] for row in training.curves], **look)
            kept = min(training.curves, key=lambda row: abs(row["steps"] - training.best_steps))
            ring = {"s": 60, "facecolor": "none", "edgecolor": INK, "zorder": 4}
            speedup.scatter(kept["steps"] / 1000, kept["speedup"], **ring)
        reward.set_title(f"{chain.name}: {kind} policy")
        speedup.set_xlabel("environment steps (thousands)")
        if mine:
            reward.legend(fontsize=7)
    panels[0, 0].set_ylabel("mean reward")
    panels[1, 0].set_ylabel("validation speedup (ringed: kept)")
    return figure


def iteration_figure(chains: Sequence[Chain]) -> Figure:
    """Every chain after every iteration: validation speedup over that of the best static setting on the same
    prompts, which are not those of another chain.
    """
    figure = Figure(figsize=(5.0, 3.0), layout="constrained")
    axes = figure.subplots()
    colours = shades(len(chains) + 1)
    for index, chain in enumerate(chains):
        speedups = [entry["speedup"] / entry["static"]["speedup"] for entry in chain.validations]
        axes.plot(
            range(len(speedups)),
            speedups,
            color=colours[index],
            linestyle=LINES[index % len(LINES)],
            marker=MARKERS[index % len(MARKERS)],
            label=chain.name,
        )
        axes.scatter(
            chain.best_iteration,
            speedups[chain.best_iteration],
            s=90,
            facecolor="none",
            edgecolor=INK,
            zorder=4,
        )
    axes.axhline(1, color=INK, linestyle="--", linewidth=0.8, label="best static setting")
    axes.set_xticks(range(max(len(chain.validations) for chain in chains)))
    axes.set_xlabel("iteration of co-adaptation")
    axes.set_ylabel("validation, over the best static\nsetting (ringed: best)")
    axes.legend()
    return figure


def acceptance_figure(head: Mapping[str, Any]) -> Figure:
    """The head's top-1 acceptance by draft step and task, and its acceptance length over the epochs.

    `head` is the JSON that training the head leaves: `best`, the kept epoch, and `epochs`.
    """
    figure = Figure(figsize=(7.5, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    tasks = head["best"]["tasks"]
    for index, (task, values) in enumerate(tasks.items()):
        left.plot(
            range(1, len(values["acceptance"]) + 1),
            values["acceptance"],
            color=shades(len(tasks))[index],
            marker=MARKERS[index % len(MARKERS)],
            linestyle=LINES[index % len(LINES)],
            markersize=3,
            linewidth=1,
            label=task,
        )
    left.set(xlabel="draft step", ylabel="top-1 acceptance (share of positions)", ylim=(0, 1))
    left.legend(fontsize=7, ncols=2)
    epochs = [row["epoch"] for row in head["epochs"]]
    right.plot(
        epochs, [row["acceptance_length"] for row in head["epochs"]], color=INK, marker="o", markersize=3
    )
    right.set_xticks(epochs)
    right.set(xlabel="epoch", ylabel="simulated acceptance length (tokens)")
    return figure


def loss_figure(history: Sequence[Mapping[str, float]]) -> Figure:
    """Loss of the target against optimiser steps, in training and on held-out texts."""
    figure = Figure(figsize=(5.0, 3.0), layout="constrained")
    axes = figure.subplots()
    axes.plot(
        [row["step"] for row in history],
        [row["loss"] for row in history],
        color="#999999",
        linewidth=0.6,
        label="training",
    )
    held_out = [row for row in history if "held_out_loss.mean" in row]
    axes.plot(
        [row["step"] for row in held_out],
        [row["held_out_loss.mean"] for row in held_out],
        color=INK,
        marker="o",
        markersize=3,
        label="held out, mean of the tasks",
    )
    axes.set(xlabel="optimiser step", ylabel="loss (nats a token)")
    axes.legend()
    return figure
