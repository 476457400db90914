"""Fitting a pair of networks to recorded outcomes: sizes of finished drafts, and where to stop drafting.

In replay the outcome of every action is known at every position. Values are tokens minus rate times seconds;
the rate is the throughput that the decisions attain, iterated until it stands still (Dinkelbach's method).
A round fits the sizes first, then, backward over the levels, going on against stopping now: what going on
brings is what the stop that the present decisions lead to has realised. All is cross-fitted over prompts.
`ltd.opponents.optimal_stopping` and `ltd.opponents.supervised` say what the networks are fitted to.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ltd.opponents.cross_fitting import CrossFitted, Effort, Loss, exported, prompt_folds
from ltd.opponents.decisions import Decisions, asked_depths
from ltd.rl.co_adaptation import Workshop
from ltd.rl.evaluation import evaluate
from ltd.rl.policies import Policy, PolicyNetwork
from ltd.rl.rehearsal import outcomes
from ltd.rl.rewards import Reward

# The rate stands still when it moves by less than this share.
STILL = 1e-3


@dataclass(frozen=True)
class Approach:
    """What networks are fitted to, and how their outputs become values of the actions.

    loss: of outputs and targets, both [rows, actions]. differences: targets are what every size adds to the
    next smaller one and what going on adds to stopping, and the outputs are summed up for the decision;
    otherwise targets are the values of all actions, and the largest output is the decision. hindsight: before
    there are decisions, drafts are taken to go on to the stop that turned out best; otherwise to the one that
    the sizes' outputs, being values, promise most for.
    """

    loss: Loss
    differences: bool
    hindsight: bool

    def heads(self, sizes: int) -> dict[str, Tensor]:
        """Matrices [actions, outputs] that turn outputs into values, for both kinds of decision."""
        if self.differences:
            return {"size": torch.ones(sizes, sizes).tril(), "depth": torch.tensor([[0.0], [1.0]])}
        return {"size": torch.eye(sizes), "depth": torch.eye(2)}

    def size_targets(self, rewards: Tensor) -> Tensor:
        """Targets of the size network: rewards [..., A] of all sizes."""
        if self.differences:
            return torch.diff(rewards, dim=-1, prepend=torch.zeros_like(rewards[..., :1]))
        return rewards

    def depth_targets(self, advantage: Tensor) -> Tensor:
        """Targets of the depth network: advantage [...] of going on over stopping."""
        if self.differences:
            return advantage[..., None]
        return torch.stack([torch.zeros_like(advantage), advantage], dim=-1)


@dataclass(frozen=True)
class Fitting:
    """How much is fitted: rounds of rate and values, folds of the prompts, gradient steps.

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


def fit_pair(workshop: Workshop, approach: Approach, fitting: Fitting, rate: float, seed: int) -> Fitted:
    """Fit on the training traces; keep the round that does best on the validation traces.

    rate: throughput to begin with, in tokens an autoregressive step, such as that of the best constant.
    """
    torch.manual_seed(seed)
    problem = StoppingProblem(workshop, approach, fitting.folds)
    tried: list[tuple[float, tuple[Policy, Policy]]] = []
    rates = [rate]
    for number in range(fitting.rounds):
        problem.fit(rates[-1], fitting.of_round(number))
        pair = problem.policies()
        tried.append((evaluate(workshop.validation, *pair).speedup, pair))
        rates.append(problem.attained())
        if abs(rates[-1] / rates[-2] - 1) < STILL:
            break
    speedup, pair = max(tried, key=lambda outcome: outcome[0])
    return Fitted(*pair, speedup, tuple(rates[1:]))


class StoppingProblem:
    """The values at every position of the training traces, and the networks that are fitted to them.

    N positions, D levels, A sizes, K depth decisions.
    """

    def __init__(self, workshop: Workshop, approach: Approach, folds: int) -> None:
        self.workshop, self.approach, settings = workshop, approach, workshop.settings
        self.world = workshop.training
        specs = {kind: workshop.spec(kind) for kind in ("size", "depth")}
        self.outcomes = outcomes(self.world, specs, settings, np.arange(len(self.world.traces)))
        self.seen = self.outcomes.observations
        # Sizes are chosen where a draft may stop, and nowhere else.
        self.levels = self.outcomes.stops[self.outcomes.stops > 0] - 1
        self.heads = approach.heads(len(settings.sizes))
        fold = prompt_folds(self.world.traces, folds)
        self.networks = {
            kind: CrossFitted(spec.width, settings.of(kind, "network"), self.heads[kind].shape[1], fold)
            for kind, spec in specs.items()
        }
        self._fitted = False

    def fit(self, rate: float, effort: Effort) -> None:
        """One round at a rate: the sizes, then going on against stopping."""
        reward = Reward("marginal", self.world.step_seconds, rate)
        rewards = torch.from_numpy(reward(self.outcomes.tokens.numpy(), self.outcomes.seconds.numpy()))
        targets = self.approach.size_targets(rewards[:, 1:])[:, self.levels]
        self.networks["size"].fit(self.seen["size"][:, self.levels], targets, self.approach.loss, effort)
        realised, promised = self._stop_values(rewards)
        decided = self.go_on() if self._fitted else None
        targets = self.approach.depth_targets(going_on(realised, promised, decided))
        self.networks["depth"].fit(self.seen["depth"], targets, self.approach.loss, effort)
        self._fitted = True

    def _values(self, kind: str) -> Tensor:
        """Cross-fitted values of the actions, [N, D or K, actions]."""
        return self.networks[kind].left_out(self.seen[kind]) @ self.heads[kind].T

    def go_on(self) -> Tensor:
        """Whether drafting goes on at every decision, bool [N, K]."""
        return self._values("depth").argmax(dim=-1) == 1

    def _stop_values(self, rewards: Tensor) -> tuple[Tensor, Tensor]:
        """Values of the stops [N, K + 1] with the sizes chosen: realised ones, and those to compare by."""
        best = self._values("size").max(dim=-1)
        plain, stops = rewards[:, :1, 0], self.outcomes.stops
        drafted = rewards[:, 1:].gather(2, best.indices[..., None])[..., 0]
        realised = torch.cat([plain, drafted], dim=1)[:, stops]
        if self.approach.hindsight:
            return realised, realised
        return realised, torch.cat([plain, best.values], dim=1)[:, stops]

    def attained(self) -> float:
        """Throughput of the cross-fitted decisions on the training traces, tokens an autoregressive step."""
        settings, max_depth = self.workshop.settings, self.world.max_depth
        asked = asked_depths(settings, max_depth)
        go_on = np.ones((len(self.world.traces), max_depth + 1), dtype=bool)
        go_on[:, asked] = self.go_on().numpy()
        sizes = np.zeros(go_on.shape, dtype=np.int64)
        sizes[:, 1:] = np.asarray(settings.sizes)[self._values("size").argmax(dim=-1).numpy()]
        decisions = Decisions(go_on, sizes, np.isin(np.arange(max_depth + 1), asked))
        return decisions.replay(self.world).throughput * self.world.step_seconds

    def policies(self) -> tuple[Policy, Policy]:
        """The deployed pair, depth and size: the largest output of each network is its decision."""
        return tuple(
            self.workshop.policy(kind, then_linear(exported(self.networks[kind].deployed), self.heads[kind]))
            for kind in ("depth", "size")
        )


def going_on(realised: Tensor, promised: Tensor, decided: Tensor | None) -> Tensor:
    """What going on brings over stopping at every decision, [N, K].

    realised, promised: values of the stops [N, K + 1]; decided: whether drafting goes on at the decisions,
    bool [N, K]; None: where the best later stop promises more.
    """
    following, best = realised[:, -1], promised[:, -1]
    advantage = torch.empty_like(realised[:, :-1])
    for place in range(advantage.shape[1] - 1, -1, -1):
        here = realised[:, place]
        advantage[:, place] = following - here
        go_on = best > promised[:, place] if decided is None else decided[:, place]
        following = torch.where(go_on, following, here)
        best = torch.maximum(best, promised[:, place])
    return advantage


def then_linear(network: PolicyNetwork, matrix: Tensor) -> PolicyNetwork:
    """The network followed by a matrix [new outputs, outputs], as one network."""
    *inner, (weight, bias) = network.layers
    return PolicyNetwork([*inner, (matrix.numpy() @ weight, matrix.numpy() @ bias)])
