"""Options of a stage: a frozen dataclass whose fields become command-line flags.

The same names are the keys of the stage's block in config.yaml, so a rule passes its block on unchanged and a
person can run any stage by hand: `python -m ltd.train_draft --help`.
"""

import argparse
import dataclasses
import gc
import sys
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ltd.errors import InputError

DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTISATIONS = ("none", "8bit", "4bit")


def option(default: Any = MISSING, help: str = "", choices: Sequence[str] | None = None) -> Any:
    """Declare a field of an options dataclass; without a default the flag is required."""
    metadata = {"help": help, "choices": choices}
    return field(default=default, metadata=metadata) if default is not MISSING else field(metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class StageOptions:
    """Options that every stage has."""

    experiment: Path = option(Path("results/default"), "folder of the experiment; holds the parent run's id")
    seed: int = option(0, "seed of every random choice of the stage")
    threads: int = option(0, "threads of the CPU kernels; 0 takes all cores")


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Option of what computes on a GPU where there is one."""

    device: str = option("auto", "where to compute", choices=("auto", "cpu", "cuda"))


@dataclass(frozen=True, kw_only=True)
class ModelOptions(DeviceOptions):
    """Options of what loads target and head."""

    dtype: str = option(
        "auto",
        "number type of target and head; auto: the file's, on a CPU float32 where it does not multiply that",
        choices=DTYPES,
    )
    quantisation: str = option("none", "precision of the target's weights", choices=QUANTISATIONS)


Parsed = TypeVar("Parsed")
OptionsType = TypeVar("OptionsType", bound=StageOptions)


def parse_options(
    options_type: type[Parsed], description: str | None, argv: Sequence[str] | None = None
) -> Parsed:
    """Build the parser from the dataclass and parse `argv` (the process's arguments when None)."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    hints = typing.get_type_hints(options_type)
    for spec in dataclasses.fields(options_type):
        parser.add_argument(f"--{spec.name.replace('_', '-')}", **_argument(spec, hints[spec.name]))
    values = vars(parser.parse_args(argv))
    for spec in dataclasses.fields(options_type):
        if isinstance(values[spec.name], list):
            values[spec.name] = tuple(values[spec.name])
    return options_type(**values)


def _argument(spec: dataclasses.Field, hint: Any) -> dict[str, Any]:
    """Translate one dataclass field into keyword arguments of `add_argument`."""
    required = spec.default is MISSING
    shown = "" if required else f" (default: {_shown(spec.default)})"
    argument: dict[str, Any] = {"help": spec.metadata.get("help", "").replace("%", "%%") + shown}
    if required:
        argument["required"] = True
    else:
        argument["default"] = spec.default
    kind, several, optional = _kind(hint)
    if kind is bool:
        return argument | {"action": argparse.BooleanOptionalAction}
    if several:
        argument["nargs"] = "*"
    if spec.metadata.get("choices"):
        argument["choices"] = spec.metadata["choices"]
    return argument | {"type": _optional(kind) if optional else kind}


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _kind(hint: Any) -> tuple[type, bool, bool]:
    """Split a type hint into (element type, several values, may be none)."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        kind, several, _ = _kind(next(a for a in arguments if a is not type(None)))
        return kind, several, True
    if typing.get_origin(hint) in (tuple, list):
        return arguments[0], True, False
    return hint, False, False


def _optional(kind: type) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        return None if text == "none" else kind(text)

    parse.__name__ = kind.__name__
    return parse


def command_line(block: dict[str, Any]) -> str:
    """Render a block of config.yaml as the flags of its stage, quoted for a shell."""
    import shlex

    words: list[str] = []
    for key, value in block.items():
        flag = key.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, list | tuple):
            words += [f"--{flag}", *map(str, value)]
        else:
            words += [f"--{flag}", "none" if value is None else str(value)]
    return shlex.join(words)


def run_stage(
    stage: str,
    options_type: type[OptionsType],
    function: Callable[[OptionsType, Any], None],
    description: str | None,
    argv: Sequence[str] | None = None,
) -> None:
    """Parse the options, fix threads and seeds, open the stage's tracking run and do the work.

    An InputError is printed as one line and ends the process with status 2.
    """
    try:
        options = parse_options(options_type, description, argv)
        from ltd import devices, tracking

        # Libraries stay until the end: no collection looks through them again, the last one at exit included.
        gc.freeze()

        devices.set_threads(options.threads)
        _seed(options.seed)
        with tracking.stage_run(stage, options) as run:
            function(options, run)
    except InputError as error:
        print(f"{stage}: {error}", file=sys.stderr)
        sys.exit(2)


def _seed(seed: int) -> None:
    import random

    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)
