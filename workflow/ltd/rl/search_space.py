"""What the tuning study searches: reward and hyper-parameters of both policies, as names and ranges."""

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from optuna import Trial

from ltd.rl.policy_settings import OBSERVED, PLANNED, PolicySettings

OBSERVATIONS: dict[str, tuple[str, ...]] = {
    "compact": OBSERVED,
    "mass": ("mass", *OBSERVED),
    "planned": PLANNED,
}
NETWORKS: dict[str, tuple[int, ...]] = {"32-32": (32, 32), "64-64": (64, 64), "128-64": (128, 64)}

# Categorical: a list of choices. Otherwise (low, high) on a logarithmic scale.
Space = dict[str, list[Any] | tuple[float, float]]
SPACE: Space = {
    "reward": ["saving", "marginal", "throughput"],
    "observation": ["compact", "mass"],
    "network": list(NETWORKS),
    "learning_rate": (2e-4, 4e-3),
    "entropy_coefficient": (3e-4, 3e-2),
    "depth_gamma": [1.0, 0.99, 0.95],
    "epochs": [3, 6, 10],
    # Of a trial: the winner's chain goes through all of `rl.rounds`, and its best iteration is kept.
    "rounds": [1, 2, 3],
}
# Searched beside these where a look at the draft waits for the device: to look less often, or not at all.
INTERVALS = [1, 2, 4]


def space_on(device_type: str) -> Space:
    """What is searched for a machine, by the type of its device."""
    if device_type == "cpu":
        return SPACE
    return SPACE | {"observation": [*SPACE["observation"], "planned"], "interval": INTERVALS}


def suggest(trial: Trial, space: Space) -> dict[str, Any]:
    """Let the sampler choose a value for every name of the space."""
    values: dict[str, Any] = {}
    for name, choices in space.items():
        if isinstance(choices, list):
            values[name] = trial.suggest_categorical(name, choices)
        else:
            values[name] = trial.suggest_float(name, *choices, log=True)
    return values


def as_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Translate values of a space into settings of policy training."""
    # None of these observations shows the machine.
    return as_shape(values) | {"machines": 0}


def as_shape(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same, without what only observations of the machine need."""
    settings = {name: value for name, value in values.items() if name not in ("observation", "network")}
    parts, layers = OBSERVATIONS[values["observation"]], NETWORKS[values["network"]]
    return settings | {
        "size_observation": parts,
        "depth_observation": parts,
        "size_network": layers,
        "depth_network": layers,
    }


def shapes(space: Space) -> list[dict[str, Any]]:
    """Every shape of policies in a space, as settings."""
    names = [name for name in ("observation", "network", "interval") if name in space]
    return [
        as_shape(dict(zip(names, values, strict=True)))
        for values in itertools.product(*(space[name] for name in names))
    ]


def as_values(settings: PolicySettings, space: Space) -> dict[str, Any] | None:
    """Express settings as a point of a space; None when they lie outside of it."""
    values = {name: getattr(settings, name) for name in space if hasattr(settings, name)}
    values["observation"] = _name_of(OBSERVATIONS, settings.depth_observation)
    values["network"] = _name_of(NETWORKS, settings.depth_network)
    inside = all(
        values[name] in choices if isinstance(choices, list) else choices[0] <= values[name] <= choices[1]
        for name, choices in space.items()
    )
    return values if inside and replace(settings, **as_settings(values)) == settings else None


def _name_of(table: Mapping[str, tuple], value: tuple) -> str | None:
    return next((name for name, entry in table.items() if entry == tuple(value)), None)
