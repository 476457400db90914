"""From a method's name to the two policies that decode, or a constant in the place of one."""

from collections.abc import Mapping
from pathlib import Path

from ltd.files import read_json
from ltd.methods import RECOMBINED, parse_method
from ltd.rl.policies import VALIDATION, Policy, load_policy
from ltd.rl.policy_controller import PolicyController

# Of the published static setting.
DEFAULT_DEPTH = 8


def load_choices(
    policies: Path, name: str, grid: Mapping[str, int], default_depth: int = DEFAULT_DEPTH
) -> tuple[Policy | int, Policy | int]:
    """The depth and the size decider of a method of policies.

    Args:
        policies: folder with one folder a chain.
        grid: the best static setting, `depth` and `size`: what stands in for a policy that is left out.
        default_depth: of the methods that are a size policy alone.

    Raises:
        InputError: the name is none, or its policies are not there.
    """
    method = parse_method(name)
    folder = policies / method.folder
    if method.is_size_alone:
        return default_depth, load_policy(folder, "size")
    choices: dict[str, Policy | int] = {kind: load_policy(folder, kind) for kind in ("depth", "size")}
    if method.variant in RECOMBINED:
        how, _, kind = method.variant.partition("-")
        constants = read_json(folder / VALIDATION) if how == "constant" else {}
        choices[kind] = constants[kind]["best_constant"]["action"] if constants else grid[kind]
    return choices["depth"], choices["size"]


def load_policy_controller(
    policies: Path, name: str, grid: Mapping[str, int], default_depth: int = DEFAULT_DEPTH
) -> PolicyController:
    """The controller that decodes with a method of policies; arguments as of `load_choices`."""
    return PolicyController(*load_choices(policies, name, grid, default_depth), name=name)
