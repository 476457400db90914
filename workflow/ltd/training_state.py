"""Checkpoints of a policy training, finished or interrupted: safetensors and JSON, never pickle."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from stable_baselines3 import PPO

from ltd.files import atomic_path, read_json, write_json
from ltd.policies import PolicyNetwork
from ltd.rewards import Reward

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass
class Training:
    """The outcome of a training, or what there is of it so far.

    curves holds one row a validation: steps, speedup and the rest of the validation's numbers, mean reward,
    entropy of the action distribution and the reward's rate.
    """

    actor: PolicyNetwork
    critic: PolicyNetwork
    best_steps: int = 0
    curves: list[dict[str, float]] = field(default_factory=list)


def save_state(folder: Path, segment: int, model: PPO, reward: Reward, best: Training) -> None:
    """Replace the checkpoint in `folder` by the present state after `segment` finished segments."""
    optimiser = model.policy.optimizer.state_dict()["state"]
    tensors = {f"model.{name}": value for name, value in model.policy.state_dict().items()}
    tensors |= {f"adam.{i}.{m}": state[m] for i, state in optimiser.items() for m in MOMENTS}
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        save_file(
            {name: value.contiguous() for name, value in tensors.items()}, temporary / "model.safetensors"
        )
        best.actor.save(temporary / "actor.safetensors")
        best.critic.save(temporary / "critic.safetensors")
        numbers = {"segment": segment, "timesteps": model.num_timesteps, "reward": asdict(reward)}
        write_json(temporary / "state.json", numbers | {"best_steps": best.best_steps, "curves": best.curves})


def load_state(folder: Path, model: PPO, reward: Reward) -> tuple[int, Training] | None:
    """Restore model, optimiser and reward in place; return finished segments and the best so far, or None."""
    if not (folder / "state.json").is_file():
        return None
    numbers = read_json(folder / "state.json")
    tensors = load_file(folder / "model.safetensors")
    model.policy.load_state_dict(
        {name[6:]: value for name, value in tensors.items() if name.startswith("model.")}
    )
    _restore_optimiser(model.policy.optimizer, tensors)
    model.num_timesteps = numbers["timesteps"]
    reward.rate = numbers["reward"]["rate"]
    networks = [PolicyNetwork.load(folder / f"{name}.safetensors") for name in ("actor", "critic")]
    return numbers["segment"], Training(*networks, numbers["best_steps"], numbers["curves"])


def _restore_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Put Adam's moments back; its settings are those of the freshly built model."""
    state = optimiser.state_dict()
    for name, value in tensors.items():
        if name.startswith("adam."):
            _, index, moment = name.split(".")
            state["state"].setdefault(int(index), {})[moment] = value
    optimiser.load_state_dict(state)
