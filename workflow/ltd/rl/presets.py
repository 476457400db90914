"""Named settings of policy training: the project's default, the paper's, a tenth of it, and any machine's."""

import dataclasses
from typing import Any

from ltd.rl import MACHINE_PART as PART
from ltd.rl.policy_settings import OBSERVED, SettingsType

PAPER: dict[str, Any] = {
    "reward": "throughput",
    "whole_answers": False,
    "machines": 0,
    "first_decision": 1,
    "interval": 1,
    "size_observation": ("nodes", "depth", "length"),
    "depth_observation": ("level", "depth", "length"),
    "size_network": (1024, 256),
    "depth_network": (1024,),
    "critic_network": (1024, 256),
    "size_gamma": 0.9,
    "depth_gamma": 0.999,
    "gae_lambda": 0.95,
    "size_steps": 100_000,
    "depth_steps": 1_000_000,
    "lanes": 32,
    "rollout": 2048,
    "minibatch": 256,
    "epochs": 20,
    "learning_rate": 1e-3,
    "warm_up": 0.01,
    "entropy_coefficient": 0.01,
    "clip_range": 0.2,
    "validations": 20,
    "rehearsal": 0,
}
"""The paper's section 4 and appendix; sizes and tasks come from config: they must suit machine and data. So
do `rounds`, `step_share` and `fixed_size`, the size beside which the first depth policy trains: 60 in the
paper and for its models, in the default, whose trees are smaller, the best one beside a constant depth. The
rollout of 2048 steps is of one live environment in the paper; here it is 64 steps of 32 lanes.
"""

CONDITIONED: dict[str, Any] = {
    "reward": "marginal",
    "machines": 64,
    "whole_answers": False,
    "size_observation": (*OBSERVED, PART),
    "depth_observation": (*OBSERVED, PART),
    "size_network": (64, 64),
    "depth_network": (64, 64),
    "lanes": 256,
    "rollout": 8192,
    "minibatch": 1024,
    "rehearsal": 3200,
}
"""Policies that observe the machine and train on a family of them: one pair for any machine."""

PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "conditioned": CONDITIONED,
    "paper": PAPER,
    "paper-short": PAPER | {"size_steps": 10_000, "depth_steps": 100_000, "validations": 10},
}


def with_preset(settings: SettingsType, preset: str) -> SettingsType:
    """Return the settings with those that a preset fixes put in their place."""
    return dataclasses.replace(settings, **PRESETS[preset])
