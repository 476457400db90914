"""The Eagle3 head as a lean network: one pass over rows and the best children of every row.

Computes what `ltd.draft_head.eagle3.Eagle3Head` computes, with the parts of `ltd.engine.lean_layers`.
"""

import torch
from torch import Tensor, nn

from ltd.draft_head.eagle3 import Eagle3Head, rotary_of
from ltd.engine.lean_layers import FusedLinear, HeadRotation, LeanLayer, RowNorm
from ltd.engine.tree import best_children


class DraftNetwork(nn.Module):
    """Keeps no state; `positions` [n] are all that rows may stand at, `beam` the children of a row."""

    def __init__(self, head: Eagle3Head, positions: Tensor, beam: int) -> None:
        super().__init__()
        config, layer = head.config, head.midlayer
        eps = config.rms_norm_eps
        self.beam = beam
        self.embedding = head.embed_tokens.weight.detach()
        # Embeddings and features are normalised in one go, each with its own weight.
        both = torch.stack([layer.input_layernorm.weight, layer.hidden_norm.weight])
        self.input_norm = RowNorm(both, eps)
        mlp_norm = RowNorm(layer.post_attention_layernorm.weight, eps)
        self.layer = LeanLayer(layer.self_attn, layer.mlp, mlp_norm)
        self.final_norm = RowNorm(head.norm.weight, eps)
        self.fuse = nn.Sequential(_feature_norm(head), FusedLinear(head.fc))
        self.norm_before_residual, self.norm_output = config.norm_before_residual, config.norm_output
        self.output = FusedLinear(head.lm_head)
        draft_ids = torch.arange(config.draft_vocab_size, device=self.embedding.device)
        self.target_ids = head.to_target(draft_ids)
        cos, sin = rotary_of(config, positions)
        self.rotation = HeadRotation(cos, sin, self.layer.query_heads, self.layer.kv_heads)

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
        inputs = self.enter(features, tokens)
        if self.norm_before_residual:
            features = inputs[:, 1]
        hidden, update = self.layer(
            inputs.view(rows, -1),
            features,
            self.rotation(positions),
            slots[0],
            keys[0],
            values[0],
            mask,
            causal,
        )
        if parent_scores is None:
            hidden, update = hidden[-1:], update[-1:]
        hidden, normed = self.final_norm.add(hidden, update)
        if self.norm_output:
            hidden = normed
        logits = self.output(normed).float()
        scores, indices = best_children(logits, self.beam)
        if parent_scores is not None:
            scores += parent_scores.unsqueeze(1)
        return hidden, logits, scores.flatten(), self.target_ids.index_select(0, indices.flatten())

    def enter(self, features: Tensor, tokens: Tensor) -> Tensor:
        """What the layer reads, [R, 2, H]: embeddings of tokens [R] and features [R, H], both normalised."""
        return self.input_norm(torch.stack([self.embedding.index_select(0, tokens), features], dim=1))


class FeatureNorm(nn.Module):
    """Norms before `fc`: one over all taps [R, 3 * Ht], or one over each."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        """weight [parts, size] with parts * size = 3 * Ht."""
        super().__init__()
        self.parts, self.size = weight.shape
        self.norm = RowNorm(weight, eps)

    def forward(self, taps: Tensor) -> Tensor:
        return self.norm(taps.view(-1, self.parts, self.size)).view(taps.shape)


def _feature_norm(head: Eagle3Head) -> nn.Module:
    eps = head.config.rms_norm_eps
    if head.config.feature_norm == "together":
        return FeatureNorm(head.input_norm.weight[None], eps)
    if head.config.feature_norm == "each":
        return FeatureNorm(torch.stack([norm.weight for norm in head.fc_norm]), eps)
    return nn.Identity()
