"""Fitting a pair of networks to recorded outcomes: sizes of finished drafts, and where to stop drafting.

In replay the outcome of every action is known at every position, and so is what comes after: the decisions
as they are, followed from any position to the end of the answer, take a known time, but for the rows of the
prefix passes, which are taken as typical. The value of an action is the time that it and everything after it
take less than the present decisions do (`ltd.rl.time_to_go`).

A round fits the sizes first, then going on against stopping now; then the fitted decisions become the present
ones. Everything is cross-fitted over prompts, and the first decisions are the best constant's.
`ltd.opponents.optimal_stopping` and `ltd.opponents.supervised` say what the networks are fitted to.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ltd.opponents.cross_fitting import CrossFitted, Effort, Loss, exported, prompt_folds
from ltd.opponents.decisions import Decisions
from ltd.rl import KINDS
from ltd.rl.co_adaptation import Workshop
from ltd.rl.evaluation import Evaluation, evaluate
from ltd.rl.policies import Policy, PolicyNetwork
from ltd.rl.policy_settings import asked_depths
from ltd.rl.rehearsal import outcomes
from ltd.rl.time_to_go import after, time_to_go

# Weights of what the present decisions do not bring about: positions where no cycle starts, other depths.
OFF_POSITION, OFF_DEPTH = 0.2, 0.1


@dataclass(frozen=True)
class Approach:
    """What networks are fitted to.

    loss: of outputs and targets, both [rows, actions]. differences: targets are what every size adds to the
    next smaller one and what going on adds to stopping, and the outputs are summed up for the decision;
    otherwise targets are the values of all actions, and the largest output is the decision.
    """

    loss: Loss
    differences: bool

    def heads(self, sizes: int) -> dict[str, Tensor]:
        """Matrices [actions, outputs] that turn outputs into values, for both kinds of decision."""
        if self.differences:
            return {"size": torch.ones(sizes, sizes).tril(), "depth": torch.tensor([[0.0], [1.0]])}
        return {"size": torch.eye(sizes), "depth": torch.eye(2)}

    def size_targets(self, values: Tensor) -> Tensor:
        """Targets of the size network: values [..., A] of all sizes; the smallest adds nothing to itself."""
        if self.differences:
            return torch.diff(values, dim=-1, prepend=values[..., :1])
        return values

    def depth_targets(self, advantage: Tensor) -> Tensor:
        """Targets of the depth network: advantage [...] of going on over stopping."""
        if self.differences:
            return advantage[..., None]
        return torch.stack([torch.zeros_like(advantage), advantage], dim=-1)


@dataclass(frozen=True)
class Fitting:
    """How much is fitted: rounds, folds of the prompts, gradient steps.

    The first round takes `effort`; later ones go on from it with half its steps and half its learning rate.
    """

    rounds: int
    folds: int
    effort: Effort

    def of_round(self, number: int) -> Effort:
        """The effort of one round, from 0."""
        first = self.effort
        if number == 0:
            return first
        return Effort(max(1, first.steps // 2), first.minibatch, first.learning_rate / 2)


@dataclass(frozen=True)
class Fitted:
    """The deployed pair; its speedup on the validation traces; throughput of the cross-fitted decisions on
    the training traces, after every round, in tokens an autoregressive step.
    """

    depth: Policy
    size: Policy
    speedup: float
    rates: tuple[float, ...]


def fit_pair(
    workshop: Workshop, approach: Approach, fitting: Fitting, constant: tuple[int, int], seed: int
) -> Fitted:
    """Fit on the training traces; keep the round that does best on the validation traces.

    constant: depth and size that the first decisions are.
    """
    torch.manual_seed(seed)
    problem = StoppingProblem(workshop, approach, fitting.folds, constant)
    tried: list[tuple[float, tuple[Policy, Policy]]] = []
    rates = []
    for number in range(fitting.rounds):
        problem.fit(fitting.of_round(number))
        pair = problem.policies()
        tried.append((evaluate(workshop.validation, *pair).speedup, pair))
        rates.append(problem.evaluation.throughput * workshop.training.step_seconds)
    speedup, pair = max(tried, key=lambda outcome: outcome[0])
    return Fitted(*pair, speedup, tuple(rates))


class StoppingProblem:
    """The values at every position of the training traces, and the networks that are fitted to them.

    N positions, D levels, A sizes, K depth decisions. `decisions` are the present ones, cross-fitted, and
    `evaluation` their replay.
    """

    def __init__(self, workshop: Workshop, approach: Approach, folds: int, constant: tuple[int, int]) -> None:
        self.workshop, self.approach, settings = workshop, approach, workshop.settings
        self.world = workshop.training
        specs = {kind: workshop.spec(kind) for kind in KINDS}
        found = outcomes(self.world, specs, settings, np.arange(len(self.world.traces)))
        self.seen, self.stops = found.observations, found.stops
        self.tokens, self.seconds = found.tokens.numpy().astype(np.int64), found.seconds.numpy()
        # Sizes are chosen where a draft may stop, and nowhere else.
        self.levels = self.stops[self.stops > 0] - 1
        self.asked = asked_depths(settings.first_decision, settings.interval, self.world.max_depth)
        self.heads = approach.heads(len(settings.sizes))
        fold = prompt_folds(self.world.traces, folds)
        self.networks = {
            kind: CrossFitted(spec.width, settings.of(kind, "network"), self.heads[kind].shape[1], fold)
            for kind, spec in specs.items()
        }
        depth, size = constant
        go_on = np.broadcast_to(self.asked < depth, (len(self.tokens), len(self.asked)))
        sizes = np.full((len(self.tokens), self.world.max_depth), settings.sizes.index(size))
        self._decide(torch.from_numpy(go_on.copy()), torch.from_numpy(sizes))

    def _decide(self, go_on: Tensor, sizes: Tensor) -> None:
        """Make decisions the present ones: go_on bool [N, K], index of the size at depths from 1, [N, D]."""
        self.go_on, self.sizes = go_on, sizes
        max_depth = self.world.max_depth
        every = np.ones((len(go_on), max_depth + 1), dtype=bool)
        every[:, self.asked] = go_on.numpy()
        chosen = np.zeros(every.shape, dtype=np.int64)
        chosen[:, 1:] = np.asarray(self.workshop.settings.sizes)[sizes.numpy()]
        self.decisions = Decisions(every, chosen, np.isin(np.arange(max_depth + 1), self.asked))
        self.evaluation: Evaluation = self.decisions.replay(self.world)

    def fit(self, effort: Effort) -> None:
        """One round: the sizes, then going on against stopping; then decide as fitted."""
        values, weights = self.values(), self.weights()
        approach, networks, seen = self.approach, self.networks, self.seen
        targets = approach.size_targets(values[:, 1:])[:, self.levels]
        networks["size"].fit(
            seen["size"][:, self.levels], targets, weights[:, self.stops > 0], approach.loss, effort
        )
        sizes = self._best("size")
        drafted = values[:, 1:].gather(2, sizes[..., None])[..., 0]
        stop_values = torch.cat([values[:, :1, 0], drafted], dim=1)[:, self.stops]
        targets = approach.depth_targets(going_on(stop_values, self.go_on))
        networks["depth"].fit(seen["depth"], targets, weights[:, :-1], approach.loss, effort)
        self._decide(self._best("depth") == 1, sizes)

    def _best(self, kind: str) -> Tensor:
        """Index of the best action by the cross-fitted networks, [N, D or K]."""
        return (self.networks[kind].left_out(self.seen[kind]) @ self.heads[kind].T).argmax(dim=-1)

    def values(self) -> Tensor:
        """Autoregressive steps that every action saves against the present decisions, [N, 1 + D, A]."""
        world = self.world
        stop = first_stop(self.go_on).numpy()
        cells = np.arange(len(stop)), self.stops.numpy()[stop]
        size = self.sizes.numpy()[cells[0], np.maximum(cells[1] - 1, 0)]
        left = time_to_go(self.tokens[*cells, size], self.seconds[*cells, size], world.tokens_left)
        everywhere = np.arange(len(stop))[:, None, None]
        rest = after(left, everywhere, self.tokens, world.tokens_left)
        saved = (left[everywhere] - self.seconds - rest) / world.step_seconds
        return torch.from_numpy(saved.astype(np.float32))

    def weights(self) -> Tensor:
        """How much every stop counts, [N, K + 1]: the present decisions bring some about, others hardly."""
        visited = torch.full((len(self.go_on),), OFF_POSITION)
        visited[torch.from_numpy(self.evaluation.position)] = 1.0
        # One level more than is drafted: that is what going on is weighed by.
        reached = torch.arange(len(self.stops)) <= first_stop(self.go_on)[:, None] + 1
        return visited[:, None] * torch.where(reached, 1.0, OFF_DEPTH)

    def policies(self) -> tuple[Policy, Policy]:
        """The deployed pair, depth and size: the largest output of each network is its decision."""
        return tuple(
            self.workshop.policy(kind, then_linear(exported(self.networks[kind].deployed), self.heads[kind]))
            for kind in ("depth", "size")
        )


def first_stop(go_on: Tensor) -> Tensor:
    """Which stop a draft comes to, [N]; go_on bool [N, K], and stop K is the largest depth."""
    ended = torch.cat([~go_on, torch.ones(len(go_on), 1, dtype=torch.bool)], dim=1)
    return ended.int().argmax(dim=1)


def going_on(stop_values: Tensor, go_on: Tensor) -> Tensor:
    """What going on brings over stopping at every decision, [N, K].

    stop_values [N, K + 1]: values of the stops; go_on bool [N, K]: later decisions.
    """
    following = stop_values[:, -1]
    advantage = torch.empty_like(stop_values[:, :-1])
    for place in range(advantage.shape[1] - 1, -1, -1):
        here = stop_values[:, place]
        advantage[:, place] = following - here
        following = torch.where(go_on[:, place], following, here)
    return advantage


def then_linear(network: PolicyNetwork, matrix: Tensor) -> PolicyNetwork:
    """The network followed by a matrix [new outputs, outputs], as one network."""
    *inner, (weight, bias) = network.layers
    return PolicyNetwork([*inner, (matrix.numpy() @ weight, matrix.numpy() @ bias)])
