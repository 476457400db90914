"""Networks fitted to recorded outcomes, each answered for the prompts that it was not fitted to.

A value that is maximised over fitted values is too good on the prompts of the fit: the maximum picks what the
noise favoured. Fitted once without each fold of the prompts, the networks decide for the fold left out, and
what their decisions bring there is an honest value; the part `suffix` leaves every answer out of its own
means (`ltd.rl.suffix_prior`). One more network, fitted to all prompts, is deployed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ltd.replay.traces import Traces
from ltd.rl.policies import PolicyNetwork
from ltd.rl.rehearsal import network
from ltd.rl.training_state import export_network

Loss = Callable[[Tensor, Tensor], Tensor]
WARM_UP = 20


@dataclass(frozen=True)
class Effort:
    """Gradient steps of a fit, rows in each, and the largest learning rate."""

    steps: int
    minibatch: int
    learning_rate: float


def prompt_folds(traces: Traces, folds: int) -> Tensor:
    """Fold of every position, int64 [N]; all turns of a conversation are in one fold."""
    prompts = {(s["task"], str(s["question_id"])) for s in traces.sequences}
    number = {prompt: place % folds for place, prompt in enumerate(sorted(prompts))}
    fold = np.array([number[s["task"], str(s["question_id"])] for s in traces.sequences])
    return torch.from_numpy(fold[traces.sequence])


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Sum over the outputs, mean over the rows."""
    return ((outputs - targets) ** 2).sum(dim=-1).mean()


class CrossFitted:
    """One network without each fold, and one with all prompts."""

    def __init__(self, inputs: int, hidden: tuple[int, ...], outputs: int, fold: Tensor) -> None:
        """fold: int64 [N] from `prompt_folds`."""
        self.fold, self.outputs = fold, outputs
        self.folds = int(fold.max()) + 1
        self.networks = [network(inputs, hidden, outputs) for _ in range(self.folds + 1)]

    @property
    def deployed(self) -> nn.Sequential:
        """The network that was fitted to all prompts."""
        return self.networks[-1]

    def fit(self, inputs: Tensor, targets: Tensor, weights: Tensor, loss: Loss, effort: Effort) -> None:
        """Go on fitting all networks: inputs [N, M, F], targets [N, M, ...], weights [N, M] of the rows."""
        inputs, targets = inputs.flatten(0, 1), targets.flatten(0, 1)
        for fold, module in enumerate(self.networks):
            learnt = torch.where((self.fold != fold)[:, None], weights, 0.0).flatten()
            _fit(module, inputs, targets, learnt, loss, effort)

    @torch.no_grad()
    def left_out(self, inputs: Tensor) -> Tensor:
        """Outputs [N, M, outputs] of every position by the network that has not seen its prompt."""
        result = torch.empty(*inputs.shape[:-1], self.outputs)
        for fold in range(self.folds):
            positions = torch.nonzero(self.fold == fold)[:, 0]
            result[positions] = self.networks[fold](inputs[positions])
        return result


def _fit(
    module: nn.Module, inputs: Tensor, targets: Tensor, weights: Tensor, loss: Loss, effort: Effort
) -> None:
    """Adam on rows drawn by their weights; the learning rate rises and falls to nearly zero."""
    optimiser = torch.optim.Adam(module.parameters(), lr=effort.learning_rate)
    ends = weights.double().cumsum(0)
    for step in range(effort.steps):
        share = min(1.0, (step + 1) / WARM_UP) * (1.02 - step / effort.steps)
        optimiser.param_groups[0]["lr"] = effort.learning_rate * share
        drawn = torch.rand(effort.minibatch, dtype=torch.float64) * ends[-1]
        rows = torch.searchsorted(ends, drawn, right=True).clamp_max(len(ends) - 1)
        error = loss(module(inputs[rows]), targets[rows])
        optimiser.zero_grad()
        error.backward()
        optimiser.step()


def exported(module: nn.Sequential) -> PolicyNetwork:
    """The plain network that is deployed."""
    return export_network([layer for layer in module if isinstance(layer, nn.Linear)])
