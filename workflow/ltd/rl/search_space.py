"""What the tuning study searches: reward and hyper-parameters of both policies, as names and ranges."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from optuna import Trial

from ltd.rl.policy_settings import OBSERVED, PolicySettings

OBSERVATIONS: dict[str, tuple[str, ...]] = {
    "compact": OBSERVED,
    "mass": ("mass", *OBSERVED),
}
NETWORKS: dict[str, tuple[int, ...]] = {"32-32": (32, 32), "64-64": (64, 64), "128-64": (128, 64)}

# Categorical: a list of choices. Otherwise (low, high) on a logarithmic scale.
SPACE: dict[str, list[Any] | tuple[float, float]] = {
    "reward": ["saving", "marginal", "throughput"],
    "observation": list(OBSERVATIONS),
    "network": list(NETWORKS),
    "learning_rate": (2e-4, 4e-3),
    "entropy_coefficient": (3e-4, 3e-2),
    "depth_gamma": [1.0, 0.99, 0.95],
    "epochs": [3, 6, 10],
    # Of a trial: the winner's chain goes through all of `rl.rounds`, and its best iteration is kept.
    "rounds": [1, 2, 3],
}


def suggest(trial: Trial) -> dict[str, Any]:
    """Let the sampler choose a value for every name of the space."""
    values: dict[str, Any] = {}
    for name, choices in SPACE.items():
        if isinstance(choices, list):
            values[name] = trial.suggest_categorical(name, choices)
        else:
            values[name] = trial.suggest_float(name, *choices, log=True)
    return values


def as_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Translate values of the space into settings of policy training."""
    settings = {name: value for name, value in values.items() if name not in ("observation", "network")}
    parts, layers = OBSERVATIONS[values["observation"]], NETWORKS[values["network"]]
    return settings | {
        # None of these observations shows the machine.
        "machines": 0,
        "size_observation": parts,
        "depth_observation": parts,
        "size_network": layers,
        "depth_network": layers,
    }


def as_values(settings: PolicySettings) -> dict[str, Any] | None:
    """Express settings as a point of the space; None when they lie outside of it."""
    values = {name: getattr(settings, name) for name in SPACE if hasattr(settings, name)}
    values["observation"] = _name_of(OBSERVATIONS, settings.depth_observation)
    values["network"] = _name_of(NETWORKS, settings.depth_network)
    inside = all(
        values[name] in choices if isinstance(choices, list) else choices[0] <= values[name] <= choices[1]
        for name, choices in SPACE.items()
    )
    return values if inside and replace(settings, **as_settings(values)) == settings else None


def _name_of(table: Mapping[str, tuple], value: tuple) -> str | None:
    return next((name for name, entry in table.items() if entry == tuple(value)), None)
