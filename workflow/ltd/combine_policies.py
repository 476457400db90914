"""Iteration 0 of a chain: combine the initial size and depth policies and validate the pair in replay."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltd.errors import InputError
from ltd.files import file_hash, read_json
from ltd.options import StageOptions, option, run_stage
from ltd.replay.latency import LatencyProfile
from ltd.replay.traces import Traces, of_tasks
from ltd.rl.co_adaptation import Pair
from ltd.rl.policy_folders import SETTINGS, load_pair, save_pair, scalars, validate_pair
from ltd.rl.policy_settings import PolicySettings, with_overrides
from ltd.rl.workshop_files import world_of


@dataclass(frozen=True, kw_only=True)
class CombinePoliciesOptions(StageOptions):
    """Options of the combination."""

    size: Path = option(help="folder of the initial size policy")
    depth: Path = option(help="folder of the initial depth policy")
    validation_traces: Path = option(help="traces of the validation prompts")
    profile: Path = option(help="latency profile of the machine")
    output: Path = option(help="folder of the pair")


def combine_policies(options: CombinePoliciesOptions, run: Any) -> None:
    """Write the pair and its validation."""
    pair: Pair = {}
    for kind, folder in (("size", options.size), ("depth", options.depth)):
        found = load_pair(folder)
        if kind not in found:
            raise InputError(f"{folder}: no {kind} policy in this folder")
        pair[kind] = found[kind]
    check_alike(options.size, options.depth, pair)
    if pair["size"].policy.trained_on["profile"] != file_hash(options.profile):
        raise InputError(
            f"{options.profile}: not the profile that {options.size} was trained for; give that one, "
            "or train both policies for this one"
        )
    source = options.size / SETTINGS
    settings = with_overrides(PolicySettings(), read_json(source), str(source))
    traces = of_tasks(
        Traces.load(options.validation_traces), settings.train_tasks, str(options.validation_traces)
    )
    machine = LatencyProfile.load(options.profile)
    world = world_of(traces, machine, settings, options.seed, validating=True)
    world = world.charged_for(*(trained.policy for trained in pair.values()))
    validation = validate_pair(world, pair)
    save_pair(options.output, pair, validation, settings)
    run.metrics(scalars(validation))
    run.artifact(options.output)


def check_alike(size: Path, depth: Path, pair: Pair) -> None:
    """Raise InputError unless both policies were trained with the same settings, traces and machine."""
    ours, theirs = (read_json(folder / SETTINGS) for folder in (size, depth))
    differing = [name for name in ours if ours[name] != theirs.get(name)]
    differing += ["traces or profile"] * (pair["size"].policy.trained_on != pair["depth"].policy.trained_on)
    if differing:
        raise InputError(
            f"{depth}: trained with other {', '.join(differing)} than {size}; train one of them again"
        )


def main(argv: list[str] | None = None) -> None:
    """Run the stage from the command line."""
    run_stage("combine_policies", CombinePoliciesOptions, combine_policies, __doc__, argv)


if __name__ == "__main__":
    main()
