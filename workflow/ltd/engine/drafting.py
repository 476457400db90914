"""Drafting with an Eagle3 head: a prefix pass over new true features, then one pass per level over a beam.

The head's cache holds one row per token of the context but the newest, computed from true target features;
rows of drafted nodes live in the scratch area and are forgotten with the tree (EAGLE-2 and EAGLE-3; see
`ltd.draft_head.eagle3` for how features, tokens and positions line up). Cumulative log-probabilities are
float32; ties go to the lower pool index.
"""

import torch
from torch import Tensor

from ltd.draft_head.eagle3 import Eagle3Head
from ltd.engine.controllers import DraftState
from ltd.engine.draft_network import DraftNetwork
from ltd.engine.kv_cache import KeyValueCache
from ltd.engine.target import DEFAULT_CONTEXT
from ltd.engine.tree import DraftTree, TreeLayout, advance_beam, pool_size, root_paths, tree_rows
from ltd.errors import InputError

MOST_PREFIX_ROWS = 64


class Drafter:
    """Drafts one tree at a time for one sequence of at most `max_context` tokens.

    `state` (a `DraftState`) shows the tree so far; `vocab_size` is the target's. Raises InputError for a beam
    or depth below 1, and for a beam wider than the draft vocabulary.
    """

    drafts_in_one_call = False  # see `ltd.engine.draft_loop`
    prefix_rows = MOST_PREFIX_ROWS  # rows of a prefix pass at most

    def __init__(
        self,
        head: Eagle3Head,
        *,
        beam: int = 10,
        max_depth: int = 12,
        max_context: int = DEFAULT_CONTEXT,
    ) -> None:
        if not 1 <= beam <= head.config.draft_vocab_size or max_depth < 1:
            raise InputError(
                f"beam {beam}, max_depth {max_depth}: expected 1 <= beam <= {head.config.draft_vocab_size} "
                "(the draft vocabulary) and max_depth of at least 1"
            )
        self.head, self.beam, self.max_depth, self.max_context = head, beam, max_depth, max_context
        self.vocab_size = head.config.vocab_size
        self.device = head.embed_tokens.weight.device
        with torch.inference_mode():
            self._make_pool()
            self._make_passes()
        self.reset()

    def _make_pool(self) -> None:
        """What is drafted, and what waits for the next prefix pass."""
        depth, context, weight = self.max_depth, self.max_context, self.head.embed_tokens.weight
        # The root stands before the pool, and no node scores as high.
        nodes = 1 + pool_size(self.beam, depth)
        self._tree_tokens = torch.zeros(nodes, dtype=torch.int64, device=self.device)
        self._tree_scores = torch.full((nodes,), float("inf"), dtype=torch.float32, device=self.device)
        self.tokens, scores = self._tree_tokens[1:], self._tree_scores[1:]
        width = 3 * self.head.config.target_hidden_size
        # An accepted path may be longer than what the answer has room for.
        rows = context + depth
        self._pending_taps = torch.zeros(rows, width, dtype=weight.dtype, device=self.device)
        self._pending_tokens = torch.zeros(rows, dtype=torch.int64, device=self.device)
        self.state = DraftState(max_depth=depth, beam=self.beam, scores=scores.fill_(float("-inf")))

    def _make_passes(self) -> None:
        """The network, its cache, and the masks of its passes."""
        beam, depth, context, device = self.beam, self.max_depth, self.max_context, self.device
        self.positions = torch.arange(context + depth, device=device)
        self._network = DraftNetwork(self.head, self.positions, beam)
        dtype, layer, nodes_seen = self._network.embedding.dtype, self._network.layer, beam * (depth - 1)
        scratch = max(nodes_seen, self.prefix_rows)
        self.cache = KeyValueCache(
            1,
            layer.kv_heads,
            layer.head_dim,
            capacity=context,
            scratch=scratch,
            groups=layer.groups,
            dtype=dtype,
            device=device,
        )
        self._make_masks(scratch, nodes_seen)
        self.layout = TreeLayout(beam, depth, device)
        self._paths = root_paths(beam, depth, device)

    def _make_masks(self, scratch: int, nodes_seen: int) -> None:
        """What rows see, as numbers that are added to the scores of attention."""
        beam, context, device, dtype = self.beam, self.max_context, self.device, self.cache.buffer.dtype
        # Any causal mask of a few rows behind a prefix is a window of this one.
        band = torch.full(
            (MOST_PREFIX_ROWS, context + MOST_PREFIX_ROWS), float("-inf"), dtype=dtype, device=device
        )
        self._causal_band = band.triu_(context + 1)
        # Beam rows see the whole prefix, themselves, and those rows of earlier levels that are their
        # ancestors.
        own = torch.full((beam, beam), float("-inf"), dtype=dtype, device=device).fill_diagonal_(0.0)
        self._fresh_mask = own.repeat(1, self.max_depth - 1)
        self._mask = torch.zeros(beam, scratch + context, dtype=dtype, device=device)
        self._tree_mask = self._mask.narrow(1, scratch - nodes_seen, nodes_seen)

    @torch.inference_mode()
    def reset(self) -> None:
        """Start an empty sequence."""
        self.length = self.pending = 0
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
            self._pass(taps[:-1], True, tokens[1:], self.positions[:rows], start, start, None, None)
            self.length = rows
        self._new_tree()

    @torch.inference_mode()
    def defer(self, taps: Tensor, tokens: Tensor, rows: Tensor | None = None) -> None:
        """Rows for the next prefix pass: taps [m, 3 * Ht] of positions j, tokens [m] of positions j + 1.

        `rows` [m] picks the taps out of more of them.
        """
        count = len(tokens)
        taps = taps if rows is None else taps.index_select(0, rows)
        self._pending_taps.narrow(0, self.pending, count).copy_(taps)
        self._pending_tokens.narrow(0, self.pending, count).copy_(tokens)
        self.pending += count
        self._new_tree()

    @torch.inference_mode()
    def extend(self, taps: Tensor | None = None, tokens: Tensor | None = None) -> None:
        """Prefix pass over all deferred rows (and these, if given): drafts level 1 of the next tree."""
        if taps is not None:
            self.defer(taps, tokens)
        for first in range(0, self.pending, self.prefix_rows):
            self._prefix_pass(first, min(self.prefix_rows, self.pending - first))
        self.pending = 0
        self._first_level()

    def expand(self) -> None:
        """Draft the next level from the best W nodes of the newest one."""
        self._next_level(self.state.depth)

    def _prefix_pass(self, first: int, rows: int) -> None:
        """Over deferred rows `first` and following, which join the cache; the last is the tree's root."""
        length, start, mask = self.length, self.cache.scratch, None
        if rows > 1:
            mask = self._causal_band.narrow(0, 0, rows).narrow(1, self.max_context - length, length + rows)
        taps = self._pending_taps.narrow(0, first, rows)
        tokens = self._pending_tokens.narrow(0, first, rows)
        self._tree_tokens[:1].copy_(tokens[-1:])
        positions = self.positions.narrow(0, length, rows)
        self._children = self._pass(taps, True, tokens, positions, start + length, start, mask, None)
        self.length += rows

    def _first_level(self) -> None:
        self._tree_mask.copy_(self._fresh_mask)
        self._add_level(*self._children)

    @torch.inference_mode()
    def _next_level(self, level: int) -> None:
        state, scratch = self.state, self.cache.scratch
        features, tokens, scores = advance_beam(
            state.scores, self.tokens, self.hidden, self._paths, self._tree_mask, level
        )
        start = scratch - level * self.beam
        mask = self._mask.narrow(1, start, scratch - start + self.length)
        # All nodes of a level stand at the same position: the first after the prefix rows for level 1.
        positions = self.positions.narrow(0, self.length + level - 1, 1).expand(self.beam)
        self._add_level(*self._pass(features, False, tokens, positions, start, start, mask, scores))

    @torch.inference_mode()
    def select(self, size: int) -> DraftTree:
        """Tree of the best `size` drafted nodes (all, if there are fewer) under the newest token."""
        layout, scores = self.layout, self._tree_scores.narrow(0, 0, 1 + self.state.pool)
        rows = tree_rows(scores, size, layout.levels, layout.parent_slots, self._paths, self._tree_tokens)
        return DraftTree(*rows)

    def _new_tree(self) -> None:
        state = self.state
        if state.depth:
            state.scores.fill_(float("-inf"))
        state.clear()
        state.context_length = self.length + self.pending

    def _pass(
        self,
        features: Tensor,
        taps: bool,
        tokens: Tensor,
        positions: Tensor,
        start: int,
        window: int,
        mask: Tensor | None,
        parent_scores: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Run the network over rows at cache slots from `start` that read the slots from `window` on."""
        rows, cache = len(tokens), self.cache
        keys, values = cache.window(window, max(start + rows, cache.scratch + self.length))
        slots, causal = cache.slots(start, rows), mask is None and rows > 1
        return self._network(
            features, taps, tokens, positions, slots, keys, values, mask, causal, parent_scores
        )

    def _add_level(self, hidden: Tensor, logits: Tensor, scores: Tensor, tokens: Tensor) -> None:
        """Enter the children of the newest pass in the pool; see `DraftNetwork.forward` for the arguments."""
        state, count = self.state, len(scores)
        first = state.pool
        state.scores.narrow(0, first, count).copy_(scores)
        self.tokens.narrow(0, first, count).copy_(tokens)
        self.hidden, state.depth = hidden, state.depth + 1
        state.feature, state.draft_logits = hidden[0], logits[0]
        state.context_length = self.length
