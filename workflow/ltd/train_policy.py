"""Train one policy of a chain by PPO in replay: an initial size or depth policy, or a round of co-adaptation.

Without --previous both are rehearsed first (--rehearsal); without that, too, the policy starts from chance:
the size policy against random depths, the depth policy against a fixed size. With --previous it goes on from
that folder's policy against that folder's other one.
"""

import hashlib
import json
import zlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ltd.errors import InputError
from ltd.files import file_hash, read_json
from ltd.methods import overrides
from ltd.options import StageOptions, option, run_stage
from ltd.rl import KINDS
from ltd.rl.co_adaptation import Pair, Trained, Workshop, train_policy_of
from ltd.rl.policies import VALIDATION
from ltd.rl.policy_folders import SETTINGS, copy_pair, load_pair, save_pair, scalars, validate_pair
from ltd.rl.policy_settings import PolicySettings, with_overrides, with_step_share
from ltd.rl.presets import PRESETS, with_preset
from ltd.rl.training_curves import curves_figure
from ltd.rl.training_state import State
from ltd.rl.workshop_files import open_workshop


@dataclass(frozen=True, kw_only=True)
class TrainPolicyOptions(StageOptions, PolicySettings):
    """Options of one policy training; the settings are those of the chain."""

    policy: str = option(help="which policy to train", choices=KINDS)
    traces: Path = option(help="traces of the training prompts")
    validation_traces: Path = option(help="traces of the validation prompts")
    profile: Path = option(help="latency profile of the machine to train for")
    output: Path = option(help="folder of the trained policy, or of the pair")
    previous: Path | None = option(None, "folder of the previous pair; none for the initial trainings")
    preset: str = option("default", "settings that replace those given", choices=tuple(PRESETS))
    settings: Path | None = option(None, "JSON file of settings that replace those given: tuning/best.json")
    variant: str | None = option(None, "what an ablation varies, over all other settings")
    unvaried: Path | None = option(
        None, "folder of the same training without the variant, taken where the variant changes nothing"
    )
    step_share: float = option(1.0, "share of a training's steps to take; below 1 for a quick look")
    state: Path | None = option(None, "folder of checkpoints for resuming; none keeps nothing")


def chain_settings(options: TrainPolicyOptions) -> TrainPolicyOptions:
    """Apply the preset, then the settings file, then what an ablation varies, then the share of steps.

    Raises InputError for an option that the preset would replace by another value.
    """
    for name, fixed in PRESETS[options.preset].items():
        if (given := getattr(options, name)) not in (getattr(PolicySettings(), name), fixed):
            raise InputError(
                f"{name}: {given} was asked for, but the preset {options.preset!r} fixes {fixed}; leave it "
                "out, or change the preset in rl/presets.py"
            )
    options = with_preset(options, options.preset)
    if options.settings is not None:
        value = read_json(options.settings)
        # That of a tuning study, or settings.json beside trained policies.
        settings = value.get("settings", value) if isinstance(value, dict) else None
        if not isinstance(settings, dict):
            raise InputError(f"{options.settings}: settings: missing; expected an object")
        options = with_overrides(options, settings, str(options.settings))
    if options.variant is not None:
        varied = overrides(options.variant, options.values())
        options = with_overrides(options, varied, f"variant {options.variant}")
    return with_step_share(options, options.step_share)


def train_policy(options: TrainPolicyOptions, run: Any) -> None:
    """Train, validate, and write the folder."""
    settings = chain_settings(options)
    if options.unvaried is not None and is_base(settings, options.unvaried):
        copy_pair(options.unvaried, options.output)
        run.metrics(scalars(read_json(options.output / VALIDATION)))
        run.artifact(options.output)
        print(f"{options.variant} is what {options.unvaried} was trained with: taken from there")
        return
    paths = options.traces, options.validation_traces, options.profile
    workshop = open_workshop(settings, *paths, options.seed)
    previous: Pair = {}
    if options.previous is not None:
        previous = load_pair(options.previous)
        check_previous(previous, workshop, options.previous)
    run.params({f"effective.{name}": value for name, value in settings.values().items()})

    def report(row: dict[str, float]) -> None:
        run.metrics({f"{options.policy}.{key}": value for key, value in row.items()}, int(row["steps"]))

    seed = training_seed(options.seed, options.output.name)
    state = State(options.state, fingerprint(workshop, options))
    trained = train_policy_of(workshop, options.policy, previous, seed=seed, state=state, report=report)
    pair = previous | {options.policy: trained}
    if len(pair) == len(KINDS):
        validation = validate_pair(workshop.validation, pair)
    else:
        kept = trained.training.best_steps
        validation = next(row for row in trained.training.curves if row["steps"] == kept)
    save_pair(options.output, pair, validation, settings)
    run.metrics(scalars(validation))
    run.figure(curves_figure(options.policy, trained.training), f"{options.policy}_training.png")
    run.artifact(options.output)
    state.forget()


def is_base(settings: PolicySettings, folder: Path) -> bool:
    """Whether the policies in `folder` were trained with these settings."""
    source = folder / SETTINGS
    return with_overrides(PolicySettings(), read_json(source), str(source)).values() == settings.values()


def training_seed(seed: int, name: str) -> int:
    """A seed of its own for every training of a chain, by its folder's name."""
    return seed * 100_003 + zlib.crc32(name.encode()) % 100_003


def fingerprint(workshop: Workshop, options: TrainPolicyOptions) -> str:
    """Identify what a checkpoint belongs to: settings, data, machine, and the policies it started from."""
    previous = file_hash(options.previous) if options.previous else None
    content = [workshop.settings.values(), workshop.trained_on, options.policy, options.seed, previous]
    content.append(file_hash(options.validation_traces))  # which checkpoint is best is told by these
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def check_previous(previous: Pair, workshop: Workshop, folder: Path) -> None:
    """Raise InputError unless the previous pair is whole and sees and does what these settings say."""
    for kind in KINDS:
        if kind not in previous:
            raise InputError(f"{folder}: no {kind} policy; a round needs the pair of the one before")
        theirs, ours = previous[kind].policy.spec, workshop.spec(kind)
        names = [field.name for field in fields(ours)]
        differing = [name for name in names if getattr(theirs, name) != getattr(ours, name)]
        differing += other_networks(previous[kind], workshop.settings)
        if differing:
            raise InputError(
                f"{folder}: the {kind} policy was trained with other {', '.join(differing)} than these "
                "settings and traces have; give those of its training, or train it again"
            )


def other_networks(trained: Trained, settings: PolicySettings) -> list[str]:
    """What of a policy's networks and schedule is not as in the settings, by the settings' names."""
    kind, policy, critic = trained.policy.kind, trained.policy, trained.training.critic
    found = {f"{kind}_network": policy.network.hidden, "critic_network": critic.hidden}
    if kind == "depth":
        found |= {"first_decision": policy.first_decision, "interval": policy.interval}
    return [name for name, value in found.items() if value != getattr(settings, name)]


def main(argv: list[str] | None = None) -> None:
    """Run the stage from the command line."""
    run_stage("train_policy", TrainPolicyOptions, train_policy, __doc__, argv)


if __name__ == "__main__":
    main()
