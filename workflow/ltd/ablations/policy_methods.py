"""From a method's name to the two policies that decode, or a constant in the place of one."""

from collections.abc import Mapping
from pathlib import Path

from ltd.ablations.catalogue import parse_method
from ltd.files import read_json
from ltd.rl.policies import VALIDATION, Policy, load_policy
from ltd.rl.policy_controller import PolicyController


def load_choices(policies: Path, name: str, grid: Mapping[str, int]) -> tuple[Policy | int, Policy | int]:
    """The depth and the size decider of a method of policies.

    Args:
        policies: folder with one folder a chain.
        grid: the best static setting, `depth` and `size`: what stands in for a policy that is left out.

    Raises:
        InputError: the name is none, or its policies are not there.
    """
    method = parse_method(name)
    folder = policies / method.folder
    how, _, replaced = method.variant.partition("-")
    choices: dict[str, Policy | int] = {}
    for kind in ("depth", "size"):
        if replaced != kind:
            choices[kind] = load_policy(folder, kind)
        elif how == "no":
            choices[kind] = grid[kind]
        else:
            choices[kind] = read_json(folder / VALIDATION)[kind]["best_constant"]["action"]
    return choices["depth"], choices["size"]


def load_policy_controller(policies: Path, name: str, grid: Mapping[str, int]) -> PolicyController:
    """The controller that decodes with a method of policies; arguments as of `load_choices`."""
    return PolicyController(*load_choices(policies, name, grid), name=name)
