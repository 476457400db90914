"""Drafting with passes of few fixed shapes, as a GPU wants them; see `ltd.engine.bucketed_forward`.

A prefix pass is padded up to a bucket of rows, a beam pass always has W rows; each with the bookkeeping of
its level is one CUDA graph a bucket of context length.
"""

from functools import partial

import torch
from torch import Tensor

from ltd.draft_head.eagle3 import Eagle3Head
from ltd.engine.bucketed_forward import PaddedRows
from ltd.engine.drafting import Drafter
from ltd.engine.graphs import Passes, bucket, context_buckets
from ltd.engine.target import DEFAULT_CONTEXT
from ltd.engine.tree import advance_beam, level_start

PREFIX_BUCKETS = (1, 2, 4, 8, 16)


class BucketedDrafter(Drafter):
    """Same interface and results as `Drafter`."""

    prefix_rows = PREFIX_BUCKETS[-1]

    def __init__(
        self,
        head: Eagle3Head,
        *,
        beam: int = 10,
        max_depth: int = 12,
        max_context: int = DEFAULT_CONTEXT,
    ) -> None:
        super().__init__(head, beam=beam, max_depth=max_depth, max_context=max_context)
        self.passes, self.context_buckets = Passes(self.device), context_buckets(max_context)
        with torch.inference_mode():
            self._make_fixed_buffers()
            if self.passes.captures:
                self._capture()

    def _make_fixed_buffers(self) -> None:
        rows, dtype = self.prefix_rows, self._pending_taps.dtype
        self.rows = PaddedRows(rows, self.device)
        self._causal = torch.ones(rows, rows, dtype=torch.bool, device=self.device).tril()
        self._taps = torch.zeros(rows, self._pending_taps.shape[1], dtype=dtype, device=self.device)
        width, vocabulary = self.head.config.hidden_size, self.head.config.draft_vocab_size
        self.hidden = torch.zeros(self.beam, width, dtype=dtype, device=self.device)
        self._logits = torch.zeros(vocabulary, device=self.device)

    def _capture(self) -> None:
        """Meet every pass once, so that none is captured while time is taken."""
        for context in self.context_buckets:
            for rows in PREFIX_BUCKETS:
                self.passes.run(("prefix", rows, context), partial(self._prefix, rows, context))
            for level in range(1, self.max_depth):
                self.passes.run(("beam", level, context), partial(self._beam, level, context))
        self.state.scores.fill_(float("-inf"))
        self.reset()

    def _prefix_pass(self, first: int, count: int) -> None:
        """Over deferred rows `first` and following, which join the cache; level 1 is entered."""
        taps = self._pending_taps.narrow(0, first, count)
        self._taps.narrow(0, self.prefix_rows - count, count).copy_(taps)
        length = self.length
        self.rows.fill(
            self._pending_tokens.narrow(0, first, count),
            self.positions.narrow(0, 0, count),
            self._causal.narrow(0, 0, count).narrow(1, 0, count),
            length,
        )
        rows, context = bucket(count, PREFIX_BUCKETS), bucket(length, self.context_buckets)
        self.passes.run(("prefix", rows, context), partial(self._prefix, rows, context))
        self.length += count

    def _first_level(self) -> None:
        self._note_level()

    def _prefix(self, rows: int, context: int) -> None:
        tokens, positions = self.rows.last(rows)
        taps = self._taps.narrow(0, self.prefix_rows - rows, rows)
        start = self.cache.scratch - rows
        mask = self.rows.mask(rows, context, taps.dtype)
        children = self._run(taps, True, tokens, positions, start, context, mask, None)
        self.cache.keep_last(rows, self.rows.length, self.rows.count)
        self._tree_mask.copy_(self._fresh_mask)
        self._enter(1, *children)

    @torch.inference_mode()
    def _next_level(self, level: int) -> None:
        self.rows.length.fill_(self.length)
        context = bucket(self.length, self.context_buckets)
        self.passes.run(("beam", level, context), partial(self._beam, level, context))
        self._note_level()

    def _beam(self, level: int, context: int) -> None:
        hidden = self.hidden if level > 1 else self.hidden.narrow(0, 0, 1)
        features, tokens, scores = advance_beam(
            self.state.scores, self.tokens, hidden, self._paths, self._tree_mask, level
        )
        width, length = level * self.beam, self.rows.length
        own = self._tree_mask.narrow(1, self._tree_mask.shape[1] - width, width)
        cached = torch.arange(context, device=self.device) < length
        prefix = torch.zeros(context, dtype=own.dtype, device=self.device).masked_fill_(
            ~cached, float("-inf")
        )
        mask = torch.cat([own, prefix.expand(self.beam, context)], dim=1)
        positions = (length + level - 1).expand(self.beam)
        start = self.cache.scratch - width
        children = self._run(features, False, tokens, positions, start, context, mask, scores)
        self._enter(level + 1, *children)

    def _run(
        self,
        features: Tensor,
        taps: bool,
        tokens: Tensor,
        positions: Tensor,
        start: int,
        context: int,
        mask: Tensor,
        parent_scores: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        cache = self.cache
        keys, values = cache.window(start, cache.scratch + context)
        slots = cache.slots(start, len(tokens))
        return self._network(
            features, taps, tokens, positions, slots, keys, values, mask, False, parent_scores
        )

    def _enter(self, level: int, hidden: Tensor, logits: Tensor, scores: Tensor, tokens: Tensor) -> None:
        """Write the children, which are `level`, into the buffers that the next pass reads."""
        first, count = level_start(self.beam, level), len(scores)
        self.state.scores.narrow(0, first, count).copy_(scores)
        self.tokens.narrow(0, first, count).copy_(tokens)
        self.hidden.narrow(0, 0, len(hidden)).copy_(hidden)
        self._logits.copy_(logits[0])

    def _note_level(self) -> None:
        state = self.state
        state.depth, state.context_length = state.depth + 1, self.length
        state.feature, state.draft_logits = self.hidden[0], self._logits
