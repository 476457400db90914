"""Checkpoints of a policy training, finished or interrupted: safetensors and JSON, never pickle."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from stable_baselines3 import PPO
from torch import nn

from ltd.files import atomic_path, discard, read_json, write_json
from ltd.rl.policies import PolicyNetwork
from ltd.rl.rewards import Reward

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


def export_network(layers: list[nn.Linear]) -> PolicyNetwork:
    """Copy linear layers into a plain network."""
    return PolicyNetwork([(x.weight.detach().numpy().copy(), x.bias.detach().numpy().copy()) for x in layers])


@dataclass(frozen=True)
class State:
    """Where the checkpoint of a running training is kept; without a folder nothing is.

    `fingerprint` names what is trained: a checkpoint of something else is not resumed from.
    """

    folder: Path | None = None
    fingerprint: str = ""

    def save(self, segment: int, model: PPO, reward: Reward, best: Training) -> None:
        """Replace the checkpoint by the present state after `segment` finished segments."""
        if self.folder is None:
            return
        adam = model.policy.optimizer.state_dict()["state"]
        tensors = {f"model.{name}": value for name, value in model.policy.state_dict().items()}
        tensors |= {f"adam.{index}.{m}": moments[m] for index, moments in adam.items() for m in MOMENTS}
        contiguous = {name: value.contiguous() for name, value in tensors.items()}
        numbers = {
            "fingerprint": self.fingerprint,
            "segment": segment,
            "timesteps": model.num_timesteps,
            "rate": np.asarray(reward.rate).tolist(),
            "best_steps": best.best_steps,
            "curves": best.curves,
        }
        with atomic_path(self.folder) as temporary:
            temporary.mkdir()
            save_file(contiguous, temporary / "model.safetensors")
            best.actor.save(temporary / "actor.safetensors")
            best.critic.save(temporary / "critic.safetensors")
            write_json(temporary / "state.json", numbers)

    def load(self, model: PPO, reward: Reward) -> tuple[int, Training] | None:
        """Restore model, optimiser and reward in place; return finished segments and the best so far.

        None when there is no checkpoint of this training.
        """
        if self.folder is None or not (self.folder / "state.json").is_file():
            return None
        numbers = read_json(self.folder / "state.json")
        if numbers["fingerprint"] != self.fingerprint:
            return None
        tensors = load_file(self.folder / "model.safetensors")
        weights = {name[6:]: value for name, value in tensors.items() if name.startswith("model.")}
        model.policy.load_state_dict(weights)
        _restore_optimiser(model.policy.optimizer, tensors)
        model.num_timesteps = numbers["timesteps"]
        rate = numbers["rate"]
        reward.rate = np.array(rate) if isinstance(rate, list) else rate
        networks = [PolicyNetwork.load(self.folder / f"{name}.safetensors") for name in ("actor", "critic")]
        return numbers["segment"], Training(*networks, numbers["best_steps"], numbers["curves"])

    def forget(self) -> None:
        """Remove the checkpoint of a finished training."""
        if self.folder is not None:
            discard(self.folder)


def _restore_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Put Adam's moments back; its settings are those of the freshly built model."""
    state = optimiser.state_dict()
    for name, value in tensors.items():
        if name.startswith("adam."):
            _, index, moment = name.split(".")
            state["state"].setdefault(int(index), {})[moment] = value
    optimiser.load_state_dict(state)
