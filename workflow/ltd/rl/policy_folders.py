"""Folders of a chain of policies: what a training writes, and what the next one and the report read.

Beside the two deployed networks (see `ltd.rl.policies`) stand `<kind>.critic.safetensors`, from which the
next round goes on, `<kind>.training.json` with the curves, `settings.json`, and `validation.json` with the
outcome in replay.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ltd.files import atomic_path, read_json, write_json
from ltd.rl import KINDS
from ltd.rl.co_adaptation import Pair, Trained, evaluate_pair, met_observations
from ltd.rl.evaluation import Evaluation, best_beside, best_static, evaluate
from ltd.rl.policies import DESCRIPTION, VALIDATION, PolicyNetwork, load_policy, save_policies
from ltd.rl.policy_settings import PolicySettings
from ltd.rl.ppo import action_statistics
from ltd.rl.replay_walk import ReplayWorld
from ltd.rl.training_state import Training

SETTINGS = "settings.json"
CONSTANT_SHARE = 0.99


def save_pair(folder: Path, pair: Pair, validation: dict[str, Any], settings: PolicySettings) -> None:
    """Write one or both policies of a pair as a whole folder."""
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        save_policies(temporary, *(trained.policy for trained in pair.values()))
        for kind, trained in pair.items():
            training = trained.training
            training.critic.save(temporary / f"{kind}.critic.safetensors")
            curves = {"best_steps": training.best_steps, "curves": training.curves}
            write_json(temporary / f"{kind}.training.json", curves)
        write_json(temporary / VALIDATION, validation)
        write_json(temporary / SETTINGS, settings.values())


def copy_pair(source: Path, folder: Path, **others: dict[str, Any]) -> None:
    """Copy what `save_pair` wrote, as a whole folder again, with `others` as JSON files beside it."""
    with atomic_path(folder) as temporary:
        shutil.copytree(source, temporary, ignore=shutil.ignore_patterns(".*"))
        for name, content in others.items():
            write_json(temporary / f"{name}.json", content)


def load_pair(folder: Path) -> Pair:
    """Read what `save_pair` wrote; raises InputError when a file is absent or inconsistent."""
    kinds = [kind for kind in KINDS if kind in read_json(folder / DESCRIPTION)]
    return {kind: _load_trained(folder, kind) for kind in kinds}


def _load_trained(folder: Path, kind: str) -> Trained:
    policy = load_policy(folder, kind)
    critic = PolicyNetwork.load(folder / f"{kind}.critic.safetensors")
    record = read_json(folder / f"{kind}.training.json")
    return Trained(policy, Training(policy.network, critic, record["best_steps"], record["curves"]))


def validate_pair(world: ReplayWorld, pair: Pair) -> dict[str, Any]:
    """Replay a pair on the validation traces `world` and look for collapse.

    Beside the throughput stand, for both policies, histogram of actions, entropies, mutual information, the
    best constant action in its place, and whether the policy is a constant itself.
    """
    evaluation = evaluate_pair(world, pair)
    depths = tuple(range(world.max_depth + 1))
    result: dict[str, Any] = evaluation.summary() | {"tasks": evaluation.task_speedups}
    result |= {"throughput": evaluation.throughput, "static": _static_entry(world)}
    for kind, constants in (("depth", depths), ("size", world.sizes)):
        partner = pair["size" if kind == "depth" else "depth"].policy
        histogram = action_histogram(evaluation, kind, constants)
        action, speedup = best_beside(world, kind, partner, constants)
        policy = pair[kind].policy
        result[kind] = {
            "histogram": histogram,
            "is_constant": max(histogram.values()) >= CONSTANT_SHARE,
            "best_constant": {"action": action, "speedup": speedup},
            **action_statistics(policy.network, met_observations(evaluation, policy)),
        }
    return result


def action_histogram(evaluation: Evaluation, kind: str, actions: tuple[int, ...]) -> dict[str, float]:
    """Share of the cycles with each depth, or of the drafted cycles with each size."""
    chosen = evaluation.depth if kind == "depth" else evaluation.size[evaluation.depth > 0]
    counts = np.array([(chosen == action).sum() for action in actions])
    return {
        str(action): float(count / max(len(chosen), 1)) for action, count in zip(actions, counts, strict=True)
    }


def _static_entry(world: ReplayWorld) -> dict[str, float]:
    """The best static setting among the policies' own actions, on the same traces."""
    depth, size = best_static(world)
    return {"depth": depth, "size": size, "speedup": evaluate(world, depth, size).speedup}


def scalars(validation: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a validation that a tracking run shows."""
    plain = {key: value for key, value in validation.items() if isinstance(value, float)}
    plain |= {f"speedup.{task}": value for task, value in validation.get("tasks", {}).items()}
    for kind in KINDS:
        for key, value in validation.get(kind, {}).items():
            if isinstance(value, float):
                plain[f"{kind}.{key}"] = value
        if kind in validation:
            plain[f"{kind}.best_constant"] = validation[kind]["best_constant"]["speedup"]
    return plain
