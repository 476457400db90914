"""The parts of a lean forward pass: norms, rotary embedding and the decoder layer, over rows [R, H].

Same weights and arithmetic as the modules they are made from, in fewer operations: queries, keys and values
in one product, gate and up in another, one rotary operation over all heads, attention straight over the
cache. The target's layers and the Eagle3 head share them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltd.bfloat16 import RoundingLinear, round_inputs


class FusedLinear(nn.Module):
    """Linear layers side by side as one product: rows [R, in] -> [R, sum of outs].

    The modules' weights become views of the fused one: nothing is stored twice.
    """

    def __init__(self, *modules: nn.Linear) -> None:
        super().__init__()
        weights = [module.weight.detach() for module in modules]
        biases = [module.bias.detach() for module in modules if module.bias is not None]
        self.weight = torch.cat(weights) if len(weights) > 1 else weights[0]
        self.bias = torch.cat(biases) if biases else None
        self.rounds = isinstance(modules[0], RoundingLinear)
        parts = self.weight.split([module.out_features for module in modules])
        for module, part in zip(modules, parts, strict=True):
            module.weight.data = part

    def forward(self, rows: Tensor) -> Tensor:
        rows = round_inputs(rows) if self.rounds else rows
        return F.linear(rows, self.weight, self.bias)


class RowNorm(nn.Module):
    """Root-mean-square norm over the last dimension of [..., size], weight [..., size]."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = weight.detach(), eps

    def forward(self, rows: Tensor) -> Tensor:
        return F.rms_norm(rows, [rows.shape[-1]], None, self.eps) * self.weight


class HeadNorm(nn.Module):
    """Normalises the first heads, queries and keys, of [R, heads, head_dim]; values stay (Qwen3)."""

    def __init__(self, attention: nn.Module, query_heads: int, kv_heads: int) -> None:
        super().__init__()
        query, key = attention.q_norm, attention.k_norm
        weights = [query.weight.expand(query_heads, -1), key.weight.expand(kv_heads, -1)]
        self.norm = RowNorm(torch.cat(weights), query.variance_epsilon)
        self.count = query_heads + kv_heads

    def forward(self, heads: Tensor) -> Tensor:
        heads[:, : self.count] = self.norm(heads[:, : self.count])
        return heads


class HeadRotation(nn.Module):
    """Factors of the rotary embedding for queries, keys and values in one go: values turn by no angle."""

    def __init__(self, cos: Tensor, sin: Tensor, rotated_heads: int, value_heads: int) -> None:
        """cos and sin are float32 [positions, head_dim] in the layout of transformers (both halves alike)."""
        super().__init__()
        half = cos.shape[-1] // 2
        signs = torch.tensor([-1.0, 1.0], device=sin.device)[:, None]
        turned = torch.stack([cos.view(-1, 2, half), sin.view(-1, 2, half) * signs], dim=1)
        still = torch.zeros_like(turned)
        still[:, 0] = 1.0
        self.table = torch.stack([turned, still], dim=2)  # [positions, (cos, sin), (turned, still), 2, half]
        self.kinds = torch.tensor([0] * rotated_heads + [1] * value_heads, device=cos.device)

    def forward(self, positions: Tensor) -> Tensor:
        """[R, 2, heads, 2, half] for rows at `positions` [R]: what multiplies a head, and its halves
        swapped.
        """
        return self.table.index_select(0, positions).index_select(2, self.kinds)


def folded_attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of a few rows, [kv_heads, groups, R, head_dim], in two batched products.

    The query heads that share a key head become rows of one product: nothing is repeated in memory, and a
    mask [R, K] may start anywhere, which the fused kernels of a GPU do not allow.
    """
    kv_heads, groups, rows, head_dim = queries.shape
    folded = queries.reshape(kv_heads, groups * rows, head_dim) * head_dim**-0.5
    scores = torch.bmm(folded, keys[:, 0].transpose(1, 2)).view(kv_heads, groups, rows, -1)
    if mask is not None:
        scores = scores + mask
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(queries.dtype)
    attended = torch.bmm(weights.view(kv_heads, groups * rows, -1), values[:, 0])
    return attended.view(kv_heads, groups, rows, head_dim)


class LeanLayer(nn.Module):
    """One decoder layer: grouped-query attention and SwiGLU, each added to the residual stream."""

    def __init__(self, attention: nn.Module, mlp: nn.Module, mlp_norm: nn.Module) -> None:
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
        normed = hasattr(attention, "q_norm")
        self.head_norm = HeadNorm(attention, self.query_heads, self.kv_heads) if normed else nn.Identity()

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
    ) -> Tensor:
        """Residual stream [R, H] after the layer, from the attention's input [R, *] and the stream before it.

        Writes the rows' keys and values to `slots` (see `KeyValueCache`), which lie inside `keys` and
        `values` [kv_heads, groups, K, head_dim]; `mask` [R, K] is added to the attention scores.
        """
        rows, kv_heads, head_dim = inputs.shape[0], self.kv_heads, self.head_dim
        heads = self.head_norm(self.qkv(inputs).view(rows, self.heads, head_dim)).view(
            rows, self.heads, 2, -1
        )
        # The factors are float32: in half precision only the result is rounded.
        turned = torch.addcmul(heads * rotation[:, 0], heads.flip(2), rotation[:, 1]).to(inputs.dtype)
        turned = turned.view(rows, self.heads, head_dim)
        slots.copy_(turned[:, self.query_heads :].transpose(0, 1))
        queries = (
            turned[:, : self.query_heads].view(rows, kv_heads, self.groups, head_dim).permute(1, 2, 0, 3)
        )
        if self.fold and not causal:
            attended = folded_attention(queries, keys, values, mask)
        else:
            attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=causal)
        residual = residual + self.output(attended.permute(2, 0, 1, 3).reshape(rows, -1))
        gate, up = self.gate_up(self.mlp_norm(residual)).chunk(2, dim=-1)
        return residual + self.down(F.silu(gate).mul_(up))
