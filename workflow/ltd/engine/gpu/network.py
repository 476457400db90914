"""Passes of the target and of the Eagle3 head over a few rows, with the kernels of this package.

Same weights and, up to the rounding of sums, the same results as `ltd.engine.lean_forward.LeanNetwork` and
`ltd.engine.draft_network.DraftNetwork`, whose parts they use. A layer is six kernels: queries, keys, values
(the norm before them inside), rotation, attention, its output (the addition to the stream inside), gates and
what they gate (norm and SwiGLU inside), and the way down (the addition inside).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ltd.engine.draft_network import DraftNetwork
from ltd.engine.gpu import attention, drafting
from ltd.engine.gpu.products import (
    MOST_ROWS,
    WeightedRows,
    gated_product,
    product,
    product_and_add,
    suits,
    weigh,
)
from ltd.engine.lean_forward import LeanNetwork
from ltd.engine.lean_layers import FusedLinear, HeadRotation, LeanLayer, RowNorm

# In float16, rows that are weighted but not yet divided by their root mean square might overflow.
NUMBER_TYPE = torch.bfloat16


def serves_target(network: LeanNetwork) -> bool:
    """Whether `TargetPass` computes this network: in bfloat16, all matrices suited, biases nowhere but beside
    queries, keys and values.
    """
    return (
        network.embedding.dtype == NUMBER_TYPE
        and _suited(network.head)
        and all(map(_suited_layer, network.layers))
    )


def serves_head(network: DraftNetwork) -> bool:
    """Whether `DraftPass` computes this head: as for a target, with a beam of at most `MOST_ROWS`, and the
    residual stream, not its norm, as the next step's feature.
    """
    return (
        network.embedding.dtype == NUMBER_TYPE
        and not network.norm_output
        and network.beam <= MOST_ROWS
        and _suited(network.fuse[1])
        and _suited(network.output)
        and _suited_layer(network.layer)
    )


def _suited_layer(layer: LeanLayer) -> bool:
    others = _suited(layer.output) and _suited(layer.gate_up, parts=2) and _suited(layer.down)
    return others and suits(layer.qkv.weight)


def _suited(linear: FusedLinear, parts: int = 1) -> bool:
    return suits(linear.weight, parts) and linear.bias is None


class Seen(NamedTuple):
    """Where a layer's rows [R] stand and what they attend to; see `ltd.engine.gpu.attention`.

    positions, slots [R] of the rows; keys, values: the layer's cache; sees bool [R, n]: which of the n slots
    before the prefix; length [1]: tokens of the prefix.
    """

    positions: Tensor
    slots: Tensor
    keys: Tensor
    values: Tensor
    sees: Tensor
    length: Tensor


class LayerPass:
    """One decoder layer over rows [R]."""

    def __init__(self, layer: LeanLayer, rotation: HeadRotation) -> None:
        self.layer, self.table = layer, rotation.table

    def attend(self, heads: Tensor, seen: Seen) -> Tensor:
        """Attention [R, query_heads * head_dim] from the product [R, heads * head_dim]."""
        layer = self.layer
        heads = heads.view(len(heads), layer.heads, layer.head_dim)
        norm, eps = layer.head_norm, layer.head_eps
        queries = attention.rotate_and_store(heads, self.table, seen.positions, seen.slots, norm, eps)
        return attention.tree_attention(queries, seen.keys, seen.values, seen.sees, seen.length)

    def __call__(
        self, inputs: Tensor | WeightedRows, residual: Tensor, next_norm: RowNorm, seen: Seen
    ) -> tuple[Tensor, WeightedRows]:
        """Residual stream [R, H] behind the layer, itself and on its way through the norm there."""
        layer = self.layer
        attended = self.attend(product(inputs, layer.qkv.weight, layer.qkv.bias), seen)
        residual, inputs = product_and_add(attended, layer.output.weight, residual, layer.mlp_norm)
        inner = gated_product(inputs, layer.gate_up.weight)
        return product_and_add(inner, layer.down.weight, residual, next_norm)


class TargetPass:
    """A pass of the target over the rows of a tree."""

    def __init__(self, network: LeanNetwork) -> None:
        self.network = network
        self.layers = [LayerPass(layer, network.rotation) for layer in network.layers]

    def __call__(
        self,
        tokens: Tensor,
        positions: Tensor,
        slots: list[Tensor],
        keys: list[Tensor],
        values: list[Tensor],
        sees: Tensor,
        length: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Logits [R, vocab] and taps [R, 3 * H] of rows that see `sees` bool [R, R] of each other and, behind
        these in the cache, `length` [1] tokens.
        """
        hidden = self.network.embedding.index_select(0, tokens)
        caches = zip(slots, keys, values, strict=True)
        run = self._few_rows if len(tokens) <= MOST_ROWS else self._many_rows
        return run(hidden, [Seen(positions, *cache, sees, length) for cache in caches])

    def _few_rows(self, hidden: Tensor, seen_by: list[Seen]) -> tuple[Tensor, Tensor]:
        network, norms = self.network, self.network.norms
        inputs, taps = weigh(hidden, norms[0]), []
        for index, (layer, seen) in enumerate(zip(self.layers, seen_by, strict=True)):
            if index in network.tap_layers:
                taps.append(hidden)
            hidden, inputs = layer(inputs, hidden, norms[index + 1], seen)
        return product(inputs, network.head.weight), torch.cat(taps, dim=-1)

    def _many_rows(self, hidden: Tensor, seen_by: list[Seen]) -> tuple[Tensor, Tensor]:
        """With a library's products, and what stands between them fused as in `LeanNetwork`."""
        network, norms = self.network, self.network.norms
        inputs, taps = norms[0](hidden), []
        for index, (layer, seen) in enumerate(zip(self.layers, seen_by, strict=True)):
            if index in network.tap_layers:
                taps.append(hidden)
            attended = layer.attend(layer.layer.qkv(inputs), seen)
            hidden, inputs = norms[index + 1].add(*layer.layer.finish(attended, hidden))
        return network.head(inputs), torch.cat(taps, dim=-1)


class DraftPass:
    """A pass of the Eagle3 head; see `ltd.engine.draft_network.DraftNetwork`."""

    def __init__(self, network: DraftNetwork) -> None:
        self.network = network
        self.layer = LayerPass(network.layer, network.rotation)

    def __call__(
        self,
        features: Tensor,
        taps: bool,
        tokens: Tensor,
        positions: Tensor,
        slots: list[Tensor],
        keys: list[Tensor],
        values: list[Tensor],
        sees: Tensor,
        length: Tensor,
        parent_scores: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As `DraftNetwork.forward` but for the logits, which are in the weights' number type, with rows that
        see `sees` bool [R, n] of the slots before the prefix and `length` [1] tokens of that.
        """
        network, norm = self.network, self.network.final_norm
        if taps:
            features = product(network.fuse[0](features), network.fuse[1].weight)
        inputs = network.enter(features, tokens)
        if network.norm_before_residual:
            features = inputs[:, 1].contiguous()
        seen = Seen(positions, slots[0], keys[0], values[0], sees, length)
        hidden, weighted = self.layer(inputs.flatten(1), features, norm, seen)
        if parent_scores is None:
            hidden, weighted = hidden[-1:], weighted.last()
        logits = product(weighted, network.output.weight)
        children = drafting.best_children(logits, network.beam, parent_scores, network.target_ids)
        return hidden, logits, *children


def target_pass(network: LeanNetwork) -> TargetPass | None:
    """Passes of the target's network by the kernels here; None where they do not serve it."""
    return TargetPass(network) if serves_target(network) else None


def draft_pass(network: DraftNetwork) -> DraftPass | None:
    """Passes of the head's network by the kernels here; None where they do not serve it."""
    return DraftPass(network) if serves_head(network) else None
