"""The memory estimate of the head's training against what autograd really keeps."""

from dataclasses import replace

import pytest
import torch

from ltd import train_draft as stage
from ltd.draft_head.eagle3 import Eagle3Head
from ltd.draft_head.training import plan_chains, unroll, unroll_loss
from ltd.draft_head.training_memory import BatchShape, largest_batch, training_parts
from ltd.errors import InputError
from ltd.tracking import StageRun
from test_eagle3_training import CONFIG
from test_train_draft import inputs, options  # noqa: F401 (a fixture)

WIDE = replace(
    CONFIG, hidden_size=64, target_hidden_size=64, intermediate_size=160, head_dim=16, draft_vocab_size=200
)


def kept_bytes(head, sequences, length, prompt, steps, weight):
    """Bytes of different tensors that autograd keeps for the gradient of one batch; weights do not count."""
    generator = torch.Generator().manual_seed(0)
    taps = torch.randn(sequences, length, 3 * head.config.target_hidden_size, generator=generator)
    tokens = torch.randint(head.config.vocab_size, (sequences, length), generator=generator)
    prompts, lengths = (torch.full((sequences,), value) for value in (prompt, length))
    chains = plan_chains(prompts, lengths, steps, weight, generator)
    rows = torch.arange(sequences * length).view(sequences, length)
    teacher = torch.rand(sequences * length, head.config.draft_vocab_size, generator=generator).softmax(-1)
    kept = {weight.data_ptr(): 0 for weight in [*head.parameters(), *head.buffers()]}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept.setdefault(storage.data_ptr(), storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = unroll(head, head.fuse(taps), tokens, chains)
        loss = unroll_loss(head, outputs, chains, teacher, rows)
    assert loss.requires_grad
    return sum(kept.values()), int((chains.depths > 0).sum())


@pytest.mark.parametrize(
    ("sequences", "length", "prompt", "steps", "weight"),
    [(4, 40, 8, 6, 1.0), (2, 200, 150, 4, 1.0), (8, 60, 10, 8, 0.8)],
)
def test_estimate_is_near_what_autograd_keeps(sequences, length, prompt, steps, weight):
    head = Eagle3Head(replace(WIDE, vocab_size=300), torch.randn(300, WIDE.hidden_size))
    counted, chains = kept_bytes(head, sequences, length, prompt, steps, weight)
    batch = BatchShape(sequences, length, chains)
    planned = training_parts(head.config, batch, 0, steps, weight)["largest batch"]
    assert 0.7 < planned / counted < 1.4


def test_weights_gradients_and_optimisers_are_counted():
    head = Eagle3Head(replace(WIDE, vocab_size=300), torch.randn(300, WIDE.hidden_size))
    parts = training_parts(head.config, BatchShape(1, 8, 4), 1000, 4, 1.0)
    matrices = sum(w.numel() for name, w in head.named_parameters() if w.ndim == 2 and w.requires_grad)
    output, embedding = head.lm_head.weight.numel(), head.embed_tokens.weight.numel()
    wanted = 4 * (3 * (matrices - output) + 4 * output + embedding)
    assert parts["target"] == 1000 and parts["head and optimisers"] == wanted


def test_largest_batch_is_the_one_with_the_most_padded_tokens():
    assert largest_batch([5, 9, 4, 4], [2, 3, 1, 1], [[0, 2], [1], [2, 3, 0]]) == BatchShape(3, 5, 4)


def test_too_little_memory_is_said_before_training(inputs, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(stage, "free_bytes", lambda device: 1000)
    with pytest.raises(InputError, match=r"memory: training needs about .* use less draft\.batch_rows"):
        stage.train_draft(options(inputs, tmp_path), StageRun())
    assert not (tmp_path / "state").exists()
