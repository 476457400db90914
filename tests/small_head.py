"""A small target, an Eagle3 head for it whose sizes divide nothing evenly, and a pass of that head."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ltd.draft_head.eagle3 import Eagle3Config, Eagle3Head

VOCAB, DRAFT_VOCAB, WIDTH = 40, 13, 24
CONFIG = Eagle3Config(
    hidden_size=WIDTH,
    target_hidden_size=WIDTH,
    intermediate_size=36,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=10,
    rms_norm_eps=1e-6,
    vocab_size=VOCAB,
    draft_vocab_size=DRAFT_VOCAB,
    rope_theta=10000.0,
    max_position_embeddings=128,
    tap_layers=(2, 4, 5),
)


def made_target():
    torch.manual_seed(0)
    shapes = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 8, "vocab_size": VOCAB}
    return LlamaForCausalLM(LlamaConfig(num_attention_heads=4, num_key_value_heads=2, **shapes))


def made_head(target):
    torch.manual_seed(1)
    head = Eagle3Head(CONFIG, target.get_input_embeddings().weight)
    with torch.no_grad():
        for norm in (head.norm, head.midlayer.hidden_norm, head.midlayer.input_layernorm):
            norm.weight.uniform_(0.5, 1.5)
    head.set_draft_vocabulary(torch.randperm(VOCAB)[:DRAFT_VOCAB].sort().values)
    return head


def causal(size):
    return torch.ones(size, size, dtype=torch.bool).tril()[None, None]


def run(head, seed=2, size=7):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(1, size, WIDTH, generator=generator).to(head.fc.weight.dtype)
    tokens = torch.randint(VOCAB, (1, size), generator=generator)
    return head(features, tokens, torch.arange(size)[None], causal(size))[0]
