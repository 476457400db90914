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

from ltd.engine.fusion import fused, has_kernels
from ltd.engine.graphs import Passes, bucket, context_buckets, row_buckets
from ltd.engine.lean_forward import LeanForward


class PaddedRows:
    """Fixed buffers of what a pass reads, for at most `rows` rows; a pass over fewer reads the last of them.

    `tokens`, `places` (position of a row after the prefix) int64 [rows], `ancestors` bool [rows, rows];
    `length` int64 [1]: tokens in the cache.
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        self.rows = rows
        self.tokens = torch.zeros(rows, dtype=torch.int64, device=device)
        self.places = torch.zeros(rows, dtype=torch.int64, device=device)
        self.alone = torch.eye(rows, dtype=torch.bool, device=device)
        self.ancestors = self.alone.clone()
        self.length = torch.zeros(1, dtype=torch.int64, device=device)

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

    def last(self, rows: int) -> tuple[Tensor, Tensor]:
        """Tokens and positions [rows] of the last rows."""
        return self.tokens.narrow(0, self.rows - rows, rows), self.depths(rows) + self.length

    def depths(self, rows: int) -> Tensor:
        """Places [rows] of the last rows, which are the depths of a tree's."""
        return self.places.narrow(0, self.rows - rows, rows)

    def enter(self, tokens: Tensor, places: Tensor, ancestors: Tensor) -> None:
        """Enter last rows [R], padding among them, from within a pass."""
        rows = len(tokens)
        self.tokens.narrow(0, self.rows - rows, rows).copy_(tokens)
        self.depths(rows).copy_(places)
        self.among(rows).copy_(ancestors)

    def separate(self, rows: int) -> None:
        """Make the last rows independent of each other, all at the first place after the prefix."""
        self.depths(rows).zero_()
        self.among(rows).copy_(self.alone.narrow(0, 0, rows).narrow(1, 0, rows))

    def among(self, rows: int) -> Tensor:
        """The part of `ancestors` [rows, rows] that is about the last rows."""
        start = self.rows - rows
        return self.ancestors.narrow(0, start, rows).narrow(1, start, rows)


@fused
def padded_mask(own: Tensor, length: Tensor, context: int, dtype: torch.dtype) -> Tensor:
    """What is added to the attention scores of rows that see `own` bool [R, n] of the slots of a tree and,
    behind these in the cache, `length` [1] of `context` tokens: [R, n + context].
    """
    rows = len(own)
    cached = torch.arange(context, device=own.device) < length
    sees = torch.cat([own, cached.expand(rows, context)], dim=1)
    return torch.zeros(sees.shape, dtype=dtype, device=own.device).masked_fill_(~sees, float("-inf"))


class BucketedForward(LeanForward):
    """Same interface and results as `LeanForward`; what a pass returns is overwritten by the next one."""

    def __init__(
        self, model: nn.Module, tap_layers: Sequence[int], *, max_context: int, max_tree: int
    ) -> None:
        super().__init__(model, tap_layers, max_context=max_context, max_tree=max_tree)
        self.passes, self.kernels = Passes(model.device), None
        if has_kernels(model.device):
            from ltd.engine.gpu.network import target_pass  # needs Triton

            self.kernels = target_pass(self.network)
        self.padded = PaddedRows(max_tree + 1, model.device)
        self.row_buckets, self.context_buckets = row_buckets(max_tree + 1), context_buckets(max_context)
        self._one = torch.ones(1, dtype=torch.int64, device=model.device)
        # All passes leave their results here: one copy in memory, however many graphs there are.
        held = {"dtype": self.cache.buffer.dtype, "device": model.device}
        self.logits = torch.zeros(max_tree + 1, len(model.lm_head.weight), **held)
        width = len(self.network.tap_layers) * model.config.hidden_size
        self.taps = torch.zeros(max_tree + 1, width, **held)
        if self.passes.captures:
            self._capture()

    def _make_mask(self, rows: int, context: int) -> None:
        """None that stays: a pass makes its own (see `padded_mask`)."""

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
        self.padded.tokens[-1:].copy_(tokens)
        self.padded.length.fill_(length)
        context = bucket(length, self.context_buckets)
        logits, taps = self.passes.run(("step", context), partial(self._step, context))
        self.cache.length += 1
        return logits[0], taps

    def verify(self, tokens: Tensor, depths: Tensor, ancestors: Tensor) -> tuple[Tensor, Tensor]:
        """As `LeanForward.verify`, its rows padded up to a bucket."""
        count = len(tokens)
        self.padded.fill(tokens, depths, ancestors, self.cache.length)
        rows = bucket(count, self.row_buckets)
        logits, taps = self.verify_padded(rows)
        return logits[rows - count :], taps[rows - count :]

    def verify_padded(self, rows: int) -> tuple[Tensor, Tensor]:
        """Pass over the last padded rows, a bucket of them: logits [rows, vocab] and taps [rows, 3 * H]."""
        context = bucket(self.cache.length, self.context_buckets)
        return self.passes.run(("tree", rows, context), partial(self._pass, rows, context))

    def _step(self, context: int) -> tuple[Tensor, Tensor]:
        rows = 1 if self.kernels else self.row_buckets[0]  # a library takes longer for one
        self.padded.separate(rows)
        logits, taps = self._pass(rows, context)
        self.cache.keep_last(1, self.padded.length, self._one)
        return logits[-1:], taps[-1:]

    def _pass(self, rows: int, context: int) -> tuple[Tensor, Tensor]:
        tokens, positions = self.padded.last(rows)
        start = self.cache.scratch - rows
        keys, values = self.cache.window(start, self.cache.scratch + context)
        slots, sees, length = self.cache.slots(start, rows), self.padded.among(rows), self.padded.length
        if self.kernels:
            passed = self.kernels(tokens, positions, slots, keys, values, sees, length)
        else:
            mask = padded_mask(sees, length, context, self.cache.buffer.dtype)
            passed = self.network(tokens, positions, slots, keys, values, mask, False, False)
        results = self.logits.narrow(0, 0, rows), self.taps.narrow(0, 0, rows)
        for buffer, result in zip(results, passed, strict=True):
            buffer.copy_(result)
        return results
