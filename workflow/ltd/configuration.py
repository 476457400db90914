"""Checks of config.yaml before any work is done; every complaint is one line that names the key or file."""

import difflib
import itertools
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import yaml

from ltd import methods, option_checks, reuse, world
from ltd.ablations import catalogue as ablations
from ltd.checkpoint_files import check_chat_template, check_model_folder
from ltd.errors import InputError
from ltd.rl.presets import PRESETS

# Weights as transformers looks for them, and as the reader of Eagle3 heads does.
HEAD_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
TARGET_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
Config = dict[str, Any]


def check(config: Config, schema_path: Path) -> None:
    """Raise InputError on the first wrong key, value or file of a configuration.

    `responses.chat_template` becomes an absolute path, for those who decode with what was made elsewhere.

    Args:
        config: the merged configuration, as Snakemake holds it.
        schema_path: workflow/schemas/config.schema.yaml, which knows keys, types and ranges.
    """
    check_schema(config, yaml.safe_load(schema_path.read_text(encoding="utf-8")))
    place_template(config["responses"], schema_path.parents[2])
    reuse.check(config)
    check_blocks(config)
    check_values(config)
    check_prompt_files(config)
    check_machines(config, schema_path.parents[2])
    if config["target"]["path"] is not None:
        check_model_folder("target.path", config["target"]["path"], TARGET_WEIGHTS)
        if config["responses"]["chat_template"] is None:
            check_chat_template(config["target"]["path"])
    if config["draft"]["path"] is not None:
        check_model_folder("draft.path", config["draft"]["path"], HEAD_WEIGHTS)


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
    remedy = _remedy_for_text(error.instance)
    return f"{key}: {json.dumps(error.instance)} is not allowed; expected {wanted}{remedy}"


def _remedy_for_text(value: Any) -> str:
    """What to do about a number that came as text: Snakemake reads those inside `--config 'rl={...}'` so."""
    number = isinstance(value, str) and re.fullmatch(r"-?[\d.]+(e-?\d+)?", value)
    return "; inside a mapping --config gives text: write it into a file for --configfile" if number else ""


def check_blocks(config: Config) -> None:
    """Check the blocks one by one, as their stages do."""

    def options(block: str) -> SimpleNamespace:
        return SimpleNamespace(**config[block])

    if not config["reuse"]:
        option_checks.check_prompts(options("prompts"))
    elif reuse.has_other_prompts(config):
        # They are all test prompts.
        option_checks.check_prompts(SimpleNamespace(**config["prompts"] | {"test_only": []}))
    target, draft = options("target"), options("draft")
    if target.path is None:
        option_checks.check_target(target)
    if draft.path is None:
        option_checks.check_draft(draft)
        if target.path is None:
            option_checks.check_draft_of_target(draft, target.vocab_size, target.layers)
    option_checks.check_latency(SimpleNamespace(**config["latency"], **config["tree"]))
    check_chains(config["rl"])
    option_checks.check_baselines(options("baselines"))
    option_checks.check_opponents(options("opponents"))


def check_chains(rl: Config) -> None:
    """Check the block `rl`, alone and under every preset that a chain of policies puts over it."""
    for preset in ("default", rl["paper_preset"], "conditioned"):
        settings = SimpleNamespace(**rl | PRESETS[preset])
        try:
            option_checks.check_policies(settings)
            option_checks.check_machine_part(settings)
        except InputError as error:
            if preset == "default":
                raise
            raise InputError(f"{error} (under the preset {preset!r} of rl/presets.py)") from error


def check_values(config: Config) -> None:
    """Check what a schema cannot say: relations between keys."""
    tasks = config["prompts"]["tasks"]
    for task in config["benchmark"]["test_tasks"]:
        if task not in tasks:
            raise InputError(
                f"benchmark.test_tasks: {task!r} has no prompts; prompts.tasks are {', '.join(tasks)}"
            )
    check_computing(config)
    check_target_training(config)
    check_draft_training(config)
    check_train_tasks(config)
    check_observations(config)
    check_benchmark(config)
    check_ablations(config)
    largest = max(
        config["rl"]["sizes"][-1],
        config["baselines"]["sizes"][-1],
        config["baselines"]["published_size"],
        config["grid"]["max_size"],
        config["benchmark"]["default_size"],
    )
    if config["latency"]["sizes"][-1] < largest:
        raise InputError(
            f"latency.sizes: the largest is {config['latency']['sizes'][-1]}, but {largest} is used; "
            "time every size that is chosen"
        )


def check_computing(config: Config) -> None:
    """Check that the device has the precision that is asked for."""
    if config["quantisation"] != "none" and config["device"] == "cpu":
        raise InputError(
            f"quantisation: {config['quantisation']} needs a GPU, and device is cpu; use none, or another "
            "device"
        )


def check_target_training(config: Config) -> None:
    """Check that a target that is trained here has texts to learn from, and can be asked as configured."""
    if config["reuse"] or config["target"]["path"] is not None:
        return
    responses = config["responses"]
    if responses["system"] and responses["chat_template"] is None:
        raise InputError(
            "responses.system: the target that is trained here knows no system prompts; leave it out, or "
            "give a target.path"
        )
    if not config["prompts"]["corpus"]:
        raise InputError(
            "prompts.corpus: 0 leaves the target nothing to learn from; give some, or a target.path"
        )


def check_draft_training(config: Config) -> None:
    """Check that a head that is trained here has something to learn from, for all that it will draft."""
    if config["reuse"] or config["draft"]["path"] is not None:
        return
    if not config["prompts"]["draft"]:
        raise InputError("prompts.draft: 0 leaves the head nothing to learn from; give some, or a draft.path")
    known, beam = config["draft"]["draft_vocab_size"], config["tree"]["beam"]
    if beam > known:
        raise InputError(
            f"tree.beam: {beam} is more than the {known} tokens of draft.draft_vocab_size; lower it"
        )
    unrolled, deepest = config["draft"]["unroll_steps"], config["tree"]["max_depth"]
    if unrolled < deepest:
        raise InputError(
            f"draft.unroll_steps: {unrolled} is less than tree.max_depth {deepest}; "
            "the head must be trained for every depth it drafts"
        )


def check_benchmark(config: Config) -> None:
    """Check what the benchmark decodes with, and on what, against the rest."""
    benchmark = config["benchmark"]
    methods.check(benchmark["methods"])
    ablations.check(config)
    listed = benchmark["temperatures"]
    # File names have them in six digits.
    named = [float(f"{value:g}") for value in listed]
    if named[0] != 0 or not all(a < b for a, b in itertools.pairwise(named)):
        raise InputError(
            f"benchmark.temperatures: {listed} does not ascend from 0, which the report begins with; "
            "list 0, then each further temperature once, lowest first"
        )
    learned_at = config["traces"]["temperature"]
    if learned_at not in listed:
        raise InputError(
            f"benchmark.temperatures: {listed} lacks {learned_at:g}, the traces.temperature, for which "
            "policies and grid are made; list it, too"
        )
    asked = {method.partition(":")[0] for method in benchmark["methods"]}
    if "specdecpp" in asked and not config["traces"]["features"]:
        raise InputError(
            "traces.features: false, but the method specdecpp reads hidden states; set it to true"
        )
    if asked & {"svip", "disco"} and not config["traces"]["entropy"]:
        raise InputError("traces.entropy: false, but the methods svip and disco need it; set it to true")
    if benchmark["default_depth"] > config["tree"]["max_depth"]:
        raise InputError(
            f"benchmark.default_depth: {benchmark['default_depth']} is more than tree.max_depth "
            f"{config['tree']['max_depth']}; lower it, or raise tree.max_depth"
        )
    wanted, made = benchmark["prompts_per_task"], config["prompts"]["test"]
    if wanted > made:
        raise InputError(
            f"benchmark.prompts_per_task: {wanted} is more than prompts.test {made}; "
            "lower it, or raise prompts.test"
        )


def check_ablations(config: Config) -> None:
    """Check that policies of one task have others to be compared on."""
    tasks = config["benchmark"]["test_tasks"]
    if "generalisation" in config["ablations"]["run"] and len(tasks) < 2:
        raise InputError(
            f"ablations.run: generalisation compares on other tasks, and {tasks[0]} is all of "
            "benchmark.test_tasks; leave it out, or add tasks"
        )


def check_train_tasks(config: Config) -> None:
    """Check that what is trained or fitted on traces sees tasks that have training prompts."""
    if config["reuse"] and not reuse.made_anew(config):
        return
    if not config["reuse"]:
        check_test_only(config)
    trainable = ablations.trainable_tasks(config)
    for task in config["rl"]["train_tasks"]:
        if task not in trainable:
            raise InputError(f"rl.train_tasks: {task!r} has no training prompts; {', '.join(trainable)} have")
    known = [*config["prompts"]["tasks"], *trainable, *world.TASKS]
    for task in config["rl"]["paper_tasks"]:
        if task not in known:
            near = difflib.get_close_matches(task, known, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"name some of {', '.join(trainable)}, or none"
            raise InputError(f"rl.paper_tasks: {task!r} neither has prompts nor is built in; {remedy}")


def check_test_only(config: Config) -> None:
    """Check that `prompts.test_only` leaves something to train on, and nothing of that."""
    test_only = set(config["prompts"]["test_only"])
    if test_only >= set(config["prompts"]["tasks"]):
        raise InputError("prompts.test_only: no task is left to train on; leave one out, or give `reuse`")
    if both := sorted(test_only.intersection(config["rl"]["train_tasks"])):
        raise InputError(
            f"rl.train_tasks: {both[0]!r} is one of prompts.test_only, too; take it out of one of them"
        )


def check_observations(config: Config) -> None:
    """Check that the traces record what the policies observe."""
    looked_up = methods.LOOKUP_LEARNED in config["benchmark"]["methods"]
    for name in ("size_observation", "depth_observation"):
        if looked_up and "hidden" in config["rl"][name]:
            raise InputError(
                f"rl.{name}: 'hidden', but {methods.LOOKUP_LEARNED} among benchmark.methods has no network "
                "with hidden states; leave one of them out"
            )
        for part, key in (("entropy", "entropy"), ("hidden", "features")):
            if part in config["rl"][name] and not config["traces"][key]:
                raise InputError(f"traces.{key}: false, but rl.{name} has {part!r}; set it to true")


def check_prompt_files(config: Config) -> None:
    """Check that the files of `prompts.path` give every split prompts, and the benchmark enough."""
    prompts = config["prompts"]
    copied = config["reuse"] and not reuse.has_other_prompts(config)
    if prompts["path"] is None or copied:
        return
    # Brings transformers along: seconds that most starts can save.
    from ltd.texts.prompts import SPLITS, check_unlearned, file_prompts

    counts = {split: prompts[split] for split in SPLITS if prompts[split]}
    # Beside models and policies of another experiment all prompts are test prompts.
    test_only = prompts["tasks"] if config["reuse"] else prompts["test_only"]
    splits = file_prompts(prompts["path"], prompts["tasks"], counts, test_only)
    if config["reuse"]:
        check_unlearned(splits["test"], Path(config["reuse"], "prompts"), "prompts.path")
    elif config["target"]["path"] is None:
        for task, conversations in splits.get("validation", {}).items():
            if any(len(row.reference) != len(row.turns) for row in conversations):
                raise InputError(
                    f"prompts.path: {task}.jsonl has turns without `reference`, by which a target that is "
                    "trained here is checked; give them, a target.path, or `reuse`"
                )
    found = splits["test"]
    wanted = config["benchmark"]["prompts_per_task"]
    for task in config["benchmark"]["test_tasks"]:
        if len(found[task]) < wanted:
            raise InputError(
                f"benchmark.prompts_per_task: {wanted} asked for, but {task}.jsonl under {prompts['path']} "
                f"gives {len(found[task])} test prompts; lower it to that, or add questions"
            )


def check_machines(config: Config, beside: Path) -> None:
    """Check that the machines of `transfer` are there, named apart, and fit the trees where reported."""
    names = {"measured", *(f"slower-{factor:g}" for factor in config["transfer"]["slower_growth"])}
    for path in config["transfer"]["profiles"]:
        find_profile(path, beside)
        if config["transfer"]["in_report"]:
            check_machine(config, path, beside)
        name = Path(path).stem
        if name in names:
            raise InputError(
                f"transfer.profiles: {path}: another machine is called {name!r}; copy it to a file with a "
                "name of its own"
            )
        names.add(name)


def check_machine(config: Config, path: str, beside: Path) -> None:
    """Check that a profile of `transfer.profiles` is whole, and of all trees that are compared on it."""
    # Brings torch along: seconds that a start without a transfer can save.
    from ltd.replay.latency import LatencyProfile

    try:
        profile = LatencyProfile.load(find_profile(path, beside))
    except InputError as error:
        raise InputError(f"transfer.profiles: {error} (or leave it out)") from error
    tree = config["tree"]
    if profile.beam != tree["beam"] or profile.max_depth < tree["max_depth"]:
        raise InputError(
            f"transfer.profiles: {path} has beam {profile.beam} and depth {profile.max_depth}, tree.beam is "
            f"{tree['beam']} and tree.max_depth {tree['max_depth']}; give a profile of such trees, or none"
        )
    largest = max(config["rl"]["sizes"][-1], config["grid"]["max_size"])
    if profile.max_size < largest:
        raise InputError(
            f"transfer.profiles: {path} times trees of up to {profile.max_size} nodes, but rl.sizes and "
            f"grid.max_size go to {largest}; give a profile of such trees, or none"
        )


def place_template(responses: Config, beside: Path) -> None:
    """Put in its stead where the template of the block `responses` is: from here, or from `beside`."""
    if (path := responses["chat_template"]) is None:
        return
    if (file := find_file(path, beside)) is None:
        raise InputError(
            f"responses.chat_template: {path}: no such file, here or in {beside}; give one with a Jinja "
            "template"
        )
    responses["chat_template"] = str(file.resolve())


def find_file(path: str, beside: Path) -> Path | None:
    """A file that a configuration names: from here, or from the folder `beside`, where the Snakefile is."""
    return next((file for file in (Path(path), beside / path) if file.is_file()), None)


def find_profile(path: str, beside: Path) -> Path:
    """A profile of `transfer.profiles`: from here, or from the folder `beside`, where the Snakefile is.

    Raises InputError when it is in neither.
    """
    if file := find_file(path, beside):
        return file
    raise InputError(
        f"transfer.profiles: {path}: no such file, here or in {beside}; give a copy of the "
        "latency/profile.json of another machine, named after it, or none"
    )
