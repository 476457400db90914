"""What a head is taught by: the logits of targets whose output is more than a matrix."""

import pytest
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    OlmoConfig,
    OlmoForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PhiConfig,
    PhiForCausalLM,
)

from engine_models import random_model
from ltd.draft_head.head_config import target_like
from ltd.draft_head.target_output import norm_gain, output_of
from ltd.errors import InputError
from ltd.train_draft import initial_head

SHAPE = dict(
    vocab_size=23, hidden_size=24, intermediate_size=40, num_hidden_layers=4, num_attention_heads=3,
    num_key_value_heads=3, head_dim=8, max_position_embeddings=64, pad_token_id=0,
)  # fmt: skip
IDS = torch.tensor([1, 2, 5, 11, 22])
TOKENS = torch.tensor([[3, 7, 1, 20, 9]])
TARGETS = {
    "granite": lambda: GraniteForCausalLM(GraniteConfig(**SHAPE, logits_scaling=8.0)),
    "cohere": lambda: CohereForCausalLM(CohereConfig(**SHAPE, logit_scale=0.0625)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**SHAPE, final_logit_softcapping=3.0)),
    "phi": lambda: PhiForCausalLM(PhiConfig(**SHAPE)),
    "olmo": lambda: OlmoForCausalLM(OlmoConfig(**SHAPE)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=24, n_head=3, n_layer=4, vocab_size=23)),
    "llama": lambda: random_model("llama"),
}


def random_target(kind):
    """Weights large enough that caps, biases and scales show."""
    torch.manual_seed(0)
    model = TARGETS[kind]().eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.5)
    return model


@pytest.mark.parametrize("kind", TARGETS)
def test_the_teacher_is_the_target(kind):
    model = random_target(kind)
    output = output_of(model, IDS)
    final = model.base_model(TOKENS).last_hidden_state[0]
    expected = model(TOKENS).logits[0]
    torch.testing.assert_close(output.logits(final), expected[:, IDS], rtol=1e-4, atol=1e-4)
    assert (output.scale == 1) == (kind not in ("granite", "cohere"))


@pytest.mark.parametrize("kind", TARGETS)
def test_a_head_begins_with_the_targets_output(kind):
    """After its own final norm, where the target has one of that name and it does not subtract the mean."""
    model = random_target(kind)
    output = output_of(model, IDS)
    head = initial_head(target_like(model.config, len(IDS)), model, IDS, output)
    assert torch.equal(head.lm_head.weight, output.weight * output.scale)
    norm = getattr(model.base_model, "norm", None)
    if kind in ("granite", "gemma2", "llama"):
        rows = torch.randn(5, model.config.hidden_size)
        torch.testing.assert_close(head.norm(rows), norm(rows), rtol=1e-3, atol=1e-3)
    if kind in ("granite", "llama"):
        assert torch.equal(head.norm.weight, norm.weight)
    if kind == "olmo":
        assert norm_gain(norm, 24).tolist() == pytest.approx([1] * 24, abs=1e-3)


def test_other_outputs_are_refused(monkeypatch):
    model = random_target("llama")
    monkeypatch.setattr(model.lm_head, "forward", lambda rows: rows[..., :23].square())
    with pytest.raises(InputError, match="logits of this 'llama' model are more than a product"):
        output_of(model, IDS)
    projected = {"word_embed_proj_dim": 12, "ffn_dim": 40, "vocab_size": 23, "max_position_embeddings": 64}
    sizes = {
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "do_layer_norm_before": False,
    }
    with pytest.raises(InputError, match="'opt' model"):
        output_of(OPTForCausalLM(OPTConfig(**projected, **sizes)).eval(), IDS)
