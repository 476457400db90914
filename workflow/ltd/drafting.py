"""Drafting with an Eagle3 head: a prefix pass over new true features, then one pass per level over a beam.

The head's cache holds one row per token of the context but the newest, computed from true target features;
rows of drafted nodes live in the scratch area and are forgotten with the tree (EAGLE-2 and EAGLE-3; see
`ltd.eagle3` for how features, tokens and positions line up). Cumulative log-probabilities are float32; ties
go to the lower pool index.
"""

import torch
from torch import Tensor

from ltd.controllers import DraftState
from ltd.eagle3 import Eagle3Head, rotary
from ltd.errors import InputError
from ltd.kv_cache import KeyValueCache
from ltd.lean_forward import HeadRotation, LeanLayer, rms_norm_function
from ltd.packed_linear import fused_linear
from ltd.target import DEFAULT_CONTEXT
from ltd.tree import DraftTree, PoolLayout, build_tree, level_start, pool_size, top_nodes

PREFIX_ROWS = 64


class Drafter:
    """Drafts one tree at a time for one sequence of at most `max_context` tokens.

    `state` (a `DraftState`) shows the tree so far. Raises InputError when the beam is wider than the draft
    vocabulary.
    """

    def __init__(
        self,
        head: Eagle3Head,
        *,
        beam: int = 10,
        max_depth: int = 12,
        max_context: int = DEFAULT_CONTEXT,
        packed: bool = True,
    ) -> None:
        config, layer = head.config, head.midlayer
        if not 1 <= beam <= config.draft_vocab_size or max_depth < 1:
            raise InputError(
                f"beam {beam}, max_depth {max_depth}: expected 1 <= beam <= {config.draft_vocab_size} "
                "(the draft vocabulary) and max_depth of at least 1"
            )
        self.head, self.beam, self.max_depth, self.max_context = head, beam, max_depth, max_context
        with torch.inference_mode():
            self._prepare_layers(layer, packed)
            self._prepare_buffers()
        self.reset()

    def _prepare_layers(self, layer, packed: bool) -> None:
        config, weight = self.head.config, self.head.embed_tokens.weight.detach()
        self.device, self.embedding = weight.device, weight
        both = torch.stack([layer.input_layernorm.weight.detach(), layer.hidden_norm.weight.detach()])
        self.input_norm = rms_norm_function(both, config.rms_norm_eps)
        mlp_norm = rms_norm_function(layer.post_attention_layernorm.weight.detach(), config.rms_norm_eps)
        self.layer = LeanLayer(layer.self_attn, layer.mlp, mlp_norm, packed)
        self.final_norm = rms_norm_function(self.head.norm.weight.detach(), config.rms_norm_eps)
        self.fuse = fused_linear([self.head.fc], packed)
        self.output = fused_linear([self.head.lm_head], packed)
        self.target_ids = self.head.to_target(torch.arange(config.draft_vocab_size, device=self.device))

    def _prepare_buffers(self) -> None:
        config, beam, depth, context = self.head.config, self.beam, self.max_depth, self.max_context
        device, dtype, layer = self.device, self.embedding.dtype, self.layer
        scratch = beam * (depth - 1)
        self.cache = KeyValueCache(
            1, layer.kv_heads, layer.head_dim, capacity=context, scratch=scratch, groups=layer.groups,
            dtype=dtype, device=device,
        )  # fmt: skip
        self.positions = torch.arange(context + depth, device=device)
        cos, sin = rotary(self.positions, config.head_dim, config.rope_theta)
        self.rotation = HeadRotation(cos, sin, layer.query_heads + layer.kv_heads, layer.kv_heads)
        # Any causal mask of a few rows behind a prefix is a window of this one.
        band = torch.full((PREFIX_ROWS, context + PREFIX_ROWS), float("-inf"), dtype=dtype, device=device)
        self.causal_band = band.triu_(context + 1)
        # Beam rows see the whole prefix, themselves, and those rows of earlier levels that are their
        # ancestors.
        own = torch.full((beam, beam), float("-inf"), dtype=dtype, device=device).fill_diagonal_(0.0)
        self.fresh_tree_mask = own.repeat(1, depth - 1)
        self.tree_mask = torch.zeros(beam, scratch + context, dtype=dtype, device=device)
        self.layout = PoolLayout(beam, depth, device)
        self.pool_indices = torch.arange(pool_size(beam, depth), device=device)
        self.tokens = torch.zeros(pool_size(beam, depth), dtype=torch.int64, device=device)
        self.paths = torch.full((depth * beam, depth), -1, dtype=torch.int64, device=device)
        self.pending_taps = torch.zeros(context, 3 * config.target_hidden_size, dtype=dtype, device=device)
        self.pending_tokens = torch.zeros(context, dtype=torch.int64, device=device)
        scores = torch.full((pool_size(beam, depth),), float("-inf"), device=device)
        self.state = DraftState(max_depth=depth, beam=beam, scores=scores)

    @torch.inference_mode()
    def reset(self) -> None:
        """Start an empty sequence."""
        self.cache.reset()
        self.pending = 0
        self._new_tree()

    @torch.inference_mode()
    def prefill(self, taps: Tensor, tokens: Tensor) -> None:
        """Start a sequence: taps [n, 3 * Ht] of the whole prompt, tokens [n] of the prompt.

        The row of the last tap waits for the token that the target chooses next (see `defer`).
        """
        self.reset()
        rows = len(tokens) - 1
        if rows:
            start = self.cache.scratch
            self._pass(self.fuse(taps[:-1]), tokens[1:], self.positions[:rows], start, start, None)
            self.cache.length = rows

    @torch.inference_mode()
    def defer(self, taps: Tensor, tokens: Tensor) -> None:
        """Rows for the next prefix pass: taps [m, 3 * Ht] of positions j, tokens [m] of positions j + 1."""
        count = len(tokens)
        self.pending_taps.narrow(0, self.pending, count).copy_(taps)
        self.pending_tokens.narrow(0, self.pending, count).copy_(tokens)
        self.pending += count
        self._new_tree()

    @torch.inference_mode()
    def extend(self, taps: Tensor | None = None, tokens: Tensor | None = None) -> None:
        """Prefix pass over all deferred rows (and these, if given): drafts level 1 of the next tree."""
        if taps is not None:
            self.defer(taps, tokens)
        features = self.fuse(self.pending_taps.narrow(0, 0, self.pending))
        for first in range(0, self.pending, PREFIX_ROWS):
            rows = min(PREFIX_ROWS, self.pending - first)
            hidden = self._extend_rows(
                features.narrow(0, first, rows), self.pending_tokens.narrow(0, first, rows)
            )
        self.root = self.pending_tokens.narrow(0, self.pending - 1, 1).clone()
        self.pending = 0
        self._add_level(hidden[-1:], None)

    def _extend_rows(self, features: Tensor, tokens: Tensor) -> Tensor:
        rows, length, start = len(tokens), self.cache.length, self.cache.scratch
        mask = None
        if rows > 1:
            mask = self.causal_band.narrow(0, 0, rows).narrow(1, self.max_context - length, length + rows)
        positions = self.positions.narrow(0, length, rows)
        hidden = self._pass(features, tokens, positions, start + length, start, mask)
        self.cache.length += rows
        return hidden

    @torch.inference_mode()
    def expand(self) -> None:
        """Draft the next level from the best W nodes of the newest one."""
        level, beam, scratch = self.state.depth, self.beam, self.cache.scratch
        first = level_start(beam, level)
        if level == 1:
            ranks, nodes = self.pool_indices[:beam], self.pool_indices[:beam]
        else:
            best = top_nodes(self.state.scores.narrow(0, first, beam * beam), beam)
            ranks, nodes = best // beam, best + first
        paths = self.paths.narrow(0, level * beam, beam)
        torch.index_select(self.paths.narrow(0, (level - 1) * beam, beam), 0, ranks, out=paths)
        paths[:, level - 1] = nodes
        start = scratch - level * beam
        if level > 1:
            earlier = self.tree_mask.narrow(1, start + beam, scratch - start - beam)
            earlier.copy_(earlier.index_select(0, ranks))
        mask = self.tree_mask.narrow(1, start, scratch - start + self.cache.length)
        # All nodes of a level stand at the same position: the first after the prefix rows for level 1.
        positions = self.positions.narrow(0, self.cache.length + level - 1, 1).expand(beam)
        features = self.hidden.index_select(0, ranks) if level > 1 else self.hidden.expand(beam, -1)
        hidden = self._pass(features, self.tokens.index_select(0, nodes), positions, start, start, mask)
        self._add_level(hidden, self.state.scores.index_select(0, nodes))

    @torch.inference_mode()
    def select(self, size: int) -> DraftTree:
        """Tree of the best `size` drafted nodes (all, if there are fewer) under the newest token."""
        scores = self.state.scores.narrow(0, 0, self.state.pool)
        nodes = top_nodes(scores, size).sort().values
        return build_tree(nodes, self.layout, self.paths, self.tokens, self.root)

    def _new_tree(self) -> None:
        state = self.state
        if state.depth:
            state.scores.fill_(float("-inf"))
        state.depth, state.feature, state.draft_logits = 0, None, None
        state.context_length = self.cache.length + self.pending

    def _pass(
        self,
        features: Tensor,
        tokens: Tensor,
        positions: Tensor,
        start: int,
        window: int,
        mask: Tensor | None,
    ) -> Tensor:
        """Residual stream [R, H] of rows at cache slots from `start` that read the slots from `window` on."""
        rows, cache = len(tokens), self.cache
        stop = max(start + rows, cache.scratch + cache.length)
        keys, values = cache.window(window, stop)
        inputs = torch.stack([self.embedding.index_select(0, tokens), features], dim=1)
        inputs = self.input_norm(inputs).view(rows, -1)
        causal = mask is None and rows > 1
        rotation, slots = self.rotation.at(positions), cache.slots(start, rows)
        return self.layer(inputs, features, rotation, slots[0], keys[0], values[0], mask, causal)

    def _add_level(self, hidden: Tensor, parent_scores: Tensor | None) -> None:
        """Add the W best children of every row to the pool: hidden [rows, H], parent_scores [rows] (None:
        zero).
        """
        state, beam = self.state, self.beam
        logits = self.output(self.final_norm(hidden)).float()
        best = logits.topk(beam, dim=-1)
        scores = best.values - logits.logsumexp(dim=-1, keepdim=True)
        if parent_scores is not None:
            scores += parent_scores[:, None]
        if not state.depth:
            self.tree_mask.narrow(1, 0, self.cache.scratch).copy_(self.fresh_tree_mask)
        first, count = pool_size(beam, state.depth), scores.numel()
        state.scores.narrow(0, first, count).copy_(scores.view(-1))
        torch.index_select(self.target_ids, 0, best.indices.view(-1), out=self.tokens.narrow(0, first, count))
        self.hidden, state.depth = hidden, state.depth + 1
        state.feature, state.draft_logits = hidden[0], logits[0]
        state.context_length = self.cache.length
