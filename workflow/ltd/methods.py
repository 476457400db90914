"""Names of the methods that the benchmark decodes with, and of the bound that only replay knows.

A method of policies is `ltd` (the tuned chain), `ltd:paper` (the paper's formulation), `ltd:default` (the
block `rl` as it stands, untuned), or a variant of one of the first two, its base: `ltd:<variant>` or
`ltd:paper-<variant>`. Variants that recombine policies of the base:

    no-depth, no-size               one policy of the pair, in the place of the other the static grid's choice
    constant-depth, constant-size   the same with the constant that serves best beside the one that stays
    iteration-<n>                   the pair after n rounds of co-adaptation

Variants that are a chain of their own, trained with the base's settings but for what their name says:

    reward-<kind>, observe-<part>-<part>..., network-<width>-<width>..., trained-on-<task>, seed-<n>

Over the paper's formulation the first three are what they are in the paper's tables: the first training of
the size policy alone, which decodes at the depth of the published static setting.

Snakemake reads this module for its plan, so it imports nothing heavy.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltd.baselines import METHODS as BASELINES
from ltd.errors import InputError
from ltd.opponents import NAMES as OPPONENTS
from ltd.rl.rewards import KINDS

TUNED, PAPER, DEFAULT = "ltd", "paper", "default"
GRID = "eagle3_grid"
# A drafter without a network: with its best static tree, and with policies that learned from its own trees.
LOOKUP, LOOKUP_LEARNED = "lookup/grid", "lookup/ltd"
LOOKUP_CHAIN = "lookup"
LOOKUP_POLICIES = f"{LOOKUP_CHAIN}/best"  # their folder under policies/
BASELINE, ORACLE = "autoregressive", "oracle"
OTHERS = (BASELINE, "eagle3", GRID, *BASELINES, *OPPONENTS, LOOKUP, LOOKUP_LEARNED)
# The parts of an observation that say the same thing; where a base has none of them, the first is taken.
SYNONYMS = {
    "scores": ("levels", "nodes", "level", "mass"),
    "depth": ("one_hot_depth", "depth"),
    "length": ("length",),
    "entropy": ("entropy",),
    "hidden": ("hidden",),
    "suffix": ("suffix",),
}
RECOMBINED = ("no-depth", "no-size", "constant-depth", "constant-size")
TRAINED = ("reward", "observe", "network", "trained-on", "seed")
# What the paper varies of the size policy alone, by ablation: the variant that is its own choice.
SIZE_ALONE = {
    "rewards": "reward-throughput",
    "observations": "observe-scores-depth-length",
    "networks": "network-1024-256",
}


@dataclass(frozen=True)
class PolicyMethod:
    """A method of policies: its base, and the variant of that, empty for the base itself."""

    base: str
    variant: str = ""

    @property
    def name(self) -> str:
        """The method's name in benchmark and tables."""
        inner = "-".join(part for part in ((self.base != TUNED) * self.base, self.variant) if part)
        return f"{TUNED}:{inner}" if inner else TUNED

    @property
    def is_trained(self) -> bool:
        """Whether the variant is a chain of its own."""
        return any(self.variant.startswith(f"{prefix}-") for prefix in TRAINED)

    @property
    def is_size_alone(self) -> bool:
        """Whether it is a size policy alone, which decodes at one depth."""
        prefixes = tuple(own.partition("-")[0] + "-" for own in SIZE_ALONE.values())
        return self.base == PAPER and self.variant.startswith(prefixes)

    @property
    def chain(self) -> str:
        """The chain's folder under policies/."""
        return f"variants/{self.base}-{self.variant}" if self.is_trained else self.base

    @property
    def folder(self) -> str:
        """The folder of its policies under policies/; variants without one policy take the base's best."""
        if self.is_size_alone:
            return f"{self.chain}/initial/size"
        return f"{self.chain}/{self.variant if self.variant.startswith('iteration-') else 'best'}"


def parse_method(name: str) -> PolicyMethod:
    """Read a method's name; raises InputError when it names no policies."""
    head, _, inner = name.partition(":")
    if name == PolicyMethod(DEFAULT).name:
        return PolicyMethod(DEFAULT)
    base = PAPER if inner == PAPER or inner.startswith(f"{PAPER}-") else TUNED
    variant = inner.removeprefix(PAPER).removeprefix("-") if base == PAPER else inner
    method = PolicyMethod(base, variant)
    recombined = variant in ("", *RECOMBINED) or re.fullmatch(r"iteration-\d+", variant)
    if head != TUNED or method.name != name or not (recombined or method.is_trained):
        raise InputError(
            f"{name!r} names no policies; expected ltd, ltd:paper, ltd:default, "
            f"ltd:<{'|'.join(RECOMBINED)}>, ltd:iteration-<n> or a trained variant "
            f"ltd:<{'|'.join(TRAINED)}>-<value>"
        )
    if method.is_trained:
        overrides(variant, {"size_observation": (), "depth_observation": ()})
    return method


def parse_chain(chain: str) -> PolicyMethod:
    """The method of a variant's chain, `variants/<base>-<variant>`."""
    base, _, variant = chain.removeprefix("variants/").partition("-")
    return PolicyMethod(base, variant)


def overrides(variant: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a trained variant changes in the base's `settings`; raises InputError when it is unknown."""
    prefix = next((p for p in TRAINED if variant.startswith(f"{p}-")), "")
    value = variant.removeprefix(f"{prefix}-")
    if prefix == "reward" and value in KINDS:
        return {"reward": value}
    if prefix == "observe" and set(value.split("-")) <= set(SYNONYMS):
        kinds = ("size_observation", "depth_observation")
        return {kind: observed(value.split("-"), settings[kind]) for kind in kinds}
    if prefix == "network" and re.fullmatch(r"[1-9]\d*(-[1-9]\d*)*", value):
        return {"size_network": [int(width) for width in value.split("-")]}
    if prefix == "trained-on" and value:
        return {"train_tasks": [value]}
    if prefix == "seed" and re.fullmatch(r"[1-9]\d*", value):
        return {}
    raise InputError(
        f"variant {variant!r} is unknown; expected reward-<{'|'.join(KINDS)}>, observe-<parts of "
        f"{', '.join(SYNONYMS)} joined by ->, network-<widths joined by ->, trained-on-<task> "
        "or seed-<1 or more>"
    )


def observed(wanted: list[str], base: tuple[str, ...]) -> list[str]:
    """The parts of an observation, in the way and order the base sees them; what is not varied stays."""
    varied = {part for parts in SYNONYMS.values() for part in parts}
    parts = [part for part in base if part not in varied]
    for name in wanted:
        parts += [part for part in base if part in SYNONYMS[name]] or [SYNONYMS[name][0]]
    return sorted(parts, key=lambda part: base.index(part) if part in base else len(base))


def seed_of(variant: str, seed: int) -> int:
    """The seed of a variant's chain, by that of the pipeline."""
    return seed + int(variant.removeprefix("seed-")) if variant.startswith("seed-") else seed


def needed_folders(names: list[str], policies: str | Path) -> list[str]:
    """The folders of policies that methods decode with, once each."""
    found = [parse_method(name).folder for name in names if name.partition(":")[0] == TUNED]
    found += [LOOKUP_POLICIES] * (LOOKUP_LEARNED in names)
    return list(dict.fromkeys(f"{policies}/{folder}" for folder in found))


def check(methods: Sequence[str]) -> None:
    """Raise InputError unless every method is known and named once, and the first is the baseline."""
    for number, name in enumerate(methods):
        if name in methods[:number]:
            raise InputError(f"benchmark.methods: {name!r} is named twice; name every method once")
        if name.partition(":")[0] == TUNED:
            try:
                parse_method(name)
            except InputError as error:
                raise InputError(f"benchmark.methods: {error}") from error
        elif name not in OTHERS:
            raise InputError(
                f"benchmark.methods: {name!r} is unknown; choose from ltd, ltd:<variant>, {', '.join(OTHERS)}"
            )
    if not methods or methods[0] != BASELINE:
        raise InputError(
            f"benchmark.methods: the first is not {BASELINE!r}, to which every speedup is relative; "
            "put it first"
        )
