"""The parts of a lean forward pass: norms, rotary embedding and the decoder layer, over rows [R, H].

Same weights and arithmetic as the modules they are made from, in fewer operations: queries, keys and values
in one product, gate and up in another, one rotary operation over all heads, attention straight over the
cache. The target's layers and the Eagle3 head share them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltd.bfloat16 import RoundingLinear, round_inputs
from ltd.engine.fusion import fused


class FusedLinear(nn.Module):
    """Linear layers side by side as one product: rows [R, in] -> [R, sum of outs].

    The modules' weights become views of the fused one: nothing is stored twice.
    """

    def __init__(self, *modules: nn.Linear) -> None:
        super().__init__()
        weights = [module.weight.detach() for module in modules]
        biases = [module.bias.detach() for module in modules if module.bias is not None]
        self.bias = torch.cat(biases) if biases else None
        self.rounds = isinstance(modules[0], RoundingLinear)
        # Engines are made in inference mode, but whoever trains the modules later needs usual tensors.
        with torch.inference_mode(False), torch.no_grad():
            self.weight = torch.cat(weights) if len(weights) > 1 else weights[0]
            parts = self.weight.split([module.out_features for module in modules])
            for module, part in zip(modules, parts, strict=True):
                module.weight.data = part

    def forward(self, rows: Tensor) -> Tensor:
        rows = round_inputs(rows) if self.rounds else rows
        return F.linear(rows, self.weight, self.bias)


@fused
def normalise(rows: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm over the last dimension of [..., size], weight [..., size]."""
    return F.rms_norm(rows, [rows.shape[-1]], None, eps) * weight


@fused
def add_and_normalise(residual: Tensor, update: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The residual stream [R, H] with `update` added, and its norm."""
    residual = residual + update
    return residual, F.rms_norm(residual, [residual.shape[-1]], None, eps) * weight


@fused
def rotate_and_store(
    heads: Tensor, rotation: Tensor, slots: Tensor, norm: Tensor | None, eps: float
) -> Tensor:
    """Turn queries and keys of heads [R, heads, head_dim], which are followed by the values.

    Keys and values go to `slots` [2 * kv_heads, R, head_dim]; returns queries [query_heads, R, head_dim],
    scaled as the factors are.
    norm [n, head_dim]: weights of a norm of the first n heads before (Qwen3). The factors, see
    `HeadRotation`, are float32: in half precision only the result is rounded.
    """
    if norm is not None:
        normed = F.rms_norm(heads[:, : len(norm)], [heads.shape[-1]], None, eps) * norm
        heads = torch.cat([normed, heads[:, len(norm) :]], dim=1)
    halves = heads.unflatten(2, (2, -1))
    turned = torch.addcmul(halves * rotation[:, 0], halves.flip(2), rotation[:, 1])
    turned = turned.to(heads.dtype).flatten(2).transpose(0, 1)
    queries = len(turned) - len(slots)
    slots.copy_(turned[queries:])
    return turned[:queries].contiguous()


@fused
def attention_weights(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax in float32 over scores [kv_heads, groups, R, K] with `mask` [R, K] added."""
    masked = scores.float() if mask is None else scores.float() + mask
    return masked.softmax(dim=-1).to(scores.dtype)


@fused
def gated(gate_up: Tensor) -> Tensor:
    """SwiGLU of [R, 2 * I]: gates, then what they gate."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


class RowNorm(nn.Module):
    """Root-mean-square norm over the last dimension of [..., size], weight [..., size]."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = weight.detach(), eps

    def forward(self, rows: Tensor) -> Tensor:
        return normalise(rows, self.weight, self.eps)

    def add(self, residual: Tensor, update: Tensor) -> tuple[Tensor, Tensor]:
        """The residual stream [R, H] with `update` added, and its norm."""
        return add_and_normalise(residual, update, self.weight, self.eps)


class HeadRotation(nn.Module):
    """Factors of the rotary embedding for queries, keys and values in one go: values turn by no angle, and
    queries are scaled for attention, because their product with keys may be too large for float16.
    """

    def __init__(self, cos: Tensor, sin: Tensor, query_heads: int, kv_heads: int) -> None:
        """cos and sin are float32 [positions, head_dim] in the layout of transformers (both halves alike)."""
        super().__init__()
        half = cos.shape[-1] // 2
        signs = torch.tensor([-1.0, 1.0], dtype=sin.dtype, device=sin.device)[:, None]
        turned = torch.stack([cos.view(-1, 2, half), sin.view(-1, 2, half) * signs], dim=1)
        still = torch.zeros_like(turned)
        still[:, 0] = 1.0
        # [positions, (cos, sin), (queries, keys, values), 2, half]
        self.table = torch.stack([turned * cos.shape[-1] ** -0.5, turned, still], dim=2)
        self.kinds = torch.tensor([0] * query_heads + [1] * kv_heads + [2] * kv_heads, device=cos.device)

    def forward(self, positions: Tensor) -> Tensor:
        """[R, 2, heads, 2, half] for rows at `positions` [R]: what multiplies a head, and its halves
        swapped.
        """
        return self.table.index_select(0, positions).index_select(2, self.kinds)


def folded_attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of a few rows of scaled queries, [kv_heads, groups, R, head_dim], in two batched products.

    The query heads that share a key head become rows of one product: nothing is repeated in memory, and a
    mask [R, K] may start anywhere, which the fused kernels of a GPU do not allow.
    """
    kv_heads, groups, rows, head_dim = queries.shape
    folded = queries.reshape(kv_heads, groups * rows, head_dim)
    scores = torch.bmm(folded, keys[:, 0].transpose(1, 2)).view(kv_heads, groups, rows, -1)
    weights = attention_weights(scores, mask)
    attended = torch.bmm(weights.view(kv_heads, groups * rows, -1), values[:, 0])
    return attended.view(kv_heads, groups, rows, head_dim)


class LeanLayer(nn.Module):
    """One decoder layer: grouped-query attention and SwiGLU, each added to the residual stream."""

    def __init__(self, attention: nn.Module, mlp: nn.Module, mlp_norm: RowNorm) -> None:
        super().__init__()
        self.head_dim = attention.head_dim
        self.kv_heads = attention.k_proj.out_features // self.head_dim
        self.query_heads = attention.q_proj.out_features // self.head_dim
        self.groups = self.query_heads // self.kv_heads
        self.heads = self.query_heads + 2 * self.kv_heads
        self.qkv = FusedLinear(attention.q_proj, attention.k_proj, attention.v_proj)
        self.output = FusedLinear(attention.o_proj)
        self.gate_up = FusedLinear(mlp.gate_proj, mlp.up_proj)
        self.down = FusedLinear(mlp.down_proj)
        self.mlp_norm = mlp_norm
        self.fold = attention.q_proj.weight.device.type != "cpu"
        self.head_norm, self.head_eps = None, 0.0
        if hasattr(attention, "q_norm"):
            query, key = attention.q_norm, attention.k_norm
            weights = [query.weight.expand(self.query_heads, -1), key.weight.expand(self.kv_heads, -1)]
            self.head_norm, self.head_eps = torch.cat(weights).detach(), query.variance_epsilon

    def forward(
        self,
        inputs: Tensor,
        residual: Tensor,
        rotation: Tensor,
        slots: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None,
        causal: bool,
    ) -> tuple[Tensor, Tensor]:
        """Residual stream [R, H] before the layer's last addition and what is to be added, which the next
        norm does; from the attention's input [R, *] and the stream before the layer.

        Writes the rows' keys and values to `slots` (see `KeyValueCache`), which lie inside `keys` and
        `values` [kv_heads, groups, K, head_dim]; `mask` [R, K] is added to the attention scores.
        """
        rows = inputs.shape[0]
        heads = self.qkv(inputs).view(rows, self.heads, self.head_dim)
        queries = rotate_and_store(heads, rotation, slots, self.head_norm, self.head_eps)
        queries = queries.view(self.kv_heads, self.groups, rows, self.head_dim)
        if self.fold and not causal:
            attended = folded_attention(queries, keys, values, mask)
        else:
            attended = F.scaled_dot_product_attention(
                queries, keys, values, attn_mask=mask, is_causal=causal, scale=1.0
            )
        return self.finish(attended.permute(2, 0, 1, 3).reshape(rows, -1), residual)

    def finish(self, attended: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """What `forward` returns, from attention [R, query_heads * head_dim] and the stream before it."""
        residual, inputs = self.mlp_norm.add(residual, self.output(attended))
        return residual, self.down(gated(self.gate_up(inputs)))
