"""The memory estimate of the head's training against what is really alive while it trains."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from live_memory import LiveMemory
from ltd import train_draft as stage
from ltd.draft_head import training, training_memory
from ltd.draft_head.eagle3 import Eagle3Head
from ltd.draft_head.features import target_features
from ltd.draft_head.training import plan_chains, unroll, unroll_loss
from ltd.draft_head.training_memory import (
    BatchShape,
    batch_bytes,
    head_bytes,
    largest_batch,
    pass_bytes,
    step_bytes,
)
from ltd.errors import InputError
from ltd.muon import Muon
from ltd.tracking import StageRun
from test_eagle3_training import CONFIG
from test_train_draft import inputs, options  # noqa: F401 (a fixture)

WIDE = replace(
    CONFIG,
    hidden_size=64,
    target_hidden_size=64,
    intermediate_size=160,
    head_dim=16,
    vocab_size=300,
    draft_vocab_size=200,
)


def make_head():
    return Eagle3Head(WIDE, torch.randn(WIDE.vocab_size, WIDE.hidden_size))


def peak_of_batch(sequences, length, prompt, steps, weight, checkpointing, bfloat16):
    """Largest number of bytes alive from features to gradients, and the number of chains; gradients of the
    weights do not count.
    """
    head, generator = make_head(), torch.Generator().manual_seed(0)
    tokens = torch.randint(WIDE.vocab_size, (sequences, length), generator=generator)
    prompts, lengths = (torch.full((sequences,), value) for value in (prompt, length))
    chains = plan_chains(prompts, lengths, steps, weight, generator)
    inside = (torch.arange(length) >= prompt).expand(sequences, length)
    rows = (inside.flatten().cumsum(0) - 1).view(sequences, length).where(inside, -1)
    for parameter in head.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    with LiveMemory() as memory:
        taps = torch.randn(sequences, length, 3 * WIDE.target_hidden_size)
        teacher = torch.rand(int(inside.sum()), WIDE.draft_vocab_size).softmax(-1)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            outputs = unroll(head, head.fuse(taps), tokens, chains, checkpointing)
            loss = unroll_loss(head, outputs, chains, teacher, rows, checkpointing)
        loss.backward()
    return memory.peak, int((chains.depths > 0).sum())


@pytest.mark.parametrize("bfloat16", [False, True], ids=["float32", "mixed"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointing"])
@pytest.mark.parametrize(
    ("sequences", "length", "prompt", "steps", "weight"),
    [(4, 40, 8, 6, 1.0), (2, 200, 150, 4, 1.0), (8, 60, 10, 8, 0.8), (12, 80, 20, 10, 0.8)],
)
def test_estimate_is_near_the_peak(
    sequences, length, prompt, steps, weight, checkpointing, bfloat16, monkeypatch
):
    for module in (training, training_memory):
        monkeypatch.setattr(module, "LOSS_ROWS", 64)
    peak, chains = peak_of_batch(sequences, length, prompt, steps, weight, checkpointing, bfloat16)
    batch, kept = BatchShape(sequences, length, chains), 2 if bfloat16 else 4
    planned = batch_bytes(WIDE, batch, steps, weight, kept=kept, checkpointing=checkpointing)
    assert 0.7 < planned / peak < 1.5


def test_weights_gradients_and_optimisers_are_counted():
    head = make_head()
    matrices = sum(w.numel() for name, w in head.named_parameters() if w.ndim == 2 and w.requires_grad)
    output, embedding = head.lm_head.weight.numel(), head.embed_tokens.weight.numel()
    assert head_bytes(WIDE) == 4 * (3 * (matrices - output) + 5 * output + embedding)


def test_an_optimiser_step_is_counted():
    matrices = [w for n, w in make_head().named_parameters() if w.ndim == 2 and "lm_head" not in n]
    matrices = [weight for weight in matrices if weight.requires_grad]
    optimiser = Muon(matrices, lr=0.01)
    for weight in matrices:
        weight.grad = torch.randn_like(weight)
    optimiser.step()
    with LiveMemory() as memory:
        optimiser.step()
    assert 0.7 < step_bytes(WIDE) / memory.peak < 1.5


def test_a_pass_of_the_target_is_counted(inputs):  # noqa: F811
    model = AutoModelForCausalLM.from_pretrained(inputs / "target")
    tokens, lengths = torch.randint(48, (8, 40)), torch.full((8,), 40)
    with LiveMemory() as memory:
        target_features(model, (1, 2, 3), tokens, lengths)
    assert 0.7 < pass_bytes(model.config, 320, 40, 4) / memory.peak < 1.5


def test_largest_batch_is_the_one_with_the_most_padded_tokens():
    assert largest_batch([5, 9, 4, 4], [2, 3, 1, 1], [[0, 2], [1], [2, 3, 0]]) == BatchShape(3, 5, 4)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointing"])
def test_too_little_memory_is_said_before_the_target_is_loaded(
    checkpointing,
    inputs,  # noqa: F811
    tmp_path,
    monkeypatch,
    capsys,
):
    monkeypatch.setattr(stage, "free_memory", lambda device, gpus: {0: 1000})
    monkeypatch.setattr(stage, "load_model", None)
    with pytest.raises(InputError, match=r"training needs about .* less draft\.batch_rows") as refusal:
        stage.train_draft(options(inputs, tmp_path, gradient_checkpointing=checkpointing), StageRun())
    assert ("use draft.gradient_checkpointing, less" in str(refusal.value)) is not checkpointing
    assert "memory: about" in capsys.readouterr().out
    assert not (tmp_path / "state").exists()


def test_checkpointing_lowers_the_estimate_of_a_real_head():
    head = replace(
        CONFIG,
        hidden_size=4096,
        target_hidden_size=4096,
        intermediate_size=14336,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=128256,
        draft_vocab_size=32000,
    )
    batch = BatchShape(4, 1024, 3000)
    kept, recomputed = (batch_bytes(head, batch, 8, 0.8, kept=2, checkpointing=c) for c in (False, True))
    assert recomputed < kept / 3
