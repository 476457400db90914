"""The lean forward with passes of few fixed shapes, as a GPU wants them.

Rows are padded up to a bucket and attention covers the cache up to a bucket of its length, so that a pass is
one of a few dozen CUDA graphs (`ltd.engine.graphs`). Real rows are the last of a pass: they stand in the
cache's scratch area exactly where they would stand without padding. Padding rows attend to themselves and to
the prefix, are attended to by none, and their results are dropped. Prefill stays as it is.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ltd.engine.graphs import Passes, bucket, context_buckets, row_buckets
from ltd.engine.lean_forward import LeanForward


class PaddedRows:
    """Fixed buffers of what a pass reads, for at most `rows` rows; the mask of a pass over the last of them.

    `tokens`, `places` (position of a row after the prefix) int64 [rows], `ancestors` bool [rows, rows];
    `length` int64 [1]: tokens in the cache; `count` int64 [1]: real rows.
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        self.rows = rows
        self.tokens = torch.zeros(rows, dtype=torch.int64, device=device)
        self.places = torch.zeros(rows, dtype=torch.int64, device=device)
        self.alone = torch.eye(rows, dtype=torch.bool, device=device)
        self.ancestors = self.alone.clone()
        self.length = torch.zeros(1, dtype=torch.int64, device=device)
        self.count = torch.zeros(1, dtype=torch.int64, device=device)

    def fill(self, tokens: Tensor, places: Tensor, ancestors: Tensor, length: int) -> None:
        """Enter real rows [R] behind a prefix of `length` tokens."""
        count = len(tokens)
        self.tokens.narrow(0, self.rows - count, count).copy_(tokens)
        self.places.zero_().narrow(0, self.rows - count, count).copy_(places)
        self.ancestors.copy_(self.alone)
        self.ancestors.narrow(0, self.rows - count, count).narrow(1, self.rows - count, count).copy_(
            ancestors
        )
        self.length.fill_(length)
        self.count.fill_(count)

    def last(self, rows: int) -> tuple[Tensor, Tensor]:
        """Tokens and positions [rows] of the last rows."""
        start = self.rows - rows
        return self.tokens.narrow(0, start, rows), self.places.narrow(0, start, rows) + self.length

    def mask(self, rows: int, context: int, dtype: torch.dtype) -> Tensor:
        """What is added to the attention scores of the last rows: [rows, rows + context], the cache behind
        the rows.
        """
        start = self.rows - rows
        own = self.ancestors.narrow(0, start, rows).narrow(1, start, rows)
        cached = torch.arange(context, device=own.device) < self.length
        sees = torch.cat([own, cached.expand(rows, context)], dim=1)
        return torch.zeros(sees.shape, dtype=dtype, device=own.device).masked_fill_(~sees, float("-inf"))


class BucketedForward(LeanForward):
    """Same interface and results as `LeanForward`; what a pass returns is overwritten by the next one."""

    def __init__(
        self, model: nn.Module, tap_layers: Sequence[int], *, max_context: int, max_tree: int
    ) -> None:
        super().__init__(model, tap_layers, max_context=max_context, max_tree=max_tree)
        self.passes = Passes(model.device)
        self.rows = PaddedRows(max_tree + 1, model.device)
        self.row_buckets, self.context_buckets = row_buckets(max_tree + 1), context_buckets(max_context)
        self._one = torch.ones(1, 1, dtype=torch.bool, device=model.device)
        # All passes leave their results here: one copy in memory, however many graphs there are.
        self._logits = torch.zeros(max_tree + 1, *model.lm_head.weight.shape[:1]).to(self.mask)
        width = len(self.network.tap_layers) * model.config.hidden_size
        self._taps = torch.zeros(max_tree + 1, width).to(self.mask)
        if self.passes.captures:
            self._capture()

    def _capture(self) -> None:
        """Meet every pass once, so that none is captured while time is taken."""
        for context in self.context_buckets:
            self.passes.run(("step", context), partial(self._step, context))
            for rows in self.row_buckets:
                self.passes.run(("tree", rows, context), partial(self._pass, rows, context))

    def append(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """As `LeanForward.append`; a single token behind others is one captured pass."""
        length = self.cache.length
        if len(tokens) > 1 or length == 0:
            return super().append(tokens)
        self.rows.fill(tokens, self.positions[:1], self._one, length)
        context = bucket(length, self.context_buckets)
        logits, taps = self.passes.run(("step", context), partial(self._step, context))
        self.cache.length += 1
        return logits[0], taps

    def verify(self, tokens: Tensor, depths: Tensor, ancestors: Tensor) -> tuple[Tensor, Tensor]:
        """As `LeanForward.verify`, its rows padded up to a bucket."""
        count, length = len(tokens), self.cache.length
        self.rows.fill(tokens, depths, ancestors, length)
        rows, context = bucket(count, self.row_buckets), bucket(length, self.context_buckets)
        logits, taps = self.passes.run(("tree", rows, context), partial(self._pass, rows, context))
        return logits[rows - count :], taps[rows - count :]

    def _step(self, context: int) -> tuple[Tensor, Tensor]:
        result = self._pass(1, context)
        self.cache.keep_last(1, self.rows.length, self.rows.count)
        return result

    def _pass(self, rows: int, context: int) -> tuple[Tensor, Tensor]:
        tokens, positions = self.rows.last(rows)
        start = self.cache.scratch - rows
        keys, values = self.cache.window(start, self.cache.scratch + context)
        mask = self.rows.mask(rows, context, self.mask.dtype)
        slots = self.cache.slots(start, rows)
        passed = self.network(tokens, positions, slots, keys, values, mask, False, False)
        results = self._logits.narrow(0, 0, rows), self._taps.narrow(0, 0, rows)
        for buffer, result in zip(results, passed, strict=True):
            buffer.copy_(result)
        return results
