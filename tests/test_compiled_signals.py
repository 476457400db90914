"""Compiled signals of rules against the same in PyTorch."""

import pytest
import torch

from ltd.engine.compiled import signals
from ltd.engine.controllers import DraftState


@pytest.mark.parametrize("size", [1, 2, 17, 1024])
@pytest.mark.parametrize("scale", [0.1, 3.0, 40.0])
def test_entropy_is_that_of_the_distribution(size, scale):
    logits = scale * torch.randn(size, generator=torch.Generator().manual_seed(size))
    expected = torch.distributions.Categorical(logits=logits.double()).entropy().item()
    assert signals.entropy(logits.numpy()) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    state = DraftState(max_depth=3, beam=2, scores=torch.zeros(10), draft_logits=logits)
    assert state.entropy() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    state.draft_logits = logits.double()  # not what the kernel takes
    assert state.entropy() == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("beam", [1, 4, 16])
def test_beam_mass_is_the_probability_of_the_best_nodes(beam):
    scores = -5 * torch.rand(16, generator=torch.Generator().manual_seed(beam))
    expected = scores.topk(beam).values.logsumexp(0).item()
    assert signals.beam_mass(scores.numpy(), beam) == pytest.approx(expected, rel=1e-5, abs=1e-5)
