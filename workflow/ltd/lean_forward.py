"""A lean forward pass over the loaded modules of Llama-structured models (Llama, Mistral, Qwen2, Qwen3).

Same weights, same arithmetic, a fraction of the operations: queries, keys and values in one product, gate
and up in another, one rotary operation over all heads, attention straight over the cache buffer. For a
small model the cost of starting operations decides, so that matters more than the arithmetic does.
`LeanLayer` also runs the Eagle3 head.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltd.errors import InputError
from ltd.kv_cache import KeyValueCache
from ltd.packed_linear import PackedLinear, fused_linear

LEAN_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
LAYER_CHILDREN = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
ATTENTION_CHILDREN = {"q_proj", "k_proj", "v_proj", "o_proj"}
# Rotary variants whose angles depend on how long the sequence is by now.
LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")


def supports_lean(model: nn.Module) -> bool:
    """Whether the lean forward computes this transformers model: a known type with exactly the known
    structure.
    """
    config = model.config
    if config.model_type not in LEAN_MODEL_TYPES or config.hidden_act != "silu":
        return False
    attention = ATTENTION_CHILDREN | ({"q_norm", "k_norm"} if config.model_type == "qwen3" else set())
    parts = {"embed_tokens", "layers", "norm", "rotary_emb"}
    rotary_size = 2 * len(model.model.rotary_emb.inv_freq)
    return (
        {name for name, _ in model.model.named_children()} == parts
        and all(
            {name for name, _ in layer.named_children()} == LAYER_CHILDREN for layer in model.model.layers
        )
        and all(_children(layer.self_attn) == attention for layer in model.model.layers)
        and rotary_size == model.model.layers[0].self_attn.head_dim
    )


def _children(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_children()}


def rms_norm_function(weight: Tensor, eps: float) -> Callable[[Tensor], Tensor]:
    """Root-mean-square norm of rows [..., size] with weight [..., size]."""
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return lambda rows: F.rms_norm(rows, weight.shape[-1:], eps=eps) * weight
    # On a CPU four plain operations take a third of the time of torch's rms_norm, which is not fused there:
    # rows / sqrt(|rows|^2 / n + eps) = rows * sqrt(n) / hypot(|rows|, sqrt(n * eps)).
    size = weight.shape[-1]
    scaled, floor = weight * size**0.5, torch.tensor((size * eps) ** 0.5)

    def norm(rows: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
        return rows.div(length.hypot_(floor)).mul_(scaled)

    return norm


class HeadRotation:
    """Rotary embedding of queries, keys and values in one go: values turn by no angle."""

    def __init__(self, cos: Tensor, sin: Tensor, rotated_heads: int, value_heads: int) -> None:
        """cos and sin are [positions, head_dim] in the layout of transformers (both halves alike)."""
        half = cos.shape[-1] // 2
        turn_cos = cos.view(-1, 1, 2, half)
        turn_sin = sin.view(-1, 1, 2, half) * torch.tensor([-1.0, 1.0], device=sin.device).view(2, 1)
        self.table = torch.stack(  # [positions, 2 (turned, still), 2 (cos, sin), 2, half]
            [
                torch.stack([turn_cos, turn_sin], dim=1),
                torch.stack([torch.ones_like(turn_cos), torch.zeros_like(turn_sin)], dim=1),
            ],
            dim=2,
        ).squeeze(3)
        self.kinds = torch.tensor([0] * rotated_heads + [1] * value_heads, device=cos.device)
        self.last_position = len(cos) - 1

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Factors [R, heads, 2, half] for rows at `positions` [R]."""
        both = self.table.index_select(0, positions).index_select(2, self.kinds)
        return both[:, 0], both[:, 1]


class LeanLayer:
    """One decoder layer over rows [R, H]: grouped-query attention and SwiGLU, each added to the residual
    stream.
    """

    def __init__(
        self, attention: nn.Module, mlp: nn.Module, mlp_norm: Callable[[Tensor], Tensor], packed: bool
    ) -> None:
        self.head_dim = attention.head_dim
        self.kv_heads = attention.k_proj.out_features // self.head_dim
        self.query_heads = attention.q_proj.out_features // self.head_dim
        self.groups = self.query_heads // self.kv_heads
        self.heads = self.query_heads + 2 * self.kv_heads
        self.qkv = fused_linear([attention.q_proj, attention.k_proj, attention.v_proj], packed)
        self.output = fused_linear([attention.o_proj], packed)
        self.gate_up = fused_linear([mlp.gate_proj, mlp.up_proj], packed)
        self.down = fused_linear([mlp.down_proj], packed)
        self.mlp_norm = mlp_norm
        self.head_norm = self._head_norm(attention)

    def _head_norm(self, attention: nn.Module) -> Callable[[Tensor], Tensor] | None:
        """Qwen3 normalises every query and key head before turning it."""
        if not hasattr(attention, "q_norm"):
            return None
        weight = torch.cat(
            [
                attention.q_norm.weight.detach().expand(self.query_heads, -1),
                attention.k_norm.weight.detach().expand(self.kv_heads, -1),
            ]
        )
        return rms_norm_function(weight, attention.q_norm.variance_epsilon)

    def __call__(
        self,
        inputs: Tensor,
        residual: Tensor,
        rotation: tuple[Tensor, Tensor],
        slots: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None,
        causal: bool = False,
    ) -> Tensor:
        """Residual stream [R, H] after the layer, from the attention's input [R, *] and the stream before it.

        Writes the rows' keys and values to `slots` (see `KeyValueCache`), which lie inside `keys` and
        `values`; `mask` is added to the attention scores, [R, number of keys].
        """
        rows = inputs.shape[0]
        heads = self.qkv(inputs).view(rows, self.heads, 2, -1)
        if self.head_norm is not None:
            turned = self.query_heads + self.kv_heads
            normed = self.head_norm(heads.view(rows, self.heads, self.head_dim)[:, :turned])
            heads[:, :turned] = normed.view(rows, turned, 2, -1)
        cos, sin = rotation  # float32: half precision rounds only the result
        heads = torch.addcmul(heads * cos, heads.flip(2), sin).to(inputs.dtype)
        heads = heads.view(rows, self.heads, self.head_dim)
        slots.copy_(heads[:, self.query_heads :].transpose(0, 1))
        queries = heads[:, : self.query_heads].view(rows, self.kv_heads, self.groups, self.head_dim)
        attended = F.scaled_dot_product_attention(
            queries.permute(1, 2, 0, 3), keys, values, attn_mask=mask, is_causal=causal
        )
        residual = residual + self.output(attended.permute(2, 0, 1, 3).reshape(rows, -1))
        gate, up = self.gate_up(self.mlp_norm(residual)).chunk(2, dim=-1)
        return residual + self.down(F.silu(gate).mul_(up))


class LeanForward:
    """Prefill, single steps and tree passes of a Llama-structured model over a preallocated cache."""

    def __init__(
        self, model: nn.Module, tap_layers: Sequence[int], *, max_context: int, max_tree: int, packed: bool
    ) -> None:
        inner, config = model.model, model.config
        weight = inner.embed_tokens.weight
        self.embedding, self.tap_layers = weight.detach(), tuple(tap_layers)
        self.input_norms = [_norm(layer.input_layernorm) for layer in inner.layers]
        self.layers = [
            LeanLayer(layer.self_attn, layer.mlp, _norm(layer.post_attention_layernorm), packed)
            for layer in inner.layers
        ]
        first = self.layers[0]
        self.final_norm = _norm(inner.norm)
        self.head = fused_linear([model.lm_head], packed)
        self.cache = KeyValueCache(
            config.num_hidden_layers,
            first.kv_heads,
            first.head_dim,
            capacity=max_context,
            scratch=max_tree + 1,
            groups=first.groups,
            dtype=weight.dtype,
            device=weight.device,
        )
        positions = torch.arange(max_context + max_tree + 1, device=weight.device)
        cos, sin = inner.rotary_emb(weight.float()[:1], positions[None])
        self.rotation = HeadRotation(cos[0], sin[0], first.query_heads + first.kv_heads, first.kv_heads)
        self.positions = positions
        # Columns of the prefix stay zero for ever; a pass over a tree writes the last columns before them.
        self.mask = torch.zeros(
            max_tree + 1, max_tree + 1 + max_context, dtype=weight.dtype, device=weight.device
        )

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        return self.cache.length

    @property
    def packed_layers(self) -> int:
        """How many of the fused linear layers run packed in half precision."""
        layers = [(layer.qkv, layer.output, layer.gate_up, layer.down) for layer in self.layers]
        return sum(isinstance(linear, PackedLinear) for linear in (*sum(layers, ()), self.head))

    def reset(self) -> None:
        """Start an empty sequence."""
        self.cache.reset()

    def append(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Add tokens [R] to the sequence: R = 1, or any R when it is empty.

        Returns the logits [vocab] of the last one and the taps [R, 3 * H].
        """
        rows, length = len(tokens), self.cache.length
        start = self.cache.scratch + length
        hidden, taps = self._run(
            tokens, self.positions.narrow(0, length, rows), start, self.cache.scratch, None
        )
        self.cache.length += rows
        return self.head(self.final_norm(hidden[-1:]))[0], taps

    def verify(self, tokens: Tensor, depths: Tensor, ancestors: Tensor) -> tuple[Tensor, Tensor]:
        """Pass over a tree: tokens, depths [R] (row 0 is the root), ancestors bool [R, R], itself included.

        Returns logits [R, vocab] and taps [R, 3 * H]; the sequence is unchanged until `keep`.
        """
        rows, scratch = len(tokens), self.cache.scratch
        start = scratch - rows
        mask = self.mask.narrow(0, 0, rows)
        mask.narrow(1, start, rows).fill_(float("-inf")).masked_fill_(ancestors, 0.0)
        mask = mask.narrow(1, start, rows + self.cache.length)
        hidden, taps = self._run(tokens, depths + self.cache.length, start, start, mask)
        return self.head(self.final_norm(hidden)), taps

    def keep(self, rows: Tensor, tree_rows: int) -> None:
        """Make rows [m] of the last verified tree, of `tree_rows` rows, part of the sequence."""
        self.cache.keep(rows, tree_rows)

    def _run(
        self, tokens: Tensor, positions: Tensor, start: int, window_start: int, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        rows, cache = len(tokens), self.cache
        stop = max(start + rows, cache.scratch + cache.length)
        slots = cache.slots(start, rows)
        keys, values = cache.window(window_start, stop)
        rotation = self.rotation.at(positions)
        causal = mask is None and rows > 1
        hidden, taps = self.embedding.index_select(0, tokens), []
        for index, layer in enumerate(self.layers):
            if index in self.tap_layers:
                taps.append(hidden)
            inputs = self.input_norms[index](hidden)
            hidden = layer(inputs, hidden, rotation, slots[index], keys[index], values[index], mask, causal)
        return hidden, torch.cat(taps, dim=-1)


def _norm(module: nn.Module) -> Callable[[Tensor], Tensor]:
    return rms_norm_function(module.weight.detach(), module.variance_epsilon)


def check_rope(config, positions: int) -> None:
    """Refuse rotary embeddings that change with the sequence's length within the first `positions`
    positions.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    kind = rope.get("rope_type", "default")
    original = rope.get("original_max_position_embeddings") or config.max_position_embeddings
    if kind in LENGTH_DEPENDENT_ROPE and positions > original:
        raise InputError(
            f"max_context: rope type {kind!r} rotates all positions anew beyond {original} tokens, "
            f"which a cache cannot follow; use at most {original} tokens, trees included"
        )
