"""Checks of the options of stages, made when the configuration is read and again by the stage.

The attributes of `options` are the keys of the stage's block in config.yaml. Every function raises InputError
on the first value that cannot be meant. Snakemake reads this module for its plan, so it imports
nothing heavy.
"""

from collections.abc import Sequence
from typing import Any

from ltd import world
from ltd.baselines import CLASSIFIERS
from ltd.draft_head.head_config import check_tap_layers
from ltd.engine.pool import pool_size
from ltd.errors import InputError
from ltd.rl import MACHINE_PART, OBSERVATION_PARTS, rewards
from ltd.target_training import WIRED_BLOCKS
from ltd.texts.hub_sources import check_hub


def check_prompts(options: Any) -> None:
    """The block `prompts`."""
    if not options.tasks:
        raise InputError("prompts.tasks: empty; name at least one task")
    if options.path is not None and options.hub:
        raise InputError("prompts.hub: prompts.path is given, too; use one of them")
    unknown = [task for task in options.test_only if task not in options.tasks]
    if unknown:
        raise InputError(f"prompts.test_only: {unknown[0]!r} is not one of prompts.tasks")
    if options.hub:
        check_hub(options.hub, options.tasks)
    elif options.path is None:
        _check_built_in(options.tasks, options.test_only)
    for split in ("draft", "train", "validation", "test"):
        if getattr(options, split) < (split != "draft"):
            raise InputError(f"prompts.{split}: {getattr(options, split)} is not allowed; expected 1 or more")
    if options.corpus < 0:
        raise InputError(f"prompts.corpus: {options.corpus} is not allowed; expected 0 or more")


def _check_built_in(tasks: Sequence[str], test_only: Sequence[str]) -> None:
    if test_only:
        raise InputError("prompts.test_only: built-in tasks have prompts of every split; leave it empty")
    unknown = [task for task in tasks if task not in world.TASKS]
    if unknown:
        raise InputError(
            f"prompts.tasks: no built-in task {unknown[0]!r}; there are {', '.join(world.TASKS)}, "
            "others need prompts.path or prompts.hub"
        )


def check_target(options: Any) -> None:
    """The block `target`, of a target that is trained here."""
    if options.hidden_size % 64:
        raise InputError(f"target.hidden_size: {options.hidden_size} is not a multiple of 64")
    if options.layers % options.start_layers:
        raise InputError(
            f"target.layers: {options.layers} is not a multiple of start_layers ({options.start_layers})"
        )
    if options.start_layers < WIRED_BLOCKS:
        raise InputError(f"target.start_layers: {options.start_layers} is too few; needs {WIRED_BLOCKS}")
    if not 0 <= options.grow_step < options.steps:
        raise InputError(f"target.grow_step: {options.grow_step} is not below steps ({options.steps})")
    if options.vocab_size < 512:
        raise InputError(f"target.vocab_size: {options.vocab_size} is too small; bytes and words need 512")


def check_draft(options: Any) -> None:
    """The block `draft`, of a head that is trained here."""
    for name in ("draft_vocab_size", "unroll_steps", "epochs", "batch_rows", "max_length"):
        if getattr(options, name) < 1:
            raise InputError(f"draft.{name}: {getattr(options, name)} is too small; expected at least 1")
    for name in ("matrix_learning_rate", "learning_rate"):
        if not getattr(options, name) > 0:
            raise InputError(f"draft.{name}: {getattr(options, name)} is not above 0")
    if not 0 < options.step_weight <= 1:
        raise InputError(f"draft.step_weight: {options.step_weight} is not above 0 and at most 1")
    if not 0 <= options.warmup < 1:
        raise InputError(f"draft.warmup: {options.warmup} is not a share from 0 to below 1")


def check_draft_of_target(options: Any, vocab_size: int, layers: int) -> None:
    """The block `draft` for a target of so many tokens and layers."""
    if options.draft_vocab_size > vocab_size:
        raise InputError(
            f"draft.draft_vocab_size: {options.draft_vocab_size} is more than the target's {vocab_size} "
            "tokens"
        )
    if options.tap_layers:
        check_tap_layers(options.tap_layers, layers, "draft.tap_layers")


def check_latency(options: Any) -> None:
    """The blocks `latency` and `tree`."""
    for name in ("sizes", "context_lengths"):
        values = list(getattr(options, name))
        if len(values) < 2 or values != sorted(set(values)) or values[0] < 1:
            raise InputError(f"latency.{name}: {values}: expected at least two distinct values, ascending")
    least = {"tree.beam": 1, "tree.max_depth": 2, "latency.repetitions": 1}
    for key, smallest in least.items():
        value = getattr(options, key.partition(".")[2])
        if value < smallest:
            raise InputError(f"{key}: {value} is too small; expected at least {smallest}")
    largest = pool_size(options.beam, options.max_depth)
    if options.sizes[0] != 1 or options.sizes[-1] > largest:
        raise InputError(
            f"latency.sizes: {list(options.sizes)}: expected to run from 1 to at most {largest}, "
            f"the nodes of a tree of beam {options.beam} and depth {options.max_depth}"
        )


def check_shape(settings: Any) -> None:
    """Of the block `rl` what policies see, are and may do."""
    sizes = list(settings.sizes)
    if not sizes or sizes[0] < 1 or sizes != sorted(set(sizes)):
        raise InputError(f"rl.sizes: {sizes}: expected distinct sizes from 1 up, ascending")
    for name in ("size_observation", "depth_observation"):
        _check_observation(f"rl.{name}", list(getattr(settings, name)))
    for name in ("top", "interval"):
        if getattr(settings, name) < 1:
            raise InputError(f"rl.{name}: {getattr(settings, name)}: expected 1 or more")
    if settings.first_decision not in (0, 1):
        raise InputError(f"rl.first_decision: {settings.first_decision}: expected 0 or 1")


def check_policies(settings: Any) -> None:
    """The block `rl`."""
    check_shape(settings)
    sizes = list(settings.sizes)
    positive = ("size_steps", "depth_steps", "lanes", "rollout", "minibatch", "epochs", "validations")
    least = dict.fromkeys(("rounds", "machines", "rehearsal", "fixed_size"), 0) | dict.fromkeys(positive, 1)
    for name, smallest in least.items():
        if getattr(settings, name) < smallest:
            raise InputError(f"rl.{name}: {getattr(settings, name)}: expected {smallest} or more")
    if settings.fixed_size > sizes[-1]:
        raise InputError(
            f"rl.fixed_size: {settings.fixed_size} is more than {sizes[-1]}, the largest of rl.sizes"
        )
    if settings.machines > settings.lanes:
        raise InputError(
            f"rl.machines: {settings.machines} is more than rl.lanes {settings.lanes}; "
            "every machine needs a lane"
        )
    if settings.machines and (blind := _without_machine(settings)):
        raise InputError(
            f"rl.machines: {settings.machines}, but rl.{blind[0]} lacks {MACHINE_PART!r}; add it as the last "
            "part, or set rl.machines to 0"
        )
    if settings.reward == "saving" and settings.machines:
        raise InputError("rl.reward: 'saving' is of one machine; choose 'marginal', or set rl.machines to 0")
    if settings.reward not in rewards.KINDS:
        raise InputError(f"rl.reward: {settings.reward!r} is unknown; choose from {', '.join(rewards.KINDS)}")
    if settings.rehearsal and settings.whole_answers:
        raise InputError("rl.rehearsal: needs rl.whole_answers to be false; set it to 0 otherwise")
    if settings.rollout % settings.lanes or settings.rollout % settings.minibatch:
        raise InputError(
            f"rl.rollout: {settings.rollout}: expected a multiple of rl.lanes ({settings.lanes}) "
            f"and of rl.minibatch ({settings.minibatch})"
        )


def check_machine_part(settings: Any) -> None:
    """Of the block `rl`: what observes the machine must meet more than one.

    Stages do not check it: opponents, which see what the policies do, are fitted on one machine.
    """
    if not settings.machines and len(_without_machine(settings)) < 2:
        raise InputError(
            f"rl.machines: 0, but {MACHINE_PART!r} is part of an observation; set it to 64, say, or leave "
            "that part out"
        )


def _without_machine(settings: Any) -> list[str]:
    """Names of the observations that do not show the machine."""
    names = ("size_observation", "depth_observation")
    return [name for name in names if MACHINE_PART not in getattr(settings, name)]


def _check_observation(key: str, parts: list[str]) -> None:
    for part in parts:
        if part not in OBSERVATION_PARTS:
            raise InputError(f"{key}: {part!r} is unknown; choose from {', '.join(OBSERVATION_PARTS)}")
    if MACHINE_PART in parts[:-1]:
        raise InputError(f"{key}: {MACHINE_PART!r} is expected once, after all other parts")


def check_tune(options: Any) -> None:
    """The block `tune`."""
    for name in ("trials", "startup_trials"):
        if getattr(options, name) < 1:
            raise InputError(f"tune.{name}: {getattr(options, name)}: expected at least 1")
    if not 0 < options.step_share <= 1:
        raise InputError(f"tune.step_share: {options.step_share}: expected a share above 0 and up to 1")


def check_baselines(options: Any) -> None:
    """The block `baselines`."""
    sizes = list(options.sizes)
    if not sizes or sizes[0] < 1 or sizes != sorted(set(sizes)):
        raise InputError(f"baselines.sizes: {sizes} is not ascending from at least 1")
    trained = [f"{baseline}_{name}" for baseline in CLASSIFIERS for name in ("hidden", "epochs")]
    for name in ("published_size", "batch_size", "samples", *trained):
        if getattr(options, name) < 1:
            raise InputError(f"baselines.{name}: {getattr(options, name)} is not at least 1")
    if options.thresholds < 3:
        raise InputError(f"baselines.thresholds: {options.thresholds} is not at least 3")
    if options.learning_rate <= 0:
        raise InputError(f"baselines.learning_rate: {options.learning_rate} is not above 0")


def check_opponents(options: Any) -> None:
    """The block `opponents`."""
    least = {"fit_trials": 1, "fit_rounds": 1, "fit_folds": 2, "fit_steps": 1, "fit_minibatch": 1}
    for name, smallest in least.items():
        if getattr(options, name) < smallest:
            raise InputError(f"opponents.{name}: {getattr(options, name)}: expected {smallest} or more")
    if options.fit_learning_rate <= 0:
        raise InputError(f"opponents.fit_learning_rate: {options.fit_learning_rate}: expected more than 0")
