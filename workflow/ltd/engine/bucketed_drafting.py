"""Drafting with passes of few fixed shapes, as a GPU wants them; see `ltd.engine.bucketed_forward`.

A prefix pass is padded up to a bucket of rows, a beam pass always has W rows; each with the bookkeeping of
its level is one CUDA graph a bucket of context length.
"""

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ltd.draft_head.eagle3 import Eagle3Head
from ltd.engine.bucketed_forward import padded_mask
from ltd.engine.controllers import distribution_entropy
from ltd.engine.drafting import Drafter
from ltd.engine.fusion import has_kernels
from ltd.engine.graphs import Passes, bucket, context_buckets
from ltd.engine.target import DEFAULT_CONTEXT
from ltd.engine.tree import advance_beam, padded_tree_rows, pool_size

if TYPE_CHECKING:
    from ltd.engine.bucketed_verification import TreePasses

PREFIX_BUCKETS = (8, 16)  # fewer rows take as long: see `ltd.engine.graphs.row_buckets`


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
        self.kernels, self._advance_beam = None, advance_beam
        if has_kernels(self.device):
            from ltd.engine.gpu import drafting, network  # need Triton

            self.kernels = network.draft_pass(self._network)
            if beam <= network.MOST_ROWS:
                self._advance_beam = drafting.advance_beam
        self.passes, self.context_buckets = Passes(self.device), context_buckets(max_context)
        self.tree_passes: TreePasses | None = None  # with the target that verified last
        with torch.inference_mode():
            self._make_fixed_buffers()
            if self.passes.captures:
                self._capture()

    def _make_masks(self, scratch: int, nodes_seen: int) -> None:
        """What beam rows see of the nodes drafted so far: themselves, and rows of earlier levels that are
        their ancestors. A pass makes of it what it needs.
        """
        own = torch.eye(self.beam, dtype=torch.bool, device=self.device)
        self._fresh_sees = own.repeat(1, self.max_depth - 1)
        self._sees = self._fresh_sees.clone()

    def _make_fixed_buffers(self) -> None:
        rows, dtype = self.prefix_rows, self._pending_taps.dtype
        # What a prefix pass reads: tokens in the cache, which it brings up to date, deferred rows to take
        # and the first of them.
        self._length, self._count, self._first = torch.zeros(3, 1, dtype=torch.int64, device=self.device)
        self._alone = torch.eye(rows, dtype=torch.bool, device=self.device)
        self._causal = torch.ones(rows, rows, dtype=torch.bool, device=self.device).tril()
        width, vocabulary = self.head.config.hidden_size, self.head.config.draft_vocab_size
        self.hidden = torch.zeros(self.beam, width, dtype=dtype, device=self.device)
        self._logits = torch.zeros(vocabulary, dtype=torch.float32, device=self.device)
        self.state.entropy_of = self._entropy_of

    def _capture(self) -> None:
        """Meet every pass once, so that none is captured while time is taken."""
        for context in self.context_buckets:
            for rows in PREFIX_BUCKETS:
                self.passes.run(("prefix", rows, context), partial(self._prefix, rows, context))
            for level in range(1, self.max_depth):
                self.passes.run(("beam", level, context), partial(self._beam, level, context))
        self._entropy_of(self._logits)
        self.state.scores.fill_(float("-inf"))
        self.reset()

    def padded_tree(self, count: Tensor, rows: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The root and the best drafted nodes, together `count` [1], as the last of `rows` rows; see
        `ltd.engine.tree.padded_tree_rows`. Nothing here waits for their number.
        """
        layout, scores = self.layout, self._tree_scores
        tables = layout.levels, layout.parent_slots, self._paths, self._tree_tokens
        return padded_tree_rows(scores, count, rows, *tables)

    def deferred_rows(self, count: int) -> tuple[Tensor, Tensor]:
        """Where the first `count` deferred rows stand: taps [count, 3 * Ht] and tokens [count]."""
        return self._pending_taps.narrow(0, 0, count), self._pending_tokens.narrow(0, 0, count)

    def deferred(self, count: int) -> Tensor:
        """Know that `count` rows, and no others, were written to `deferred_rows`; the newest token [1]."""
        self.pending = count
        self._new_tree()
        return self._pending_tokens.narrow(0, count - 1, 1)

    def _entropy_of(self, logits: Tensor) -> Tensor:
        """In one launch; logits are always the newest pass's."""
        return self.passes.run("entropy", partial(distribution_entropy, self._logits))

    def _prefix_pass(self, first: int, count: int) -> None:
        """Over deferred rows `first` and following, which join the cache; level 1 is entered."""
        for scalar, value in ((self._length, self.length), (self._count, count), (self._first, first)):
            scalar.fill_(value)
        rows, context = bucket(count, PREFIX_BUCKETS), bucket(self.length, self.context_buckets)
        self.passes.run(("prefix", rows, context), partial(self._prefix, rows, context))
        self.length += count

    def _first_level(self) -> None:
        self._note_level()

    def _prefix(self, rows: int, context: int) -> None:
        place = torch.arange(rows, device=self.device) - rows + self._count  # below 0: padding
        source = (self._first + place).clamp(min=0)
        taps, tokens = (
            self._pending_taps.index_select(0, source),
            self._pending_tokens.index_select(0, source),
        )
        causal, alone = (table.narrow(0, 0, rows).narrow(1, 0, rows) for table in (self._causal, self._alone))
        sees = causal & (place >= 0) | alone
        positions, start = self._length + place.clamp(min=0), self.cache.scratch - rows
        children = self._run(taps, True, tokens, positions, start, context, sees, None)
        self.cache.keep_last(rows, self._length, self._count)
        self._length.add_(self._count)
        self._tree_tokens[:1].copy_(tokens[-1:])
        self._sees.copy_(self._fresh_sees)
        self._enter(1, *children)

    @torch.inference_mode()
    def _next_level(self, level: int) -> None:
        context = bucket(self.length, self.context_buckets)
        self.passes.run(("beam", level, context), partial(self._beam, level, context))
        self._note_level()

    def _beam(self, level: int, context: int) -> None:
        hidden = self.hidden if level > 1 else self.hidden.narrow(0, 0, 1)
        features, tokens, scores = self._advance_beam(
            self.state.scores, self.tokens, hidden, self._paths, self._sees, level
        )
        width = level * self.beam
        sees = self._sees.narrow(1, self._sees.shape[1] - width, width)
        positions = (self._length + level - 1).repeat(self.beam)
        start = self.cache.scratch - width
        children = self._run(features, False, tokens, positions, start, context, sees, scores)
        self._enter(level + 1, *children)

    def _run(
        self,
        features: Tensor,
        taps: bool,
        tokens: Tensor,
        positions: Tensor,
        start: int,
        context: int,
        sees: Tensor,
        parent_scores: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        cache, length = self.cache, self._length
        given = features, taps, tokens, positions, cache.slots(start, len(tokens))
        window = cache.window(start, cache.scratch + context)
        if self.kernels:
            return self.kernels(*given, *window, sees, length, parent_scores)
        mask = padded_mask(sees, length, context, cache.buffer.dtype)
        return self._network(*given, *window, mask, False, parent_scores)

    def _enter(self, level: int, hidden: Tensor, logits: Tensor, scores: Tensor, tokens: Tensor) -> None:
        """Write the children, which are `level`, into the buffers that the next pass reads."""
        first, count = pool_size(self.beam, level - 1), len(scores)
        self.state.scores.narrow(0, first, count).copy_(scores)
        self.tokens.narrow(0, first, count).copy_(tokens)
        self.hidden.narrow(0, 0, len(hidden)).copy_(hidden)
        self._logits.copy_(logits[0])

    def _note_level(self) -> None:
        state = self.state
        state.depth, state.context_length = state.depth + 1, self.length
        state.feature, state.draft_logits = self.hidden[0], self._logits
