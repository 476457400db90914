"""Iterative co-adaptation: one policy is trained while the other stands still, in turn (paper, section 4).

Iteration 0 combines the two first policies: the size policy trained with depths drawn at random, the depth
policy trained with a fixed size, or, after a rehearsal, each beside the other one of the rehearsed pair.
Iterations 1, 2, 3, ... retrain size, depth, size, ...
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from ltd.rl import KINDS, retrained_kind
from ltd.rl.choices import FixedSize, PolicyDepth, PolicySize, RandomDepth
from ltd.rl.evaluation import Evaluation, best_static, evaluate, evaluate_choices
from ltd.rl.machine import PART, machine_numbers
from ltd.rl.observations import ObservationSpec
from ltd.rl.policies import CONTINUE, STOP, Policy, PolicyNetwork
from ltd.rl.policy_settings import PolicySettings, asked_depths
from ltd.rl.ppo import NO_STATE, action_statistics, train
from ltd.rl.rehearsal import rehearse
from ltd.rl.replay_walk import ReplayWorld
from ltd.rl.rewards import Reward
from ltd.rl.time_to_go import tokens_worth
from ltd.rl.training_state import State, Training
from ltd.rl.vector_environment import DepthVecEnv, PolicyVecEnv, SizeVecEnv
from ltd.rl.worlds import observation_in


@dataclass(frozen=True)
class Trained:
    """A policy, the critic that goes on with it, and how its training went."""

    policy: Policy
    training: Training


Pair = dict[str, Trained]


@dataclass(frozen=True)
class Workshop:
    """Where policies are trained and validated: both replays, the settings, the chain's seed."""

    training: ReplayWorld
    validation: ReplayWorld
    settings: PolicySettings
    trained_on: dict[str, str]
    seed: int = 0

    def spec(self, kind: str) -> ObservationSpec:
        """The observation of one kind of policy on these traces."""
        settings = self.settings
        parts = settings.of(kind, "observation")
        return observation_in(self.training, parts, settings.sizes, settings.top)

    def with_settings(self, settings: PolicySettings) -> "Workshop":
        """The same traces and machine for other settings, whose networks are charged as they were timed."""
        workshop = replace(self, settings=settings)
        actions = {"size": len(settings.sizes), "depth": 2}
        seen = {kind: workshop.spec(kind).without_machine.width for kind in KINDS}
        widths = {kind: (seen[kind], *settings.of(kind, "network"), actions[kind]) for kind in KINDS}
        weights = {kind: sum(a * b for a, b in pairwise(widths[kind])) for kind in KINDS}
        blind = all(workshop.spec(kind).blind for kind in KINDS)
        worlds = {
            name: getattr(self, name).with_networks(weights, blind) for name in ("training", "validation")
        }
        return replace(workshop, **worlds)

    def policy(self, kind: str, network: PolicyNetwork) -> Policy:
        """Wrap a network as a policy of these settings."""
        settings = self.settings
        actions = settings.sizes if kind == "size" else (STOP, CONTINUE)
        schedule = (0, 1) if kind == "size" else (settings.first_decision, settings.interval)
        spec, machine = self.spec(kind), ()
        if PART in spec.parts:
            machine = tuple(machine_numbers(self.training.measured, spec.sizes).tolist())
        return Policy(kind, network, spec, actions, *schedule, self.trained_on, machine)

    def fixed_size(self) -> int:
        """The size of the first depth training: as set, otherwise that of the best static setting."""
        return self.settings.fixed_size or best_static(self.training)[1]

    def environment(self, kind: str, previous: Pair, seed: int) -> PolicyVecEnv:
        """The environment in which one policy is trained against its counterpart."""
        world, settings = self.training, self.settings
        reward = Reward(settings.reward, world.step_seconds)
        if len(previous) == len(KINDS):
            reward.attain(*evaluate_pair(world, previous).by_machine())
            if reward.kind == "saving":
                reward.worth = tokens_worth(world, *deciders(world, previous))
        common = {"lanes": settings.lanes, "whole_answers": settings.whole_answers, "seed": seed}
        common |= {"first_decision": settings.first_decision, "interval": settings.interval}
        if kind == "size":
            depth = PolicyDepth(previous["depth"].policy, world) if "depth" in previous else None
            return SizeVecEnv(world, self.spec(kind), reward, depth, **common)
        size = (
            PolicySize(previous["size"].policy, world)
            if "size" in previous
            else FixedSize(self.fixed_size(), decisions=1)
        )
        return DepthVecEnv(world, self.spec(kind), reward, size, **common)

    def evaluate(self, policy: Policy, env: PolicyVecEnv, previous: Pair) -> Evaluation:
        """Validate a policy beside the counterpart of its training."""
        world = self.validation
        if policy.kind == "size":
            if "depth" in previous:
                return evaluate(world, previous["depth"].policy, policy)
            asked = asked_depths(self.settings.first_decision, self.settings.interval, world.max_depth)
            chance = RandomDepth(np.random.default_rng(0), asked)
            return evaluate_choices(world, chance, PolicySize(policy, world))
        size = PolicySize(previous["size"].policy, world) if "size" in previous else env.size
        return evaluate_choices(world, PolicyDepth(policy, world), size)


def train_policy_of(
    workshop: Workshop,
    kind: str,
    previous: Pair,
    *,
    seed: int,
    state: State = NO_STATE,
    report: Callable[[dict[str, float]], Any] = lambda row: None,
) -> Trained:
    """Train one policy of a chain.

    Args:
        previous: the last pair; empty for the first trainings, which know neither partner nor start unless
            the settings ask for a rehearsal, which gives them both.
        seed, state, report: as in `ltd.rl.ppo.train`.
    """
    if not previous and workshop.settings.rehearsal:
        previous = rehearse_pair(workshop)
    env = workshop.environment(kind, previous, seed)

    def validate(network: PolicyNetwork) -> dict[str, float]:
        policy = workshop.policy(kind, network)
        evaluation = workshop.evaluate(policy, env, previous)
        return evaluation.summary() | action_statistics(network, met_observations(evaluation, policy))

    start = previous[kind].training if kind in previous else None
    training = train(
        env, kind, workshop.settings, validate, seed=seed, previous=start, state=state, report=report
    )
    return Trained(workshop.policy(kind, training.actor), training)


def rehearse_pair(workshop: Workshop) -> Pair:
    """The pair that both initial trainings set out from; the same in both, by the chain's own seed."""
    specs = {kind: workshop.spec(kind) for kind in KINDS}
    trainings = rehearse(workshop.training, specs, workshop.settings, workshop.seed)
    return {kind: Trained(workshop.policy(kind, trainings[kind].actor), trainings[kind]) for kind in KINDS}


def met_observations(evaluation: Evaluation, policy: Policy, at_most: int = 2048) -> np.ndarray:
    """Observations [B, width] of evenly chosen ones of the decisions that a policy made in a replay."""
    cycles, depths = _decisions_made(evaluation, policy)
    chosen = np.linspace(0, len(cycles) - 1, min(at_most, len(cycles))).astype(int)
    cycles, table = cycles[chosen], evaluation.world.observations(policy.spec)
    machines = evaluation.answer[cycles] % len(evaluation.world.family)
    return table.rows(evaluation.position[cycles], depths[chosen], machines)


def _decisions_made(evaluation: Evaluation, policy: Policy) -> tuple[np.ndarray, np.ndarray]:
    """Cycle and depth of every decision: about a size in drafted cycles, about the depth up to its end."""
    if policy.kind == "size":
        cycles = np.flatnonzero(evaluation.depth)
        return cycles, evaluation.depth[cycles]
    depths = np.arange(evaluation.world.max_depth)
    depths = depths[policy.asked(depths)]
    cycles, place = np.nonzero(depths <= evaluation.depth[:, None])
    return cycles, depths[place]


def train_chain(
    workshop: Workshop,
    rounds: int,
    *,
    seed: int,
    start: Pair | None = None,
    after_iteration: Callable[[int, Evaluation], Any] = lambda iteration, evaluation: None,
) -> tuple[Pair, list[Evaluation]]:
    """Run a whole chain in this process.

    start is the rehearsed pair where it is known already, empty for a start from chance.
    after_iteration is called with the validation of every pair, iteration 0 included; it may raise to stop.
    Returns the pair that did best in validation, and the validations of all iterations.
    """
    if start is None:
        # Both initial trainings would rehearse the same pair.
        start = rehearse_pair(workshop) if workshop.settings.rehearsal else {}
    pair: Pair = {kind: train_policy_of(workshop, kind, start, seed=seed + i) for i, kind in enumerate(KINDS)}
    pairs, evaluations = [pair], [evaluate_pair(workshop.validation, pair)]
    after_iteration(0, evaluations[0])
    for iteration in range(1, rounds + 1):
        kind = retrained_kind(iteration)
        pair = pair | {kind: train_policy_of(workshop, kind, pair, seed=seed + 1 + iteration)}
        pairs.append(pair)
        evaluations.append(evaluate_pair(workshop.validation, pair))
        after_iteration(iteration, evaluations[-1])
    best = int(np.argmax([evaluation.speedup for evaluation in evaluations]))
    return pairs[best], evaluations


def deciders(world: ReplayWorld, pair: Pair) -> tuple[PolicyDepth, PolicySize]:
    """A pair of policies as it decides in a replay."""
    return PolicyDepth(pair["depth"].policy, world), PolicySize(pair["size"].policy, world)


def evaluate_pair(world: ReplayWorld, pair: Pair) -> Evaluation:
    """Replay a pair of policies."""
    return evaluate(world, pair["depth"].policy, pair["size"].policy)
