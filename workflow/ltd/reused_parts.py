"""What a finished experiment has measured and fitted, in parts: where each is, and which keys shape it.

Whoever reuses that experiment takes a part as it is, or makes it anew where one of its keys differs.
Snakemake reads this module for its plan, so it imports nothing heavy.
"""

from dataclasses import dataclass
from typing import Any

from ltd.made_with import keys_of
from ltd.rl.presets import PRESETS

TASKS = "rl.train_tasks"
TEMPERATURE = "traces.temperature"
# Of the block `rl` for the chain `paper` alone.
OF_PAPER = ("rl.paper_preset", "rl.paper_tasks")
# Of the block `rl` what opponents are fitted with: what policies see, are and may do, none of their training.
SHAPE = (
    "train_tasks",
    "sizes",
    "first_decision",
    "interval",
    "size_observation",
    "depth_observation",
    "top",
    "size_network",
    "depth_network",
)


@dataclass(frozen=True)
class Part:
    """Regular expressions of the folders and files of one part, in the folder of an experiment."""

    folders: str = ""
    files: str = ""


PARTS = {
    "profile": Part(files=r"latency/profile\.json"),
    "grid": Part(files=r"benchmark/grid\.json"),
    "baselines": Part(folders=r"baselines/.+"),
    "opponents": Part(folders=r"opponents/.+"),
    "lookup": Part(folders=r"lookup"),
    "policies default and lookup": Part(folders=r"policies/(default|lookup)/.+"),
    "policies paper": Part(folders=r"policies/(paper|paper-full|variants/paper-[^/]+)/.+"),
    "policies conditioned": Part(folders=r"policies/conditioned/.+"),
    "study and policies ltd": Part(
        folders=r"policies/(ltd|variants/ltd-[^/]+)/.+", files=r"tuning/(best\.json|trials\.csv)"
    ),
}


def keys_of_parts(config: dict[str, Any]) -> dict[str, list[str]]:
    """The keys that shape every part, as `block.key`, or `key` where that is in no block."""
    profile = ["device", "threads", *keys_of(config, "latency")]
    # All that is fitted is fitted to traces of one temperature, on the profile.
    fitted = [*profile, TEMPERATURE]
    policies = [key for key in keys_of(config, "rl") if key not in OF_PAPER]
    return {
        "profile": profile,
        "grid": [*fitted, TASKS, *keys_of(config, "grid")],
        "baselines": [*fitted, TASKS, *keys_of(config, "baselines")],
        "opponents": [*fitted, *(f"rl.{key}" for key in SHAPE), *keys_of(config, "opponents")],
        "lookup": [*fitted, TASKS],
        "policies default and lookup": [*fitted, *policies],
        # It has training tasks of its own.
        "policies paper": [
            *fitted,
            *OF_PAPER,
            *_left_open(policies, config["rl"]["paper_preset"], but=TASKS),
        ],
        "policies conditioned": [*fitted, *_left_open(policies, "conditioned")],
        "study and policies ltd": [*fitted, *policies, *keys_of(config, "tune")],
    }


def _left_open(keys: list[str], preset: str, but: str = "") -> list[str]:
    """Those of the block `rl` that a preset does not fix, one left out."""
    return [key for key in keys if key.removeprefix("rl.") not in PRESETS[preset] and key != but]
