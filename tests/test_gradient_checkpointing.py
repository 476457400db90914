"""Gradient checkpointing computes the same loss and gradients with a fraction of the memory."""

from dataclasses import replace

import pytest
import torch

from live_memory import LiveMemory
from ltd.draft_head import training
from ltd.draft_head.eagle3 import Eagle3Head
from ltd.draft_head.training import plan_chains, unroll, unroll_loss
from test_eagle3_training import CONFIG, LENGTHS, PROMPTS

STEPS = 5


@pytest.fixture
def attended(monkeypatch):
    """Keys of earlier steps in every attention that is computed."""
    seen, attend = [], training._attend

    def counted(queries, keys, values, blocked, chain_keys, chain_values):
        seen.append(len(chain_keys))
        return attend(queries, keys, values, blocked, chain_keys, chain_values)

    monkeypatch.setattr(training, "_attend", counted)
    return seen


def loss_and_gradients(dtype, checkpointing, bfloat16=False):
    """Of the whole batch, by parameter, and of the features."""
    torch.manual_seed(0)
    head = Eagle3Head(CONFIG, torch.randn(CONFIG.vocab_size, CONFIG.hidden_size)).to(dtype)
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(3, 12, CONFIG.hidden_size, dtype=dtype, generator=generator).requires_grad_()
    tokens = torch.randint(CONFIG.vocab_size, (3, 12), generator=generator)
    chains = plan_chains(PROMPTS, LENGTHS, STEPS, 0.9, generator)
    teacher = torch.rand(36, CONFIG.draft_vocab_size, dtype=dtype, generator=generator).softmax(-1)
    rows = torch.arange(36).view(3, 12)
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        outputs = unroll(head, features, tokens, chains, checkpointing)
        loss = unroll_loss(head, outputs, chains, teacher, rows, checkpointing)
    loss.backward()
    gradients = {name: weight.grad for name, weight in head.named_parameters() if weight.grad is not None}
    return {"loss": loss.detach(), "features": features.grad} | gradients


@pytest.mark.parametrize(
    ("dtype", "bfloat16", "tolerance"),
    [(torch.float64, False, 1e-12), (torch.float32, False, 1e-5), (torch.float32, True, 2e-2)],
    ids=["float64", "float32", "mixed"],
)
def test_loss_and_gradients_are_the_same(dtype, bfloat16, tolerance, attended, monkeypatch):
    monkeypatch.setattr(training, "LOSS_ROWS", 7)  # several parts
    plain = loss_and_gradients(dtype, False, bfloat16)
    assert attended == [0, 1, 2, 3, 4]
    attended.clear()
    recomputed = loss_and_gradients(dtype, True, bfloat16)
    # Every step once more in the backward pass, with the keys of the steps before it.
    assert attended == [0, 1, 2, 3, 4, 4, 3, 2, 1, 0]
    assert plain.keys() == recomputed.keys() and "midlayer.self_attn.k_proj.weight" in plain
    for name, values in plain.items():
        assert values.abs().max() > 0
        torch.testing.assert_close(recomputed[name], values, rtol=tolerance, atol=tolerance)


WIDE = replace(
    CONFIG, hidden_size=64, target_hidden_size=64, intermediate_size=160, head_dim=16, draft_vocab_size=400
)


def prepared(sequences=4, length=60, prompt=20, steps=8, weight=0.9):
    generator = torch.Generator().manual_seed(0)
    head = Eagle3Head(replace(WIDE, vocab_size=500), torch.randn(500, WIDE.hidden_size))
    features = torch.randn(sequences, length, WIDE.hidden_size, generator=generator)
    tokens = torch.randint(500, (sequences, length), generator=generator)
    prompts, lengths = (torch.full((sequences,), value) for value in (prompt, length))
    chains = plan_chains(prompts, lengths, steps, weight, generator)
    rows = torch.arange(sequences * length).view(sequences, length)
    teacher = torch.rand(sequences * length, WIDE.draft_vocab_size, generator=generator).softmax(-1)

    def loss(checkpointing):
        outputs = unroll(head, features, tokens, chains, checkpointing)
        return unroll_loss(head, outputs, chains, teacher, rows, checkpointing)

    return head, loss


def test_less_is_kept_for_the_gradient():
    head, loss = prepared()
    kept = {}
    for checkpointing in (False, True):
        storages = {weight.data_ptr(): 0 for weight in [*head.parameters(), *head.buffers()]}

        def keep(tensor, storages=storages):
            storage = tensor.untyped_storage()
            storages.setdefault(storage.data_ptr(), storage.nbytes())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            assert loss(checkpointing).requires_grad
        kept[checkpointing] = sum(storages.values())
    assert 0 < kept[True] < kept[False] / 4


def test_the_peak_falls_backward_pass_included(monkeypatch):
    monkeypatch.setattr(training, "LOSS_ROWS", 64)
    head, loss = prepared()
    peaks = {}
    for checkpointing in (False, True):
        head.zero_grad()
        with LiveMemory() as memory:
            loss(checkpointing).backward()
        peaks[checkpointing] = memory.peak
    assert 0 < peaks[True] < peaks[False] / 3
