"""The baselines by name, and their folders: baseline.json, and a network a variant for the classifiers."""

from pathlib import Path
from typing import Any

from ltd.baselines import FITTED, METHODS, c2t, ddd, disco, gammatune, specdecpp, svip
from ltd.baselines.variants import Baseline, BaselineController, Variant
from ltd.errors import InputError
from ltd.files import atomic_path, read_json, write_json

VERSION = 2
DESCRIPTION = "baseline.json"
BASELINES: dict[str, Baseline] = {
    module.RULE.name: module.RULE for module in (ddd, svip, gammatune, disco, specdecpp, c2t)
}


def save_baseline(
    folder: Path,
    name: str,
    variants: dict[str, Variant],
    tree: tuple[int, int],
    trained_on: dict[str, str],
) -> None:
    """Write a folder, whole or not at all; `tree`: beam and largest depth of the trees it learned from."""
    with atomic_path(folder) as temporary:
        temporary.mkdir(parents=True)
        description: dict[str, Any] = {"version": VERSION, "baseline": name}
        description |= {"tree": tree, "trained_on": trained_on}
        for key, variant in variants.items():
            if variant.network is not None:
                variant.network.save(temporary / f"{key}.safetensors")
            description[key] = {"settings": variant.settings, "validation": variant.validation}
        write_json(temporary / DESCRIPTION, description)


def load_controller(folder: str | Path, method: str) -> BaselineController:
    """Controller of a method `<name>` or `<name>:published` from the folder that holds a folder a baseline.

    Raises InputError when the baseline is not there or its files are damaged.
    """
    name, _, variant = method.partition(":")
    variant = variant or FITTED
    if method not in METHODS:
        raise InputError(f"baseline {method!r} is unknown; choose from {', '.join(METHODS)}")
    path = Path(folder) / name / DESCRIPTION
    if not path.is_file():
        raise InputError(f"{path}: no such file; fit it with python -m ltd.fit_baselines --baseline {name}")
    description = read_json(path)
    if description.get("version") != VERSION or description.get("baseline") != name:
        raise InputError(f"{path}: not {name} of version {VERSION}; fit it again")
    baseline = BASELINES[name]
    network = baseline.load_network(path.with_name(f"{variant}.safetensors"))
    try:
        controller = baseline.controller(Variant(description[variant]["settings"], network), method)
        controller.tree = tuple(description["tree"])
        return controller
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: {variant}.settings: not of {name} ({error}); fit it again") from error
