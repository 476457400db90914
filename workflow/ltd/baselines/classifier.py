"""Training of the small classifiers: accepted or not, from what drafting leaves behind.

As in the paper's section 5.1: binary cross-entropy, AdamW, as many accepted as rejected samples. The samples
come from the recorded trees of all positions where a cycle may start, not only of those that one static
setting happened to visit.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from ltd.baselines.variants import TrainingSettings
from ltd.errors import InputError
from ltd.replay.traces import NO_RANK, Traces
from ltd.rl.policies import PolicyNetwork

# Brings depths, as inputs, to the order of one.
DEPTH_UNIT = 10


def reached(traces: Traces, size: int) -> np.ndarray:
    """Whether the target's continuation reaches level d inside the `size` best nodes of a tree of depth d.

    bool [N, D], level 1 first.
    """
    diagonal = np.diagonal(traces.ranks, axis1=1, axis2=2)
    return (diagonal < size) & (diagonal != NO_RANK)


def known(traces: Traces) -> np.ndarray:
    """Whether level d lies within the answer: past its end nothing is known about acceptance.

    bool [N, D], level 1 first.
    """
    return np.arange(traces.max_depth) < np.asarray(traces.tokens_left)[:, None]


def balanced(labels: np.ndarray, samples: int, rng: np.random.Generator, name: str) -> np.ndarray:
    """Indices of as many true as false labels [n], at most `samples` of each, shuffled.

    Raises InputError when one kind is missing.
    """
    kinds = [np.flatnonzero(labels), np.flatnonzero(~labels)]
    count = min(samples, *map(len, kinds))
    if count == 0:
        kind = "accepted" if not len(kinds[0]) else "rejected"
        raise InputError(f"{name}: no {kind} draft token in the traces to learn from; record more answers")
    return rng.permutation(np.concatenate([rng.choice(kind, count, replace=False) for kind in kinds]))


def train_network(
    module: nn.Module,
    inputs: Callable[[np.ndarray], np.ndarray],
    labels: np.ndarray,
    settings: TrainingSettings,
    name: str,
) -> None:
    """Fit `module`, which maps [B, width] to logits [B, 1], in place.

    inputs gives the float32 rows [B, width] of sample indices [B]; labels bool [n].
    """
    chosen = balanced(labels, settings.samples, np.random.default_rng(settings.seed), name)
    rows = torch.from_numpy(np.ascontiguousarray(inputs(chosen), dtype=np.float32))
    targets = torch.from_numpy(labels[chosen].astype(np.float32))
    optimiser = torch.optim.AdamW(module.parameters(), lr=settings.learning_rate)
    generator = torch.Generator().manual_seed(settings.seed)
    for _ in range(settings.epochs):
        for batch in torch.randperm(len(rows), generator=generator).split(settings.batch_size):
            logits = module(rows[batch])[:, 0]
            loss = nn.functional.binary_cross_entropy_with_logits(logits, targets[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()


def perceptron(inputs: int, hidden: int, seed: int) -> nn.Sequential:
    """A network of one hidden layer with a ReLU and one logit."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, 1))


def exported(module: nn.Sequential) -> PolicyNetwork:
    """The same network in numpy, which decides about single rows faster."""
    linear = [layer for layer in module if isinstance(layer, nn.Linear)]
    return PolicyNetwork([(_array(layer.weight), _array(layer.bias)) for layer in linear])


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().numpy()


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities in float64."""
    return 1.0 / (1.0 + np.exp(-np.asarray(logits, dtype=np.float64)))
