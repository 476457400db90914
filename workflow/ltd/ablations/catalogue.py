"""The ablations by name, and the methods that each compares (`ltd.methods`).

Snakemake reads this module for its plan, so it imports nothing heavy.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ltd.errors import InputError
from ltd.methods import GRID, PAPER, RECOMBINED, SIZE_ALONE, TUNED, PolicyMethod, parse_method
from ltd.rl.rewards import KINDS

SEEDS = 5
# What the paper varies: cumulative probabilities, depth and length; then with entropy and hidden state. The
# suffix is ours.
OBSERVATIONS = (
    ("scores",),
    ("depth",),
    ("length",),
    ("scores", "length"),
    ("scores", "depth"),
    ("depth", "length"),
    ("scores", "depth", "length"),
    ("suffix",),
    ("scores", "depth", "length", "suffix"),
)
WITH_ENTROPY = (("entropy",), ("scores", "depth", "length", "entropy"))
WITH_HIDDEN = (("scores", "depth", "length", "hidden"),)
# Hidden layers of the size policy: small ones, and the paper's three.
NETWORKS = ((32, 32), (128, 64), (1024,), (1024, 256), (1024, 512, 256))
# Ablations that also make sense over the paper's formulation, as `<name>-paper`.
OVER_BOTH = ("components", "iterations", "rewards", "observations", "networks", "seeds")
NAMES = (
    "components",
    "iterations",
    "overhead",
    "rewards",
    "observations",
    "networks",
    "generalisation",
    "seeds",
)
ALL_NAMES = (*NAMES, *(f"{name}-{PAPER}" for name in OVER_BOTH))


def methods(ablation: str, rounds: int, entropy: bool, hidden: bool, train_task: str) -> list[str]:
    """The methods that an ablation compares, the one that the others are compared with first.

    rounds of co-adaptation after the first pair; entropy, hidden: whether the traces hold entropies and
    hidden states; train_task: the one task that the policies of `generalisation` are trained on.
    """
    kind = ablation.removesuffix(f"-{PAPER}")
    base = TUNED if kind == ablation else PAPER
    observations = OBSERVATIONS + WITH_ENTROPY * entropy + WITH_HIDDEN * hidden
    variants = {
        "components": ["", *RECOMBINED, "iteration-0"],
        "iterations": [f"iteration-{number}" for number in range(rounds + 1)],
        "overhead": [""],
        "rewards": ["", *(f"reward-{kind}" for kind in KINDS)],
        "observations": ["", *(f"observe-{'-'.join(parts)}" for parts in observations)],
        "networks": ["", *(f"network-{'-'.join(map(str, widths))}" for widths in NETWORKS)],
        "generalisation": ["", f"trained-on-{train_task}"],
        "seeds": ["", *(f"seed-{number}" for number in range(1, SEEDS))],
    }[kind]
    if base == PAPER and kind in SIZE_ALONE:
        # `saving` compares with a pair, which a size policy alone is not.
        own = SIZE_ALONE[kind]
        variants = [own, *(variant for variant in variants if variant not in ("", own, "reward-saving"))]
    names = [PolicyMethod(base, variant).name for variant in variants]
    if ablation == "overhead":
        names.append(PolicyMethod(PAPER).name)
    return [GRID, *names] if ablation == "generalisation" else [*names, GRID]


def methods_of(config: Mapping[str, Any], ablation: str) -> list[str]:
    """`methods` for a configuration."""
    recorded = config["traces"]["entropy"], config["traces"]["features"]
    return methods(ablation, config["rl"]["rounds"], *recorded, lone_task(config))


def trainable_tasks(config: Mapping[str, Any]) -> list[str]:
    """Tasks that have training prompts, those of the experiment that is reused if one is."""
    if config["reuse"]:
        return sorted(file.stem for file in Path(config["reuse"], "prompts/train").glob("*.jsonl"))
    return [task for task in config["prompts"]["tasks"] if task not in config["prompts"]["test_only"]]


def lone_task(config: Mapping[str, Any]) -> str:
    """The one task to train on: the paper's where it has training prompts, otherwise the first that has."""
    tasks = trainable_tasks(config)
    return next((task for task in config["rl"]["paper_tasks"] if task in tasks), tasks[0])


def check(config: Mapping[str, Any]) -> None:
    """Raise InputError when `benchmark.methods` names policies that this configuration cannot train."""
    for name in config["benchmark"]["methods"]:
        if name.partition(":")[0] != TUNED:
            continue
        variant = parse_method(name).variant
        for part, key in (("entropy", "entropy"), ("hidden", "features")):
            if variant.startswith("observe-") and part in variant and not config["traces"][key]:
                raise InputError(f"traces.{key}: false, but the method {name} observes it; set it to true")
        task = variant.removeprefix("trained-on-")
        if task != variant and task not in trainable_tasks(config):
            raise InputError(
                f"benchmark.methods: {name}: {task!r} has no training prompts; "
                f"{', '.join(trainable_tasks(config))} have"
            )
