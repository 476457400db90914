"""Small random models for the engine's tests: odd sizes, and heads whose drafts are often accepted."""

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from ltd.bfloat16 import in_bfloat16, to_bfloat16
from ltd.draft_head.eagle3 import Eagle3Config, Eagle3Head
from ltd.engine.compiled.drafting import CompiledDrafter
from ltd.engine.drafting import Drafter
from ltd.engine.target import TargetModel

VOCAB = 23
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
SHAPES = {
    "llama": dict(
        hidden_size=48,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=20,
        attention_bias=True,
        mlp_bias=True,
        rope_parameters=LLAMA3_ROPE,
    ),
    "qwen2": dict(
        hidden_size=35, num_attention_heads=5, num_key_value_heads=1, head_dim=14, tie_word_embeddings=True
    ),
    "qwen3": dict(hidden_size=36, num_attention_heads=4, num_key_value_heads=2, head_dim=14),
    "mistral": dict(
        hidden_size=44, num_attention_heads=4, num_key_value_heads=4, head_dim=6, sliding_window=512
    ),
}
CLASSES = {
    "llama": (LlamaForCausalLM, LlamaConfig),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config),
    "mistral": (MistralForCausalLM, MistralConfig),
}
ARCHITECTURES = tuple(SHAPES)


def random_model(
    architecture="llama", seed=0, vocab=VOCAB, layers=5, half_weights=False, bfloat16=False, **changes
):
    """A transformers model with random weights, large enough that its answers vary."""
    torch.manual_seed(seed)
    model_class, config_class = CLASSES[architecture]
    common = dict(
        vocab_size=vocab,
        intermediate_size=50,
        num_hidden_layers=layers,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    model = model_class(config_class(**common | SHAPES[architecture] | changes)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.uniform_(0.5, 1.5)
            else:
                weight.normal_(std=weight.shape[-1] ** -0.5)
            if half_weights:
                weight.copy_(weight.half())
    return to_bfloat16(model) if bfloat16 else model


# How a target may compute on a CPU: options of `random_target`, compiled ones for the drafter, too.
FORWARDS = {"compiled": {"compiled": True}, "lean": {}, "model": {"lean": False}}


def random_target(
    architecture="llama",
    seed=0,
    max_context=160,
    max_tree=64,
    lean=True,
    compiled=False,
    **changes,
):
    """A `TargetModel` over `random_model`."""
    model = random_model(architecture, seed, **changes)
    return TargetModel(model, max_context=max_context, max_tree=max_tree, lean=lean, compiled=compiled)


def random_head(target, seed=1, draft_vocab=None):
    """A random head; a draft vocabulary of about the beam's width makes acceptance frequent."""
    torch.manual_seed(seed)
    config = Eagle3Config(
        hidden_size=target.hidden_size,
        target_hidden_size=target.hidden_size,
        intermediate_size=40,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=10,
        rms_norm_eps=1e-5,
        vocab_size=target.vocab_size,
        draft_vocab_size=draft_vocab or target.vocab_size,
        rope_theta=1000.0,
        max_position_embeddings=512,
        tap_layers=target.tap_layers,
    )
    head = Eagle3Head(config, target.model.get_input_embeddings().weight).eval()
    if draft_vocab:
        head.set_draft_vocabulary(torch.randperm(target.vocab_size)[:draft_vocab].sort().values)
    head = head.to(target.dtype).requires_grad_(False)
    return to_bfloat16(head) if in_bfloat16(target.model) else head


def random_drafter(target, seed=1, beam=5, max_depth=5, draft_vocab=None, compiled=False):
    """A `Drafter` or `CompiledDrafter` over `random_head`."""
    head = random_head(target, seed, draft_vocab)
    kind = CompiledDrafter if compiled else Drafter
    return kind(head, beam=beam, max_depth=max_depth, max_context=target.max_context)


class RandomController:
    """Any depth and any size, anew every cycle, plain steps included."""

    name = "random"

    def __init__(self, seed=0, max_size=60, stop=0.25):
        self.generator = torch.Generator().manual_seed(seed)
        self.max_size, self.stop = max_size, stop

    def begin(self, prompt_length):
        self.prompt_length = prompt_length

    def continue_drafting(self, state):
        return torch.rand((), generator=self.generator).item() > self.stop

    def choose_size(self, state):
        return int(torch.randint(1, self.max_size + 1, (), generator=self.generator))

    def accepted(self, count):
        self.last = count
