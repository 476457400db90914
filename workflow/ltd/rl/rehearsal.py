"""A warm start for both policies: policy gradient over all recorded outcomes, before PPO plays.

In replay the outcome of every action is known at every position, not only of the one that was sampled: its
tokens, and its seconds but for the prefix pass, whose rows are the tokens of the cycle before. A typical
number of rows stands for these (`TYPICAL_PREFIX_ROWS`; docs/environments.md says how far that is off). The
expected tokens and seconds of a cycle under both policies' action probabilities are then differentiable
functions of the two networks, and climbing them is a policy gradient without sampling noise. The two policies
learn together, so that neither settles on what suits a poor partner, and the critics' targets have no noise
either; they leave a discount out. PPO goes on from there, at the positions that the policies themselves bring
about.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ltd.rl.choices import PolicyDepth, PolicySize
from ltd.rl.machine import TYPICAL_PREFIX_ROWS
from ltd.rl.observations import ObservationSpec
from ltd.rl.policies import CONTINUE, STOP, Policy, PolicyNetwork
from ltd.rl.policy_settings import PolicySettings, asked_depths, decisions_up_to
from ltd.rl.replay_walk import ReplayWorld
from ltd.rl.rewards import Reward
from ltd.rl.time_to_go import tokens_worth
from ltd.rl.training_state import Training, export_network

MINIBATCH = 256
LEARNING_RATE = 3e-3
# Falls geometrically from the first to the last step: no choice is given up before its outcomes are weighed.
ENTROPY_COEFFICIENTS = (0.2, 0.01)
# Share of its weight that an earlier minibatch keeps in the throughput attained: a mean over some twenty of
# them, over fifty where every machine of a family has but its share of each.
MEMORY, MEMORY_OF_FAMILY = 0.95, 0.98
# The critics, wider than the actors and only there to steady PPO, learn from one position in so many.
CRITICS_STRIDE = 4
# Steps after which what tokens are worth is found anew, by the most probable actions of the networks.
WORTH_EVERY = 200
# What a machine has attained before the first minibatch, in plain steps.
FIRST_STEPS = 20


@dataclass(frozen=True)
class Outcomes:
    """What every choice brings at N positions, float32 tensors; D depths, A sizes, K depth decisions.

    observations: of the size policy [N, D, F] at depths 1 .. D, of the depth policy [N, K, G] where it is
    asked. tokens, seconds [N, 1 + D, A] of a plain step (the same for all sizes) and of depths 1 .. D with
    each size, decisions included. stops [K + 1]: the depths at which a cycle may stop, the largest last.
    positions, machines [N], arrays: the positions, and the machine of each by its place in the family.
    """

    observations: dict[str, Tensor]
    tokens: Tensor
    seconds: Tensor
    stops: Tensor
    positions: np.ndarray
    machines: np.ndarray


def outcomes(
    world: ReplayWorld,
    specs: dict[str, ObservationSpec],
    settings: PolicySettings,
    positions: np.ndarray,
    machines: np.ndarray | None = None,
) -> Outcomes:
    """Look up what can happen at some positions [N] in the replay table and the latency profile.

    machines: [N] places in the world's family; the first everywhere when None.
    """
    machines = np.zeros_like(positions) if machines is None else machines
    positions, machines, sizes = positions[:, None], machines[:, None], np.asarray(settings.sizes)
    depths = np.arange(world.max_depth + 1)
    asked = asked_depths(settings.first_decision, settings.interval, world.max_depth)
    decisions = decisions_up_to(depths, asked)
    cells = positions[..., None], depths[:, None], sizes
    column = world.column(positions, machines)[..., None]
    drafted = (depths > 0)[:, None]
    seconds = world.latency.cycle_seconds(
        cells[1], sizes, column, TYPICAL_PREFIX_ROWS, decisions[:, None], drafted
    )
    return Outcomes(
        {
            "size": _tensor(world.observations(specs["size"]).rows(positions, depths[1:], machines)),
            "depth": _tensor(world.observations(specs["depth"]).rows(positions, asked, machines)),
        },
        _tensor(world.table.tokens(*cells)),
        _tensor(seconds),
        torch.from_numpy(np.append(asked, world.max_depth)),
        positions[:, 0],
        machines[:, 0],
    )


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def rehearse(
    world: ReplayWorld, specs: dict[str, ObservationSpec], settings: PolicySettings, seed: int
) -> dict[str, Training]:
    """Train actors and critics of both policies for `settings.rehearsal` gradient steps.

    The reward's rate, which `marginal` needs, follows the policies from step to step.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    reward = Reward(settings.reward, world.step_seconds)
    actions = {"size": len(settings.sizes), "depth": 2}
    actors = {kind: network(specs[kind].width, settings.of(kind, "network"), actions[kind]) for kind in specs}
    critics = {kind: network(specs[kind].width, settings.critic_network, 1) for kind in specs}
    weights = [p for module in (*actors.values(), *critics.values()) for p in module.parameters()]
    optimiser = torch.optim.Adam(weights, lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.1, settings.rehearsal)
    entropy = np.geomspace(*ENTROPY_COEFFICIENTS, settings.rehearsal)
    family = len(world.family)
    memory, first_steps = (MEMORY, 0) if family == 1 else (MEMORY_OF_FAMILY, FIRST_STEPS)
    tokens, seconds = np.full(family, first_steps), np.full(family, first_steps * world.step_seconds)
    for step, coefficient in enumerate(tqdm(entropy.tolist(), desc="rehearsal", unit="step", leave=False)):
        if reward.kind == "saving" and step and step % WORTH_EVERY == 0:
            reward.worth = tokens_worth(world, *_deciders(world, specs, settings, actors))
        positions = rng.integers(len(world.traces), size=MINIBATCH)
        machines = rng.integers(family, size=MINIBATCH) if family > 1 else None
        batch = outcomes(world, specs, settings, positions, machines)
        loss, brought = rehearsal_loss(actors, critics, batch, reward, coefficient)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        # The throughput that the policies now attain on every machine.
        met = [np.bincount(batch.machines, values, family) for values in brought]
        tokens, seconds = memory * tokens + met[0], memory * seconds + met[1]
        reward.attain(tokens, seconds)
    return {kind: Training(_export(actors[kind]), _export(critics[kind])) for kind in specs}


def _deciders(
    world: ReplayWorld,
    specs: dict[str, ObservationSpec],
    settings: PolicySettings,
    actors: dict[str, nn.Sequential],
) -> tuple[PolicyDepth, PolicySize]:
    """The most probable actions of the actors as they are."""
    networks = {kind: _export(actor) for kind, actor in actors.items()}
    schedule = settings.first_decision, settings.interval
    depth = Policy("depth", networks["depth"], specs["depth"], (STOP, CONTINUE), *schedule)
    size = Policy("size", networks["size"], specs["size"], settings.sizes)
    return PolicyDepth(depth, world), PolicySize(size, world)


def rehearsal_loss(
    actors: dict[str, nn.Module],
    critics: dict[str, nn.Module],
    batch: Outcomes,
    reward: Reward,
    entropy_coefficient: float,
) -> tuple[Tensor, tuple[np.ndarray, np.ndarray]]:
    """Minus the expected reward, with entropy bonus and critics' errors; expected tokens and seconds, [N]."""
    seen, stops = batch.observations, batch.stops
    choices = actors["size"](seen["size"]).log_softmax(dim=-1)
    decisions = actors["depth"](seen["depth"]).log_softmax(dim=-1)
    # A plain step has no size: its outcome stands in every column, so any share will do.
    even = torch.full_like(choices[:, :1], 1 / choices.shape[-1])
    shares = torch.cat([even, choices.exp()], dim=1)[:, stops]
    rewards = torch.from_numpy(
        reward(
            batch.tokens.numpy().astype(np.int64),
            batch.seconds.numpy(),
            batch.machines[:, None, None],
            batch.positions[:, None, None],
        )
    )
    stop_values = (shares * rewards[:, stops]).sum(dim=-1)
    stopping, reach, decision_values = stopping_values(decisions, stop_values)
    drafted = stops > 0
    levels, verified = stops[drafted] - 1, stopping[:, drafted]
    entropy = (reach * _entropy(decisions)).sum(1) + (verified * _entropy(choices)[:, levels]).sum(1)
    gain = (stopping * stop_values).sum(dim=1) + entropy_coefficient * entropy
    some = slice(None, None, CRITICS_STRIDE)
    errors = _critic_error(critics["depth"], seen["depth"][some], decision_values[some], reach[some])
    at_stops = seen["size"][some][:, levels]
    errors += _critic_error(critics["size"], at_stops, stop_values[some][:, drafted], verified[some])
    chances = (stopping[..., None] * shares).detach()
    tokens, seconds = (
        (chances * brought[:, stops]).sum(dim=(1, 2)).numpy() for brought in (batch.tokens, batch.seconds)
    )
    return 0.5 * errors.mean() - gain.mean(), (tokens, seconds)


def stopping_values(decisions: Tensor, rewards: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """K decisions to stop (0) or continue (1): log-probabilities [M, K, 2], rewards [M, K + 1] of the stops.

    Returns the probability of each stop [M, K + 1], and of reaching each decision and the exact value of its
    state, [M, K] each.
    """
    nothing = torch.zeros_like(decisions[:, :1, 0])
    log_reach = torch.cat([nothing, decisions[..., 1].cumsum(dim=1)], dim=1)
    probabilities = (torch.cat([decisions[..., 0], nothing], dim=1) + log_reach).exp()
    reach = log_reach[:, :-1].exp()
    # Value of a state: what is still to come from it on, given that it is reached.
    to_come = (probabilities * rewards).flip(1).cumsum(dim=1).flip(1)[:, :-1]
    return probabilities, reach, to_come / reach.clamp_min(1e-6)


def _entropy(log_probabilities: Tensor) -> Tensor:
    return -(log_probabilities.exp() * log_probabilities).sum(dim=-1)


def _critic_error(critic: nn.Module, observations: Tensor, values: Tensor, weight: Tensor) -> Tensor:
    """Squared error [M], every state weighted by how likely it is reached."""
    return (weight.detach() * (critic(observations)[..., 0] - values.detach()) ** 2).sum(dim=1)


def network(inputs: int, hidden: tuple[int, ...], outputs: int) -> nn.Sequential:
    """A multilayer perceptron with ReLU, as Stable-Baselines3 builds it."""
    widths = [inputs, *hidden]
    layers = [layer for a, b in zip(widths, hidden, strict=False) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))


def _export(module: nn.Sequential) -> PolicyNetwork:
    return export_network([layer for layer in module if isinstance(layer, nn.Linear)])
