"""A lean forward pass over the loaded modules of Llama-structured models (Llama, Mistral, Qwen2, Qwen3).

Same weights, same arithmetic, a fraction of the operations (see `ltd.engine.lean_layers`), over a cache that
is allocated once.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ltd.bfloat16 import RoundingLinear
from ltd.engine.kv_cache import KeyValueCache
from ltd.engine.lean_layers import FusedLinear, HeadRotation, LeanLayer, RowNorm

LEAN_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
LAYER_CHILDREN = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
ATTENTION_CHILDREN = {"q_proj", "k_proj", "v_proj", "o_proj"}
MLP_CHILDREN = {"gate_proj", "up_proj", "down_proj"}


def supports_lean(model: nn.Module) -> bool:
    """Whether the lean forward computes this transformers model: a known type with exactly the known
    structure, plain linear layers of one class, all on one device.
    """
    config = model.config
    if config.model_type not in LEAN_MODEL_TYPES or config.hidden_act != "silu":
        return False
    if getattr(model, "is_quantized", False) or len(set(getattr(model, "hf_device_map", {}).values())) > 1:
        return False
    attention = ATTENTION_CHILDREN | ({"q_norm", "k_norm"} if config.model_type == "qwen3" else set())
    parts = {"embed_tokens", "layers", "norm", "rotary_emb"}
    rotary_size = 2 * len(model.model.rotary_emb.inv_freq)
    return (
        _children(model.model) == parts
        and all(_children(layer) == LAYER_CHILDREN for layer in model.model.layers)
        and all(_children(layer.self_attn) == attention for layer in model.model.layers)
        and all(_children(layer.mlp) == MLP_CHILDREN | {"act_fn"} for layer in model.model.layers)
        and rotary_size == model.model.layers[0].self_attn.head_dim
        and _computes_with_weights_alone(model)
    )


def _children(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_children()}


def _computes_with_weights_alone(model: nn.Module) -> bool:
    """Whether nothing stands in for the embedding or a linear layer: that of an adapter has a `weight`, too,
    and adds to its product.
    """
    kinds = {type(model.lm_head)}
    for layer in model.model.layers:
        kinds |= {type(getattr(layer.self_attn, name)) for name in ATTENTION_CHILDREN}
        kinds |= {type(getattr(layer.mlp, name)) for name in MLP_CHILDREN}
    return type(model.model.embed_tokens) is nn.Embedding and kinds in ({nn.Linear}, {RoundingLinear})


class LeanNetwork(nn.Module):
    """Embedding, decoder layers and output head as one module over rows [R]; keeps no state."""

    def __init__(self, model: nn.Module, tap_layers: Sequence[int], positions: Tensor) -> None:
        super().__init__()
        inner = model.model
        self.embedding, self.tap_layers = inner.embed_tokens.weight.detach(), list(tap_layers)
        # Before every layer, and before the output head.
        self.norms = nn.ModuleList(
            _norm(norm) for norm in (*(layer.input_layernorm for layer in inner.layers), inner.norm)
        )
        self.layers = nn.ModuleList(
            LeanLayer(layer.self_attn, layer.mlp, _norm(layer.post_attention_layernorm))
            for layer in inner.layers
        )
        self.head = FusedLinear(model.lm_head)
        first = self.layers[0]
        cos, sin = inner.rotary_emb(self.embedding[:1].float(), positions[None])
        self.rotation = HeadRotation(cos[0], sin[0], first.query_heads, first.kv_heads)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        slots: list[Tensor],
        keys: list[Tensor],
        values: list[Tensor],
        mask: Tensor | None,
        causal: bool,
        last_only: bool,
    ) -> tuple[Tensor, Tensor]:
        """Logits [R, vocab] ([1, vocab] of the last row if `last_only`) and taps [R, 3 * H]."""
        rotation = self.rotation(positions)
        hidden = self.embedding.index_select(0, tokens)
        inputs, taps = self.norms[0](hidden), []
        for index, layer in enumerate(self.layers):
            if index in self.tap_layers:
                taps.append(hidden)
            cache = slots[index], keys[index], values[index]
            hidden, update = layer(inputs, hidden, rotation, *cache, mask, causal)
            if last_only and index == len(self.layers) - 1:
                hidden, update = hidden[-1:], update[-1:]
            hidden, inputs = self.norms[index + 1].add(hidden, update)
        return self.head(inputs), torch.cat(taps, dim=-1)


class LeanForward:
    """Prefill, single steps and tree passes of a Llama-structured model over a preallocated cache."""

    packed_layers = 0

    def __init__(
        self,
        model: nn.Module,
        tap_layers: Sequence[int],
        *,
        max_context: int,
        max_tree: int,
    ) -> None:
        device, dtype = model.device, model.dtype
        self.positions = torch.arange(max_context + max_tree + 1, device=device)
        network = LeanNetwork(model, tap_layers, self.positions)
        self.network, first = network, network.layers[0]
        self.cache = KeyValueCache(
            len(network.layers),
            first.kv_heads,
            first.head_dim,
            capacity=max_context,
            scratch=max_tree + 1,
            groups=first.groups,
            dtype=dtype,
            device=device,
        )
        self._make_mask(max_tree + 1, max_context)

    def _make_mask(self, rows: int, context: int) -> None:
        """What rows of trees see, as numbers that are added to the scores of attention."""
        dtype, device = self.cache.buffer.dtype, self.cache.buffer.device
        # Columns of the prefix stay zero for ever; a pass over a tree writes the last columns before them.
        self.mask = torch.zeros(rows, rows + context, dtype=dtype, device=device)

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        return self.cache.length

    def reset(self) -> None:
        """Start an empty sequence."""
        self.cache.reset()

    def append(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Add tokens [R] to the sequence: R = 1, or any R when it is empty.

        Returns the logits [vocab] of the last one and the taps [R, 3 * H].
        """
        rows, cache = len(tokens), self.cache
        start = cache.scratch + cache.length
        positions = self.positions.narrow(0, cache.length, rows)
        keys, values = cache.window(cache.scratch, start + rows)
        slots = cache.slots(start, rows)
        logits, taps = self.network(tokens, positions, slots, keys, values, None, rows > 1, True)
        cache.length += rows
        return logits[0], taps

    def verify(self, tokens: Tensor, depths: Tensor, ancestors: Tensor) -> tuple[Tensor, Tensor]:
        """Pass over a tree: tokens, depths [R] (row 0 is the root), ancestors bool [R, R], itself included.

        Returns logits [R, vocab] and taps [R, 3 * H]; the sequence is unchanged until `keep`.
        """
        rows, cache = len(tokens), self.cache
        start = cache.scratch - rows
        mask = self.mask.narrow(0, 0, rows)
        mask.narrow(1, start, rows).fill_(float("-inf")).masked_fill_(ancestors, 0.0)
        mask = mask.narrow(1, start, rows + cache.length)
        keys, values = cache.window(start, cache.scratch + cache.length)
        slots = cache.slots(start, rows)
        return self.network(tokens, depths + cache.length, slots, keys, values, mask, False, False)

    def keep(self, rows: Tensor, tree_rows: int) -> None:
        """Make rows [m] of the last verified tree, of `tree_rows` rows, part of the sequence."""
        self.cache.keep(rows, tree_rows)


def _norm(module: nn.Module) -> RowNorm:
    return RowNorm(module.weight, module.variance_epsilon)
