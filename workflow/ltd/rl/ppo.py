"""Training of one policy with the PPO of Stable-Baselines3 on a vectorised replay.

A training is cut into segments. Each starts from a seed of its own and ends with a validation and a
checkpoint, so that a killed training goes on from the last one and ends with exactly the policy of an
undisturbed run.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import set_random_seed
from torch import nn
from tqdm import tqdm

from ltd.rl.policies import PolicyNetwork
from ltd.rl.policy_settings import PolicySettings
from ltd.rl.training_state import State, Training, export_network
from ltd.rl.vector_environment import PolicyVecEnv

NO_STATE = State()
Validate = Callable[[PolicyNetwork], dict[str, float]]


def learning_rate(progress: float, settings: PolicySettings) -> float:
    """Linear warm-up, then linear decay to zero; progress runs from 0 to 1."""
    rising = progress / settings.warm_up if settings.warm_up > 0 else 1.0
    return settings.learning_rate * min(rising, (1 - progress) / max(1 - settings.warm_up, 1e-9), 1.0)


def segment_ends(steps: int, settings: PolicySettings) -> list[int]:
    """Steps after which a training is validated: whole rollouts, the last at about `steps`."""
    rollouts = max(1, round(steps / settings.rollout))
    segments = min(settings.validations, rollouts)
    return [settings.rollout * (rollouts * (i + 1) // segments) for i in range(segments)]


def build(
    env: PolicyVecEnv, kind: str, settings: PolicySettings, steps: int, seed: int, previous: Training | None
) -> PPO:
    """Make the PPO model, with the previous actor and critic of this kind where there are any."""
    set_random_seed(seed)
    layers = {"pi": list(settings.of(kind, "network")), "vf": list(settings.critic_network)}
    model = PPO(
        "MlpPolicy",
        env,
        n_steps=settings.rollout // settings.lanes,
        batch_size=settings.minibatch,
        n_epochs=settings.epochs,
        gamma=settings.of(kind, "gamma"),
        gae_lambda=settings.gae_lambda,
        ent_coef=settings.entropy_coefficient,
        clip_range=settings.clip_range,
        learning_rate=settings.learning_rate,
        policy_kwargs={"net_arch": layers, "activation_fn": nn.ReLU},
        device="cpu",
    )
    # By steps taken in all, because what Stable-Baselines3 calls progress is that of one segment. An update
    # comes behind its rollout, whose middle counts: by its end the last update would learn nothing.
    model.lr_schedule = lambda _: learning_rate(
        max(model.num_timesteps - settings.rollout / 2, 0) / steps, settings
    )
    if previous is not None:
        load_network(actor_layers(model), previous.actor)
        load_network(critic_layers(model), previous.critic)
    return model


def actor_layers(model: PPO) -> list[nn.Linear]:
    """The linear layers of the policy, input side first."""
    return [*_linear(model.policy.mlp_extractor.policy_net), model.policy.action_net]


def critic_layers(model: PPO) -> list[nn.Linear]:
    """The linear layers of the value function."""
    return [*_linear(model.policy.mlp_extractor.value_net), model.policy.value_net]


def _linear(network: nn.Module) -> list[nn.Linear]:
    return [layer for layer in network if isinstance(layer, nn.Linear)]


@torch.no_grad()
def load_network(layers: list[nn.Linear], network: PolicyNetwork) -> None:
    """Copy a plain network of the same shape into linear layers."""
    for layer, (weight, bias) in zip(layers, network.layers, strict=True):
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))


class _FollowRate(BaseCallback):
    """After every rollout: tell the reward what throughput was attained, and keep the mean reward."""

    def __init__(self, env: PolicyVecEnv) -> None:
        super().__init__()
        self.env, self.mean_reward = env, 0.0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.env.follow_rate()
        self.mean_reward = float(self.model.rollout_buffer.rewards.mean())


def train(
    env: PolicyVecEnv,
    kind: str,
    settings: PolicySettings,
    validate: Validate,
    *,
    seed: int,
    previous: Training | None = None,
    state: State = NO_STATE,
    report: Callable[[dict[str, float]], Any] = lambda row: None,
) -> Training:
    """Train the policy of one kind and return the checkpoint that did best in validation.

    Args:
        env: the vectorised environment of this kind, counterpart included.
        kind: `depth` or `size`.
        validate: gives the validation's numbers of an actor, `speedup` among them.
        previous: actor and critic to start from; None starts from chance.
        state: where to keep checkpoints for resuming.
        report: called with every row of the curves.
    """
    ends = segment_ends(settings.of(kind, "steps"), settings)
    model = build(env, kind, settings, ends[-1], seed, previous)
    follow = _FollowRate(env)
    best = Training(export_network(actor_layers(model)), export_network(critic_layers(model)))
    first = 0
    if (saved := state.load(model, env.reward)) is not None:
        first, best = saved
    else:
        _record(best, model, validate(best.actor), env, follow, report)
    for segment in tqdm(range(first, len(ends)), desc=f"{kind} policy", unit="checkpoint", leave=False):
        set_random_seed(seed + 1000 * (segment + 1))
        env.reseed(seed + 1000 * (segment + 1))
        model._last_obs = None  # makes the model reset the environment
        model.learn(
            ends[segment] - model.num_timesteps, follow, log_interval=None, reset_num_timesteps=segment == 0
        )
        actor = export_network(actor_layers(model))
        row = _record(best, model, validate(actor), env, follow, report)
        # A start from chance is shown, and never kept: what is kept has been trained.
        kept = [r["speedup"] for r in best.curves[:-1] if r["steps"] or previous is not None]
        if row["speedup"] >= max(kept, default=0.0):
            best.actor, best.critic = actor, export_network(critic_layers(model))
            best.best_steps = model.num_timesteps
        state.save(segment + 1, model, env.reward, best)
    return best


def _record(
    best: Training,
    model: PPO,
    numbers: dict[str, float],
    env: PolicyVecEnv,
    follow: _FollowRate,
    report: Callable[[dict[str, float]], Any],
) -> dict[str, float]:
    """Append a row to the curves."""
    row = {
        "steps": float(model.num_timesteps),
        "reward": follow.mean_reward,
        "rate": float(np.mean(env.reward.rate)),
    } | numbers
    best.curves.append(row)
    report(row)
    return row


def action_statistics(network: PolicyNetwork, observations: np.ndarray) -> dict[str, float]:
    """Entropies in nats of the stochastic policy over observations [B, F] that it meets.

    entropy: mean entropy of the action distribution given the observation; action_entropy: entropy of the
    mean distribution; mutual_information between observation and action is their difference, 0 for a policy
    that ignores what it sees. All are 0 for one that was never asked.
    """
    if not len(observations):
        return dict.fromkeys(("entropy", "action_entropy", "mutual_information"), 0.0)
    logits = network.logits(observations)
    logits = logits - logits.max(axis=1, keepdims=True)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    conditional = float(_entropy(probabilities).mean())
    marginal = float(_entropy(probabilities.mean(axis=0)))
    return {
        "entropy": conditional,
        "action_entropy": marginal,
        "mutual_information": marginal - conditional,
    }


def _entropy(probabilities: np.ndarray) -> np.ndarray:
    return -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(axis=-1)
