"""The warm start: expectations by enumeration, and whose gradient goes where."""

import numpy as np
import pytest
import torch

from ltd.rl import KINDS
from ltd.rl.rehearsal import CRITICS_STRIDE, outcomes, rehearsal_loss, stopping_values
from ltd.rl.rewards import Reward
from policy_training import SIZES, workshop


def test_exact_values_of_stopping_equal_enumeration():
    """Two decisions, three stops: probabilities, entropies, values by hand."""
    logits, rewards = torch.randn(5, 2, 2), torch.randn(5, 3)
    p = logits.softmax(-1)
    stop = torch.stack([p[:, 0, 0], p[:, 0, 1] * p[:, 1, 0], p[:, 0, 1] * p[:, 1, 1]], dim=1)
    probabilities, reach, value = stopping_values(p.log(), rewards)
    second = p[:, 1, 0] * rewards[:, 1] + p[:, 1, 1] * rewards[:, 2]
    first = p[:, 0, 0] * rewards[:, 0] + p[:, 0, 1] * second
    assert torch.allclose(probabilities, stop, atol=1e-6)
    assert torch.allclose(value, torch.stack([first, second], dim=1), atol=1e-5)
    assert torch.allclose(reach, torch.stack([torch.ones(5), p[:, 0, 1]], dim=1), atol=1e-6)


@pytest.mark.parametrize("first_decision", [0, 1])
def test_rehearsal_expects_what_the_replay_table_holds(first_decision):
    """With actors that are certain, the expected tokens and seconds are those of the static setting."""
    shop = workshop(first_decision=first_decision)
    world, specs = shop.training, {kind: shop.spec(kind) for kind in KINDS}
    certain = {"size": torch.tensor([0, 0, 99.0, 0, 0]), "depth": torch.tensor([0, 99.0])}
    actors = {kind: lambda x, kind=kind: certain[kind].expand(*x.shape[:-1], -1) for kind in KINDS}
    critics = dict.fromkeys(KINDS, lambda x: torch.zeros(*x.shape[:-1], 1))
    reward, positions = Reward("acceptance", 1.0), np.arange(len(world.traces))
    known = outcomes(world, specs, shop.settings, positions)
    loss, (tokens, seconds) = rehearsal_loss(actors, critics, known, reward, 0.0)
    expected = world.table.tokens(positions, 6, SIZES[2])
    times = world.latency.cycle_seconds(6, SIZES[2], world.context_length, 3, 6 - first_decision, 1)
    assert np.allclose(tokens, expected)
    assert np.allclose(seconds, times)
    values = [world.table.tokens(positions, 6, SIZES[2])] * (6 - first_decision)
    errors = 0.5 * (np.square(values).sum(axis=0) + expected**2)
    assert np.isclose(float(loss), errors[::CRITICS_STRIDE].mean() - expected.mean(), rtol=1e-4)


def test_entropy_of_a_decision_counts_as_often_as_it_is_made():
    """Of even actors: to go on or not as often as a draft gets there, a size unless nothing was drafted."""
    shop = workshop()
    world, specs = shop.training, {kind: shop.spec(kind) for kind in KINDS}
    actions = {"size": len(SIZES), "depth": 2}
    actors = {kind: lambda x, n=n: torch.zeros(*x.shape[:-1], n) for kind, n in actions.items()}
    critics = dict.fromkeys(KINDS, lambda x: torch.zeros(*x.shape[:-1], 1))
    known = outcomes(world, specs, shop.settings, np.arange(50))
    losses = [
        float(rehearsal_loss(actors, critics, known, Reward("acceptance", 1.0), weight)[0])
        for weight in (0.0, 1.0)
    ]
    reached = sum(0.5**depth for depth in range(world.max_depth))
    expected = np.log(2) * reached + np.log(len(SIZES)) * (1 - 0.5)
    assert losses[0] - losses[1] == pytest.approx(expected, rel=1e-4)


def test_critics_teach_the_actors_nothing():
    """Expected values are their targets alone: how wrong a critic is changes no gradient of an actor."""
    shop = workshop()
    specs = {kind: shop.spec(kind) for kind in KINDS}
    known = outcomes(shop.training, specs, shop.settings, np.arange(50))
    logits = {
        "size": torch.zeros(len(SIZES), requires_grad=True),
        "depth": torch.zeros(2, requires_grad=True),
    }
    actors = {kind: lambda x, kind=kind: logits[kind].expand(*x.shape[:-1], -1) for kind in KINDS}
    gradients = []
    for value in (0.0, 100.0):
        critics = dict.fromkeys(KINDS, lambda x, value=value: torch.full((*x.shape[:-1], 1), value))
        loss, _ = rehearsal_loss(actors, critics, known, Reward("acceptance", 1.0), 0.0)
        gradients.append(torch.autograd.grad(loss, list(logits.values())))
    for good, bad in zip(*gradients, strict=True):
        torch.testing.assert_close(good, bad)
