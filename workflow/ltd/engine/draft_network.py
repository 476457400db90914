"""The Eagle3 head as a lean network: one pass over rows and the best children of every row.

Computes what `ltd.draft_head.eagle3.Eagle3Head` computes, with the parts of `ltd.engine.lean_layers`.
"""

import torch
from torch import Tensor, nn

from ltd.draft_head.eagle3 import Eagle3Head, rotary
from ltd.engine.lean_layers import HeadRotation, LeanLayer, row_norm
from ltd.engine.packed_linear import fused_linear
from ltd.engine.tree import best_children


class DraftNetwork(nn.Module):
    """Keeps no state; `positions` [n] are all that rows may stand at, `beam` the children of a row."""

    def __init__(self, head: Eagle3Head, positions: Tensor, beam: int, packed: bool) -> None:
        super().__init__()
        config, layer = head.config, head.midlayer
        eps = config.rms_norm_eps
        self.beam = beam
        self.embedding = head.embed_tokens.weight.detach()
        # Embeddings and features are normalised in one go, each with its own weight.
        both = torch.stack([layer.input_layernorm.weight, layer.hidden_norm.weight])
        self.input_norm = row_norm(both, eps)
        mlp_norm = row_norm(layer.post_attention_layernorm.weight, eps)
        self.layer = LeanLayer(layer.self_attn, layer.mlp, mlp_norm, packed)
        self.final_norm = row_norm(head.norm.weight, eps)
        self.fuse = fused_linear([head.fc], packed)
        self.output = fused_linear([head.lm_head], packed)
        draft_ids = torch.arange(config.draft_vocab_size, device=self.embedding.device)
        self.target_ids = head.to_target(draft_ids)
        cos, sin = rotary(positions, config.head_dim, config.rope_theta)
        turned = self.layer.query_heads + self.layer.kv_heads
        self.rotation = HeadRotation(cos, sin, turned, self.layer.kv_heads)

    def forward(
        self,
        features: Tensor,
        taps: bool,
        tokens: Tensor,
        positions: Tensor,
        slots: list[Tensor],
        keys: list[Tensor],
        values: list[Tensor],
        mask: Tensor | None,
        causal: bool,
        parent_scores: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pass over rows [R] with features [R, H], or target taps [R, 3 * Ht] if `taps`.

        With parent_scores [R] every row has children, without only the last. Returns for the rows that do:
        residual stream [n, H], logits [n, Vd], and of their W best children the cumulative log-probabilities
        [n * W] in float32 and the target's token ids [n * W].
        """
        rows = tokens.shape[0]
        if taps:
            features = self.fuse(features)
        inputs = torch.stack([self.embedding.index_select(0, tokens), features], dim=1)
        inputs = self.input_norm(inputs).view(rows, -1)
        hidden = self.layer(
            inputs, features, self.rotation(positions), slots[0], keys[0], values[0], mask, causal
        )
        if parent_scores is None:
            hidden = hidden[-1:]
        logits = self.output(self.final_norm(hidden)).float()
        scores, indices = best_children(logits, self.beam)
        if parent_scores is not None:
            scores += parent_scores.unsqueeze(1)
        return hidden, logits, scores.flatten(), self.target_ids.index_select(0, indices.flatten())
