"""What an experiment takes from a finished one, its key `reuse`, and whether that one has it.

Models, profile and prompts are taken, and what was fitted, unless answers of another temperature are learned
from; other prompts are test prompts alone.
"""

from pathlib import Path
from typing import Any

from ltd import made_with, methods
from ltd.checkpoint_files import check_safetensors
from ltd.errors import InputError
from ltd.files import read_json

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
    if not learns_anew(config):
        made_with.check_fitted(config, folder)
    elif has_other_prompts(config):
        raise InputError(
            f"traces.temperature: {config['traces']['temperature']:g}, but the policies of {folder} learned "
            f"at {temperature_of(folder):g}, and other prompts are test prompts alone; use the same"
        )
    _check_traces(config, folder)


def temperature_of(finished: Path) -> float:
    """The temperature of the answers that a finished experiment's grid and policies learned from."""
    return read_json(finished / "benchmark/grid.json")["grids"][0]["temperature"]


def learns_anew(config: Config) -> bool:
    """Whether answers of another temperature are learned from than in the experiment that `reuse` names."""
    return (
        config["reuse"] is not None
        and temperature_of(Path(config["reuse"])) != config["traces"]["temperature"]
    )


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
