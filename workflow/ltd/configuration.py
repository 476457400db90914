"""Checks of config.yaml before any work is done; every complaint is one line that names the key or file."""

import difflib
import itertools
import json
import struct
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from ltd import methods
from ltd.ablations import catalogue as ablations
from ltd.errors import InputError
from ltd.files import read_json
from ltd.hub import check_name

Config = dict[str, Any]


def check(config: Config, schema_path: Path) -> None:
    """Raise InputError on the first wrong key, value or file of a configuration.

    Args:
        config: the merged configuration, as Snakemake holds it.
        schema_path: workflow/schemas/config.schema.yaml, which knows keys, types and ranges.
    """
    check_schema(config, yaml.safe_load(schema_path.read_text(encoding="utf-8")))
    check_values(config)
    check_prompt_files(config)
    template = config["responses"]["chat_template"]
    if template is not None and not Path(template).is_file():
        raise InputError(f"responses.chat_template: {template}: no such file; give one with a Jinja template")
    if config["target"]["path"] is not None:
        check_model_folder("target.path", config["target"]["path"])
        if template is None:
            check_chat_template(config["target"]["path"])
    if config["draft"]["path"] is not None:
        check_model_folder("draft.path", config["draft"]["path"])


def check_schema(config: Config, schema: dict[str, Any]) -> None:
    """Check keys, types and ranges; an unknown key is answered with the nearest known one."""
    errors = sorted(jsonschema.Draft202012Validator(schema).iter_errors(config), key=lambda e: list(e.path))
    if errors:
        raise InputError(_one_line(errors[0]))


def _one_line(error: jsonschema.ValidationError) -> str:
    key = ".".join(map(str, error.absolute_path))
    prefix = f"{key}." if key else ""
    if error.validator == "additionalProperties":
        known = list(error.schema.get("properties", {}))
        unknown = next(name for name in error.instance if name not in known)
        near = difflib.get_close_matches(unknown, known, n=1)
        remedy = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(sorted(known))}"
        return f"{prefix}{unknown}: unknown key; {remedy}"
    if error.validator == "required":
        missing = next(name for name in error.validator_value if name not in error.instance)
        return f"{prefix}{missing}: missing; see config.yaml for its meaning and default"
    wanted = error.schema.get("description") or f"{error.validator} {json.dumps(error.validator_value)}"
    return f"{key}: {json.dumps(error.instance)} is not allowed; expected {wanted}"


def check_values(config: Config) -> None:
    """Check what a schema cannot say: relations between keys."""
    tasks = config["prompts"]["tasks"]
    for key, block in (("train_tasks", "rl"), ("test_tasks", "benchmark")):
        for task in config[block][key]:
            if task not in tasks:
                raise InputError(
                    f"{block}.{key}: {task!r} has no prompts; prompts.tasks are {', '.join(tasks)}"
                )
    check_train_tasks(config)
    methods.check(config["benchmark"]["methods"])
    ablations.check(config)
    sizes, fitted = config["rl"]["sizes"], config["baselines"]
    for block in ("rl", "baselines"):
        listed = config[block]["sizes"]
        if any(a >= b for a, b in itertools.pairwise(listed)):
            raise InputError(f"{block}.sizes: {listed} is not ascending; list each size once, smallest first")
    listed = config["benchmark"]["temperatures"]
    # File names have them in six digits.
    named = [float(f"{value:g}") for value in listed]
    if named[0] != 0 or not all(a < b for a, b in itertools.pairwise(named)):
        raise InputError(
            f"benchmark.temperatures: {listed} does not ascend from 0, where policies are trained and "
            "the grid is chosen; list 0, then each further temperature once, lowest first"
        )
    asked = {method.partition(":")[0] for method in config["benchmark"]["methods"]}
    if "specdecpp" in asked and not config["traces"]["features"]:
        raise InputError(
            "traces.features: false, but the method specdecpp reads hidden states; set it to true"
        )
    if asked & {"svip", "disco"} and not config["traces"]["entropy"]:
        raise InputError("traces.entropy: false, but the methods svip and disco need it; set it to true")
    if config["draft"]["path"] is None and not config["prompts"]["draft"]:
        raise InputError("prompts.draft: 0 leaves the head nothing to learn from; give some, or a draft.path")
    unrolled, deepest = config["draft"]["unroll_steps"], config["tree"]["max_depth"]
    if config["draft"]["path"] is None and unrolled < deepest:
        raise InputError(
            f"draft.unroll_steps: {unrolled} is less than tree.max_depth {deepest}; "
            "the head must be trained for every depth it drafts"
        )
    largest = max(
        sizes[-1],
        fitted["sizes"][-1],
        fitted["published_size"],
        config["grid"]["max_size"],
        config["benchmark"]["default_size"],
    )
    if config["latency"]["sizes"][-1] < largest:
        raise InputError(
            f"latency.sizes: the largest is {config['latency']['sizes'][-1]}, but {largest} is used; "
            "time every size that is chosen"
        )


def check_train_tasks(config: Config) -> None:
    """Check that what is trained or fitted on traces sees tasks that have training prompts."""
    test_only = set(config["prompts"]["test_only"])
    for block in ("rl", "baselines"):
        wanted = config[block].get("train_tasks", [])
        if test_only and test_only.intersection(wanted):
            raise InputError(
                f"{block}.train_tasks: {', '.join(wanted)} must not name any of prompts.test_only"
            )


def check_prompt_files(config: Config) -> None:
    """Check that a folder given as `prompts.path` holds readable questions for every task."""
    folder = config["prompts"]["path"]
    if folder is None:
        return
    from ltd.texts.prompts import (
        read_questions,  # brings transformers along: seconds that most starts can save
    )

    if not Path(folder).is_dir():
        raise InputError(f"prompts.path: {folder} is not a folder; give one with <task>.jsonl files")
    for task in config["prompts"]["tasks"]:
        files = sorted(Path(folder).glob(f"**/{task}.jsonl"))
        if not files:
            there = ", ".join(sorted({file.stem for file in Path(folder).glob("**/*.jsonl")})) or "none"
            raise InputError(
                f"prompts.tasks: no {task}.jsonl under prompts.path {folder}; list those that are there "
                f"({there}), in benchmark.test_tasks too"
            )
        for file in files:
            if not read_questions(file):
                raise InputError(f"{file}: no prompts; write one question a line")


def check_model_folder(key: str, path: str) -> None:
    """Check a local checkpoint folder: configuration present, safetensors files whole.

    A name that is no local path is taken for a hub id and left to the loader.
    """
    folder = Path(path)
    if not folder.is_dir():
        check_name(key, path)
        return
    if not (folder / "config.json").is_file():
        raise InputError(f"{key}: {path} has no config.json; give the folder of a saved model")
    for file in folder.glob("*.safetensors"):
        check_safetensors(file)


def check_safetensors(file: Path) -> None:
    """Raise InputError when a safetensors file is shorter or longer than its own header says."""
    size = file.stat().st_size
    remedy = "the file is truncated or damaged; copy it again"
    with file.open("rb") as stream:
        start = stream.read(8)
        if len(start) < 8 or (length := struct.unpack("<Q", start)[0]) > size - 8:
            raise InputError(f"{file}: {remedy}")
        header = json.loads(stream.read(length))
    end = max(
        (entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0
    )
    if 8 + length + end != size:
        raise InputError(f"{file}: {size} bytes, its header says {8 + length + end}; {remedy}")


def check_chat_template(path: str) -> None:
    """Raise InputError when a local target's tokenizer has no chat template, which every task needs."""
    folder = Path(path)
    if not folder.is_dir():
        return
    settings = folder / "tokenizer_config.json"
    inside = settings.is_file() and "chat_template" in read_json(settings)
    if not inside and not (folder / "chat_template.jinja").is_file():
        raise InputError(
            f"target.path: the tokenizer in {path} has no chat template; give responses.chat_template, or "
            "add a chat_template.jinja"
        )
