"""Verification with passes of few fixed shapes, as a GPU wants them; see `ltd.engine.bucketed_forward`.

Selecting a tree, the pass over it, and accepting the path that the target's tokens follow are a CUDA graph
each. The host waits once a cycle, for how many tokens were accepted, and which; where top-p limits sampling,
once more for every round in which `ltd.engine.sampling.choose_tokens` finds out what that leaves.
"""

from functools import partial

import torch
from torch import Tensor

from ltd.engine.bucketed_drafting import BucketedDrafter
from ltd.engine.bucketed_forward import BucketedForward
from ltd.engine.graphs import Passes, bucket
from ltd.engine.sampling import TensorSampler, padded_accepted_rows
from ltd.engine.target import TargetModel
from ltd.engine.verification import Verification


class TreePasses:
    """What is done with trees between the drafter's passes and the target's, for one pair of them.

    All is about the last rows, a bucket of them, of the target's padded rows: of these the last `count` [1]
    are the tree, and `chosen` are the target's tokens. `outcome` int64 [2 + D] holds the number of accepted
    rows, then their tokens; at most `room` [1] of them are written to the caches.
    """

    @torch.inference_mode()
    def __init__(self, forward: BucketedForward, drafter: BucketedDrafter) -> None:
        self.forward, self.drafter = forward, drafter
        device, self._longest = drafter.device, drafter.max_depth + 1
        # There is always a root, also while passes are met for the first time; then nothing is written.
        self.count = torch.ones(1, dtype=torch.int64, device=device)
        self.room = torch.zeros(1, dtype=torch.int64, device=device)
        self.parents, self.chosen = torch.zeros(2, forward.padded.rows, dtype=torch.int64, device=device)
        self.outcome = torch.zeros(1 + self._longest, dtype=torch.int64, device=device)
        self.passes = Passes(device)
        if self.passes.captures:
            self._capture()
        self.room.fill_(self._longest)

    def _capture(self) -> None:
        """Meet every pass once, so that none is captured while time is taken.

        A sequence may have begun: what its next prefix pass reads is put back.
        """
        deferred = self.drafter.deferred_rows(self._longest)
        before = [rows.clone() for rows in deferred]
        for rows in self.forward.row_buckets:
            self.select(rows)
            self.accept_greedily(rows)
            self.accept(rows, self.chosen.narrow(0, 0, rows))
        for rows, old in zip(deferred, before, strict=True):
            rows.copy_(old)

    def select(self, rows: int) -> None:
        """Enter the best nodes in the target's padded rows."""
        self.passes.run(("select", rows), partial(self._select, rows))

    def accept_greedily(self, rows: int) -> None:
        """`accept` the tokens that greedy decoding chooses."""
        self.passes.run(("greedy", rows), partial(self._accept_greedily, rows))

    def accept(self, rows: int, chosen: Tensor) -> None:
        """Find the path that the target's tokens `chosen` [rows] follow, behind the pass over the tree; write
        it behind the target's cache and to what the drafter's next prefix pass reads. How much of it counts
        is the host's to say: what a sequence does not count is written over.
        """
        self.chosen.narrow(0, 0, rows).copy_(chosen)
        self.passes.run(("accept", rows), partial(self._accept, rows))

    def _select(self, rows: int) -> None:
        tokens, depths, parents, ancestors = self.drafter.padded_tree(self.count, rows)
        self.forward.padded.enter(tokens, depths, ancestors)
        self.parents.narrow(0, 0, rows).copy_(parents)

    def _accept_greedily(self, rows: int) -> None:
        self.chosen.narrow(0, 0, rows).copy_(self.forward.logits.narrow(0, 0, rows).argmax(dim=-1))
        self._accept(rows)

    def _accept(self, rows: int) -> None:
        forward, parents, chosen = self.forward, *(t.narrow(0, 0, rows) for t in (self.parents, self.chosen))
        tree_tokens, ancestors = forward.padded.last(rows)[0], forward.padded.among(rows)
        path, accepted = padded_accepted_rows(
            tree_tokens, parents, ancestors, chosen, self.count, self._longest
        )
        path_tokens = chosen.index_select(0, path)
        self.outcome.copy_(torch.cat([accepted, path_tokens]))
        forward.cache.keep_path(path, rows, forward.padded.length, torch.minimum(accepted, self.room))
        taps, tokens = self.drafter.deferred_rows(self._longest)
        taps.copy_(forward.taps.index_select(0, path))
        tokens.copy_(path_tokens)


class BucketedVerification(Verification):
    """Same interface and results as `Verification`, for a bucketed target and a bucketed drafter."""

    def __init__(self, target: TargetModel, drafter: BucketedDrafter, sampler: TensorSampler) -> None:
        super().__init__(target, drafter, sampler)
        if drafter.tree_passes is None or drafter.tree_passes.forward is not target.forward:
            drafter.tree_passes = TreePasses(target.forward, drafter)
        self._passes = drafter.tree_passes
        self._row_count = 0  # of the tree that is being verified, padding included; 0: a plain step

    @torch.inference_mode()
    def step(self) -> None:
        """Plain pass over the newest token."""
        self._row_count = 0
        super().step()

    @torch.inference_mode()
    def select(self, size: int) -> int:
        """Choose the best `size` drafted nodes for `verify`; how many there are."""
        size = min(size, self.drafter.state.pool)
        self._row_count = bucket(size + 1, self.target.forward.row_buckets)
        self._passes.count.fill_(size + 1)
        self._passes.select(self._row_count)
        return size

    @torch.inference_mode()
    def verify(self) -> None:
        """Pass over the selected tree."""
        forward = self.target.forward
        forward.padded.length.fill_(forward.cache.length)
        forward.verify_padded(self._row_count)

    @torch.inference_mode()
    def follow(self, position: int) -> list[int]:
        """Tokens that the target chooses; see `Verification.follow`."""
        if not self._row_count:
            return super().follow(position)
        if self.sampler.options.temperature == 0:
            self._passes.accept_greedily(self._row_count)
        else:
            self._passes.accept(self._row_count, self._sample(position))
        count, *tokens = self._passes.outcome.tolist()
        return tokens[:count]

    @torch.inference_mode()
    def keep(self, count: int) -> None:
        """Make the first `count` of these tokens, at least one, part of the sequence."""
        if not self._row_count:
            super().keep(count)
            return
        self.target.forward.cache.length += count
        self._token = self.drafter.deferred(count)

    def _sample(self, position: int) -> Tensor:
        """The target's tokens behind the rows of the tree, padding included, of which the root decides output
        position `position`.
        """
        forward, levels = self.target.forward, self.drafter.state.depth
        logits, depths = forward.logits.narrow(0, 0, self._row_count), forward.padded.depths(self._row_count)
        return self.sampler.choose_rows(logits, position, depths, levels)
