"""How much memory decoding will take, from configurations alone, so that it is refused before hours are
spent.

The numbers are those of the engine's own buffers plus a margin for the libraries; see `MemoryPlan.parts`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig

from ltd.errors import InputError

GIB = 1 << 30
# Bytes of a weight under quantisation, its scales included; embedding and output head stay as they are.
QUANTISED_BYTES = {"8bit": 1.01, "4bit": 0.57}
LIBRARIES = GIB  # context, kernels and workspaces of the GPU's libraries


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes by purpose."""

    weights: int
    cache: int
    draft: int
    work: int
    engine: int = 0

    @property
    def parts(self) -> dict[str, int]:
        """Weights of the target, its key-value cache, the draft head with its cache, everything else, and on
        a CPU the compiled engine's own weights.
        """
        parts = {"weights": self.weights, "cache": self.cache, "draft head": self.draft, "work": self.work}
        return parts | ({"engine": self.engine} if self.engine else {})

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self.parts.values())

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in self.parts.items())
        return f"{self.total / GIB:.1f} GiB ({parts})"


def weight_bytes(config: PretrainedConfig, dtype: torch.dtype, quantisation: str = "none") -> int:
    """Bytes of a causal language model's weights, counted on a model without storage.

    A checkpoint that is quantised already counts as what its configuration says.
    """
    if quantisation == "none":
        quantisation = saved_quantisation(config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    total = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    if quantisation != "none":
        inner = (module for module in model.base_model.modules() if isinstance(module, nn.Linear))
        for weight in (module.weight for module in inner):
            saved = weight.element_size() - QUANTISED_BYTES[quantisation]
            total -= int(weight.numel() * saved)
    return total


def saved_quantisation(config: PretrainedConfig) -> str:
    """Precision of a checkpoint's weights: `none`, `8bit` or `4bit`; 8 bits where its method says nothing."""
    method = getattr(config, "quantization_config", None)
    if method is None:
        return "none"
    values = method if isinstance(method, dict) else method.to_dict()
    bits = values.get("bits") or values.get("w_bit") or (4 if values.get("load_in_4bit") else 8)
    return "4bit" if bits <= 4 else "8bit"


def cache_bytes(config: PretrainedConfig, tokens: int, dtype: torch.dtype) -> int:
    """Bytes of keys and values of `tokens` tokens in all layers."""
    text = config.get_text_config()
    heads = text.num_attention_heads
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    return 2 * text.num_hidden_layers * kv_heads * head_dim * tokens * dtype.itemsize


def draft_bytes(config: PretrainedConfig, tokens: int, dtype: torch.dtype, draft_vocab_size: int) -> int:
    """Bytes of an Eagle3 head as wide as the target, of its cache and of the features that wait for it."""
    text = config.get_text_config()
    width, heads = text.hidden_size, text.num_attention_heads
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    head_dim = getattr(text, "head_dim", None) or width // heads
    inner = getattr(text, "intermediate_size", None) or 4 * width
    attention = 2 * width * (heads + 2 * kv_heads) * head_dim + heads * head_dim * width
    weights = 3 * width * width + attention + 3 * width * inner + draft_vocab_size * width
    return (weights + tokens * (3 * width + 2 * kv_heads * head_dim)) * dtype.itemsize


def work_bytes(config: PretrainedConfig, context: int, tree: int, dtype: torch.dtype) -> int:
    """Bytes of what passes hold for a while: prefill's rows, masks, scores and logits of the largest tree."""
    text = config.get_text_config()
    inner = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    rows = context * (2 * inner + 12 * text.hidden_size) * dtype.itemsize
    logits = tree * text.vocab_size * (dtype.itemsize + 8)
    scores = text.num_attention_heads * tree * (context + tree) * (4 + 2 * dtype.itemsize)
    return rows + logits + scores + LIBRARIES


def batch_bytes(
    config: PretrainedConfig, sequences: int, prompt: int, answer: int, dtype: torch.dtype
) -> int:
    """Bytes beside the weights when so many sequences, of at most `prompt` and `answer` tokens, are written
    together: keys and values, the rows of a layer in the prefill, the logits of a step.
    """
    text = config.get_text_config()
    cache = cache_bytes(config, sequences * (prompt + answer), dtype)
    return cache + work_bytes(config, sequences * prompt, 0, dtype) + sequences * text.vocab_size * 8


def plan_memory(
    config: PretrainedConfig,
    *,
    dtype: torch.dtype,
    quantisation: str = "none",
    context: int,
    tree: int,
    draft_vocab_size: int = 0,
    engine: float = 0.0,
) -> MemoryPlan:
    """What a target with a cache of `context` tokens and trees of `tree` nodes needs; 0 draft tokens: no
    head. `engine` is what the engine holds for itself beside the model, relative to the weights.
    """
    slots = context + tree + 1
    weights = weight_bytes(config, dtype, quantisation)
    return MemoryPlan(
        weights=weights,
        engine=int(engine * weights),
        cache=cache_bytes(config, slots, dtype),
        draft=draft_bytes(config, slots, dtype, draft_vocab_size) if draft_vocab_size else 0,
        work=work_bytes(config, context, tree, dtype),
    )


def free_bytes(device: torch.device) -> int:
    """Memory that can still be allocated there: the GPU's, or the machine's."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return 1 << 62  # nobody says: let the allocation itself decide


def check_memory(plan: MemoryPlan, device: torch.device, name: str) -> None:
    """Raise InputError, with what would help, when the plan exceeds the free memory of the device."""
    free = free_bytes(device)
    if plan.total > free:
        raise InputError(_refusal(plan, name, f"{device.type} has {free / GIB:.1f} GiB free"))


def weight_limits(plan: MemoryPlan, free: Mapping[int, int], reserve: int = 0) -> dict[int, int]:
    """Bytes of the weights that each GPU may hold, from its free bytes; one GPU where the first takes all.

    Draft head and `reserve` belong to the first GPU; the cache goes where its layers are, and every GPU needs
    room to work in.
    """
    first = next(iter(free))
    if plan.total + reserve <= free[first]:
        return {first: plan.weights}
    shared = plan.work + plan.cache // len(free)
    beside = {gpu: shared + (plan.draft + reserve if gpu == first else 0) for gpu in free}
    return {gpu: max(0, size - beside[gpu]) for gpu, size in free.items()}


def check_spread(plan: MemoryPlan, free: Mapping[int, int], name: str, reserve: int = 0) -> dict[int, int]:
    """`weight_limits`, or InputError when the weights do not fit into them."""
    limits = weight_limits(plan, free, reserve)
    if plan.weights > sum(limits.values()):
        listed = ", ".join(f"{gpu} {size / GIB:.1f}" for gpu, size in free.items())
        training = f" and {reserve / GIB:.1f} GiB for training" if reserve else ""
        raise InputError(_refusal(plan, name + training, f"GiB are free on GPU {listed}"))
    return limits


def _refusal(plan: MemoryPlan, name: str, free: str) -> str:
    return (
        f"memory: {name} needs about {plan}, {free}; use a smaller context or smaller sizes, quantisation "
        "8bit or 4bit, or more GPU memory"
    )
