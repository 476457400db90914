"""Folders of the fitted opponents, one each: safetensors and JSON, and the controllers that decode."""

from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ltd.engine.controllers import Controller, StaticController, static_or_plain
from ltd.errors import InputError
from ltd.files import read_json, write_json
from ltd.opponents import NAMES
from ltd.opponents.calibration import PLACES, Calibration
from ltd.opponents.marginal_rule import MarginalRule, count_of_regressors
from ltd.opponents.rule_controller import RuleController
from ltd.rl.policies import EDGES, VALUES
from ltd.rl.policy_controller import PolicyController
from ltd.rl.suffix_prior import SuffixPrior

CONSTANT, RULE = "constant.json", "rule.json"
TABLES = "rule.safetensors"
VERSION = 2
NUMBERS = ("beam", "max_depth", "sizes", "first_decision", "interval", "rate", "trained_on")
ARRAYS = ("knots", "chances", "seconds", "forecast", EDGES, VALUES)


def load_opponent(folder: Path, name: str) -> Controller:
    """Return the controller of `folder`/`name`; raises InputError for an unknown, absent or damaged one."""
    if name not in NAMES:
        raise InputError(f"opponent {name!r} is unknown; choose from {', '.join(NAMES)}")
    folder = Path(folder) / name
    if not folder.is_dir():
        raise InputError(f"{folder}: no such opponent; fit it with python -m ltd.fit_opponents")
    if name == "best_constant":
        return load_constant(folder)
    if name == "marginal_rule":
        return RuleController(load_rule(folder), name)
    return PolicyController.load(folder, name)


def save_constant(folder: Path, depth: int, size: int) -> None:
    """Write the one choice into an existing folder."""
    write_json(folder / CONSTANT, {"version": VERSION, "depth": depth, "size": size})


def load_constant(folder: Path) -> StaticController | None:
    """Read what `save_constant` wrote; None for depth 0, plain decoding without a head, as in the grid."""
    value = _described(folder / CONSTANT, ("depth", "size"))
    return static_or_plain(value["depth"], value["size"])


def save_rule(folder: Path, rule: MarginalRule) -> None:
    """Write the rule's numbers and tables into an existing folder."""
    arrays = (
        rule.calibration.knots,
        rule.calibration.chances,
        rule.seconds,
        rule.forecast,
        rule.suffix_prior.edges,
        rule.suffix_prior.values,
    )
    save_file(dict(zip(ARRAYS, arrays, strict=True)), folder / TABLES)
    write_json(folder / RULE, {"version": VERSION} | {name: getattr(rule, name) for name in NUMBERS})


def load_rule(folder: Path) -> MarginalRule:
    """Read what `save_rule` wrote; raises InputError when a file is absent or damaged, or the two do not
    belong together.
    """
    value = _described(folder / RULE, NUMBERS)
    value["sizes"] = tuple(value["sizes"])
    tables = _tables(folder / TABLES)
    depth, beam = value["max_depth"], value["beam"]
    shapes = {
        "chances": (depth, PLACES, *tables["knots"].shape),
        "seconds": (depth + 1, tables["seconds"].shape[1], len(value["sizes"])),
        "forecast": (depth, count_of_regressors(beam, len(value["sizes"]))),
    }
    for name, shape in shapes.items():
        if tables[name].shape != shape:
            raise InputError(
                f"{folder / TABLES}: {name} has shape {tables[name].shape}, {RULE} asks for {shape}; "
                "the two files do not belong together"
            )
    calibration = Calibration(tables["knots"], tables["chances"])
    rest = {"calibration": calibration, "suffix_prior": SuffixPrior(tables[EDGES], tables[VALUES])}
    return MarginalRule(**value, **rest, seconds=tables["seconds"], forecast=tables["forecast"])


def _described(path: Path, names: tuple[str, ...]) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict) or value.pop("version", None) != VERSION or set(value) != set(names):
        raise InputError(f"{path}: not an opponent of version {VERSION}; fit it again")
    return value


def _tables(path: Path) -> dict[str, NDArray]:
    try:
        tables = load_file(path)
    except (FileNotFoundError, SafetensorError) as error:
        raise InputError(f"{path}: not the tables of a rule ({error}); fit it again") from error
    if set(tables) != set(ARRAYS):
        raise InputError(f"{path}: not the tables of a rule, which are {', '.join(ARRAYS)}; fit it again")
    return tables
