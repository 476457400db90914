"""Exact policy gradient over recorded outcomes, before PPO plays: a warm start for actor and critic.

In replay the outcome of every action is known at every position, not only of the one that was sampled. The
expected reward of a cycle under the policy's own action probabilities is then a differentiable function of
the network: climbing it is a policy gradient without sampling noise, and the critic's target is exact. PPO
goes on from there, at the positions that the policies themselves bring about.
"""

from dataclasses import dataclass

import numpy as np
import torch
from stable_baselines3 import PPO
from torch import Tensor, nn

from ltd.choices import DepthChoice, FixedDepth, FixedSize, SizeChoice, draft
from ltd.policy_settings import PolicySettings
from ltd.replay_walk import ReplayWorld, Walk
from ltd.vector_env import DepthVecEnv, ReplayVecEnv, SizeVecEnv

MINIBATCH = 512
PASSES = 3


@dataclass(frozen=True)
class Outcomes:
    """M cycles and what every choice in them brings, tensors float32.

    Size: observations [M, 1, F] after drafting; tokens, seconds [M, A], one column a size.
    Depth: observations [M, K, F] at the K depths where the policy is asked; tokens, seconds [M, K + 1] of
    stopping at each of them, and last of drafting to the largest depth.
    """

    observations: Tensor
    tokens: Tensor
    seconds: Tensor

    def __len__(self) -> int:
        return len(self.tokens)


def rehearse(model: PPO, env: ReplayVecEnv, settings: PolicySettings) -> None:
    """Climb the exact expected reward for `settings.rehearsal` epochs; changes actor and critic in place.

    The reward's rate follows the policy from epoch to epoch.
    """
    outcomes = depth_outcomes(env) if isinstance(env, DepthVecEnv) else size_outcomes(env)
    values = stopping_values if isinstance(env, DepthVecEnv) else choice_values
    actor = nn.Sequential(model.policy.mlp_extractor.policy_net, model.policy.action_net)
    critic = nn.Sequential(model.policy.mlp_extractor.value_net, model.policy.value_net)
    optimiser = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=settings.learning_rate)
    for _ in range(settings.rehearsal):
        env.reward.attain(*expectation(actor, outcomes, values))
        rewards = torch.from_numpy(env.reward(outcomes.tokens.numpy(), outcomes.seconds.numpy()))
        for rows in torch.randperm(len(outcomes)).split(MINIBATCH):
            observations = outcomes.observations[rows]
            probabilities, entropy, state_values, weight = values(actor(observations), rewards[rows])
            gain = (probabilities * rewards[rows]).sum(1) + settings.entropy_coefficient * entropy
            error = (weight * (critic(observations)[..., 0] - state_values) ** 2).sum(1)
            optimiser.zero_grad()
            (0.5 * error - gain).mean().backward()
            optimiser.step()


@torch.no_grad()
def expectation(actor: nn.Module, outcomes: Outcomes, values) -> tuple[float, float]:
    """Expected tokens and seconds of all cycles under the actor's probabilities."""
    probabilities = torch.cat(
        [
            values(actor(outcomes.observations[rows]), outcomes.tokens[rows])[0]
            for rows in torch.arange(len(outcomes)).split(8 * MINIBATCH)
        ]
    )
    return float((probabilities * outcomes.tokens).sum()), float((probabilities * outcomes.seconds).sum())


def choice_values(logits: Tensor, rewards: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One choice among A: logits [M, 1, A], rewards [M, A].

    Returns the probabilities [M, A], their entropy [M], the exact state value and its weight, [M, 1] each.
    """
    log_probabilities = logits[:, 0].log_softmax(dim=-1)
    probabilities = log_probabilities.exp()
    value = (probabilities * rewards).sum(dim=1, keepdim=True).detach()
    return probabilities, -(probabilities * log_probabilities).sum(dim=1), value, torch.ones_like(value)


def stopping_values(logits: Tensor, rewards: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """K decisions to stop (0) or continue (1): logits [M, K, 2], rewards [M, K + 1] of the stops.

    Returns the probability of each stop [M, K + 1], the expected sum of the decisions' entropies [M], exact
    value of every decision's state and the probability of reaching it, [M, K] each.
    """
    log_probabilities = logits.log_softmax(dim=-1)
    nothing = torch.zeros_like(log_probabilities[:, :1, 0])
    log_reach = torch.cat([nothing, log_probabilities[..., 1].cumsum(dim=1)], dim=1)
    probabilities = (torch.cat([log_probabilities[..., 0], nothing], dim=1) + log_reach).exp()
    reach = log_reach[:, :-1].exp()
    entropy = (reach * -(log_probabilities.exp() * log_probabilities).sum(dim=-1)).sum(dim=1)
    # Value of a state: what is still to come from it on, given that it is reached.
    to_come = (probabilities * rewards).flip(1).cumsum(dim=1).flip(1)[:, :-1]
    value = (to_come / reach.clamp_min(1e-6)).detach()
    return probabilities, entropy, value, reach.detach()


def cycle_starts(world: ReplayWorld, depth: DepthChoice, size: SizeChoice) -> tuple[np.ndarray, ...]:
    """Walk all answers a few times, from shifted starts, with two deciders.

    Returns for every cycle its position [M], the depth it was drafted to [M], and the recent values [M, 3].
    """
    found = []
    for shift in range(PASSES):
        long_enough = world.tokens_left[world.starts] > shift
        walk = Walk(world, world.starts[long_enough] + shift)
        lanes = np.arange(len(walk.position))
        while len(lanes):
            start = walk.position[lanes], walk.recent.values[lanes]
            draft(walk, lanes, depth)
            found.append((start[0], walk.depth[lanes], start[1]))
            _, _, ended = walk.finish(lanes, size.sizes(walk, lanes), size.decisions)
            lanes = lanes[~ended]
    return tuple(map(np.concatenate, zip(*found, strict=True)))


def size_outcomes(env: SizeVecEnv) -> Outcomes:
    """Drafts as the environment's depth decider makes them, with every size."""
    world, sizes = env.world, np.asarray(env.world.sizes)
    position, depth, recent = cycle_starts(world, env.depth, FixedSize(int(np.median(sizes)), decisions=1))
    drafted = depth > 0
    position, depth, recent = position[drafted, None], depth[drafted, None], recent[drafted]
    observations = world.observations(env.spec).rows(position[:, 0], depth[:, 0], recent)
    tokens = world.table.tokens(position, depth, sizes)
    seconds = _seconds(world, position, depth, sizes, recent, decisions=depth + (depth < world.max_depth))
    return _tensors(observations[:, None], tokens, seconds)


def depth_outcomes(env: DepthVecEnv) -> Outcomes:
    """Static cycles with a stop at every depth, verified as the environment's size decider does."""
    world = env.world
    asked = np.arange(env.first_decision, world.max_depth, env.interval)
    stops = np.append(asked, world.max_depth)
    position, _, recent = cycle_starts(world, FixedDepth(max(1, world.max_depth // 2)), env.size)
    shape = (len(position), len(stops))
    walk = Walk(world, np.repeat(position, len(stops)))
    walk.depth[:] = np.tile(stops, len(position))
    walk.recent.values[:] = np.repeat(recent, len(stops), axis=0)
    lanes = np.arange(len(walk.position))
    sizes = env.size.sizes(walk, lanes).reshape(shape)
    rows = world.observations(env.spec).rows(walk.position, walk.depth, walk.recent.values)
    decisions = np.append(np.arange(len(asked)) + 1, len(asked))
    position = position[:, None]
    tokens = world.table.tokens(position, stops, sizes)
    seconds = _seconds(world, position, stops, sizes, recent, decisions)
    return _tensors(rows.reshape(*shape, -1)[:, :-1], tokens, seconds)


def _seconds(
    world: ReplayWorld,
    position: np.ndarray,
    depth: np.ndarray,
    sizes: np.ndarray,
    recent: np.ndarray,
    decisions: np.ndarray,
) -> np.ndarray:
    """Seconds of cycles [M, columns], both policies' decisions included."""
    context, rows = world.context_length[position], recent[:, 2:].astype(np.int64)
    return world.latency.cycle_seconds(depth, sizes, context, rows, decisions, depth > 0)


def _tensors(observations: np.ndarray, tokens: np.ndarray, seconds: np.ndarray) -> Outcomes:
    arrays = (observations, tokens, seconds)
    return Outcomes(*(torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)) for array in arrays))
