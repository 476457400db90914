"""What an experiment takes from a finished one, its key `reuse`, and whether that one has it.

Models are taken, with prompts and traces, unless other prompts are named, which are test prompts alone. Of
the profile and what was fitted those parts are taken that the same keys have made; the others are made anew.
"""

from itertools import chain
from pathlib import Path
from typing import Any

from ltd import made_with, methods
from ltd.checkpoint_files import check_safetensors
from ltd.errors import InputError
from ltd.files import read_json
from ltd.reused_parts import PARTS, TEMPERATURE, Part, keys_of_parts

Config = dict[str, Any]


def check(config: Config) -> None:
    """Check the finished experiment that `reuse` names, and that this one fits it."""
    if config["reuse"] is None:
        return
    folder = Path(config["reuse"])
    if folder.resolve() == Path("results", config["experiment"]).resolve():
        raise InputError(f"reuse: {folder} is this experiment's own folder; give it another `experiment`")
    made_with.check_models(config, folder)
    needed = ["draft", "latency/profile.json", "benchmark/grid.json", "prompts/train"]
    needed += ["target"] if config["target"]["path"] is None else []
    missing = [name for name in needed if not (folder / name).exists()]
    if missing:
        raise InputError(f"reuse: {folder} has no {missing[0]}; run that experiment to its end first")
    _check_prompts(config, folder)
    made = read_json(folder / "latency/profile.json")
    for key, value in config["tree"].items():
        if made[key] != value:
            raise InputError(f"tree.{key}: {value}, but {folder} was made with {made[key]}; use the same")
    anew = made_anew(config)
    if has_other_prompts(config):
        _check_anew_beside_other_prompts(config, folder, anew)
    _check_traces(config, folder)


def temperature_of(finished: Path) -> float:
    """The temperature of the answers that a finished experiment's grid and policies learned from."""
    return read_json(finished / "benchmark/grid.json")["grids"][0]["temperature"]


def made_anew(config: Config) -> dict[str, list[str]]:
    """The parts of the experiment named by `reuse` that are made anew, and of each the keys that differ."""
    if config["reuse"] is None:
        return {}
    folder = Path(config["reuse"])
    keys = keys_of_parts(config)
    others = set(made_with.differing(set(chain(*keys.values())) - {TEMPERATURE}, config, folder))
    if temperature_of(folder) != config["traces"]["temperature"]:
        others.add(TEMPERATURE)
    found = {part: [key for key in shaping if key in others] for part, shaping in keys.items()}
    return {part: differing for part, differing in found.items() if differing}


def announcement(config: Config) -> str | None:
    """One line: what is made anew, and because of which keys; None where nothing is."""
    anew = made_anew(config)
    if not anew:
        return None
    keys = dict.fromkeys(chain(*anew.values()))
    return (
        f"reuse: {config['reuse']} was made with other {', '.join(keys)}: made anew here, where needed, "
        f"{'is' if len(anew) == 1 else 'are'} {', '.join(anew)}; all else is taken from there"
    )


def taken(config: Config) -> list[Part]:
    """The parts that are taken as they are."""
    anew = made_anew(config)
    return [part for name, part in PARTS.items() if name not in anew]


def _check_traces(config: Config, folder: Path) -> None:
    """Check that the finished traces in `folder` hold what this experiment takes them to hold."""
    name = f"train-t{config['traces']['temperature']:g}-w{config['tree']['beam']}.safetensors"
    file = folder / "traces" / name
    held = check_safetensors(file) if file.is_file() else {"entropy", "features"}
    for key in ("entropy", "features"):
        if config["traces"][key] and key not in held:
            raise InputError(f"traces.{key}: true, but {file} was recorded without; use the same")


def has_other_prompts(config: Config) -> bool:
    """Whether the prompts of this configuration are new to the finished experiment that `reuse` names."""
    if config["reuse"] is None:
        return False
    named = config["prompts"]["path"] is not None or bool(config["prompts"]["hub"])
    return named and not made_with.has_prompts_of(config, Path(config["reuse"]))


def _check_anew_beside_other_prompts(config: Config, folder: Path, anew: dict[str, list[str]]) -> None:
    """Refuse to make anew what learns from answers to prompts that are not taken."""
    if any(TEMPERATURE in keys for keys in anew.values()):
        raise InputError(
            f"{TEMPERATURE}: {config['traces']['temperature']:g}, but the policies of {folder} learned at "
            f"{temperature_of(folder):g}, and other prompts are test prompts alone; use the same"
        )
    for part in _asked_of_lookup(config):
        if part in anew:
            raise InputError(
                f"{anew[part][0]}: not what {folder} was made with, so {part} would be made anew, from its "
                "own prompts; use the same, or leave lookup/grid and lookup/ltd out of benchmark.methods"
            )


def _asked_of_lookup(config: Config) -> list[str]:
    """The parts that the benchmark's methods need of the second drafter."""
    parts = {methods.LOOKUP: "lookup", methods.LOOKUP_LEARNED: "policies default and lookup"}
    return [part for method, part in parts.items() if method in config["benchmark"]["methods"]]


def _check_prompts(config: Config, folder: Path) -> None:
    """Check what the benchmark needs of the prompts of the finished experiment in `folder`."""
    if not has_other_prompts(config):
        _check_same_prompts(config["benchmark"], folder / "prompts/test")
        return
    learned = f"policies/{methods.LOOKUP_POLICIES}"
    for method, part in ((methods.LOOKUP, "lookup"), (methods.LOOKUP_LEARNED, learned)):
        if method in config["benchmark"]["methods"] and not (folder / part).exists():
            raise InputError(
                f"benchmark.methods: {method} needs {folder / part}, which other prompts cannot make; "
                "name the method in that experiment, and run that again"
            )


def _check_same_prompts(benchmark: Config, folder: Path) -> None:
    """Check that the test prompts in `folder`, <task>.jsonl, suffice for the block `benchmark`."""
    for task in benchmark["test_tasks"]:
        file = folder / f"{task}.jsonl"
        if not file.is_file():
            raise InputError(
                f"benchmark.test_tasks: {task!r}, but there is no {file}; leave it out, or put other prompts "
                "to that experiment with prompts.path"
            )
        found = len(file.read_text(encoding="utf-8").splitlines())
        if found < benchmark["prompts_per_task"]:
            raise InputError(
                f"benchmark.prompts_per_task: {benchmark['prompts_per_task']} asked for, but {file} has "
                f"{found}; lower it to that"
            )
