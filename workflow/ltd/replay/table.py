"""Replay: the accepted length of any (position, depth, size) by look-up.

The tree at a position depends on the prefix alone, and so does the target's continuation (greedy, or sampled
with fixed noise: a sampled token that is among the children is followed). What a cycle of depth D and size V
gains is therefore fixed, and a table of ranks holds it for all D and V at once (paper, section 3, formalised
here). It is exact for the recorded trees; decoding drafts the same ones but for rounding, because trees are
recorded in batches (docs/measurements.md counts the cycles that differ).
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ltd.replay.traces import Traces


class ReplayTable:
    """Accepted lengths and emitted tokens of the positions of `traces`."""

    def __init__(self, traces: Traces) -> None:
        depth = traces.max_depth
        # Row 0 stands for depth 0, where nothing is drafted; a copy in memory, away from the mapped file.
        self._ranks = np.full((len(traces), depth + 1, depth), np.iinfo(np.uint16).max, dtype=np.uint16)
        self._ranks[:, 1:] = traces.ranks
        self._tokens_left = np.array(traces.tokens_left, dtype=np.int64)

    def accepted(self, index: ArrayLike, depth: ArrayLike, size: ArrayLike) -> NDArray[np.int64]:
        """Accepted draft tokens of trees of `depth` (0 or more) cut to the `size` best nodes; broadcasts.

        The length is that of the tree alone: near the end of an answer the continuation is known only as far
        as the answer goes, and no more than `tokens_left` can be accepted.
        """
        ranks = self._ranks[np.asarray(index), np.asarray(depth)]
        return (ranks < np.asarray(size)[..., None]).sum(axis=-1)

    def tokens(self, index: ArrayLike, depth: ArrayLike, size: ArrayLike) -> NDArray[np.int64]:
        """Tokens a cycle emits: the accepted ones and the target's own, cut at the end of the answer."""
        return np.minimum(self.accepted(index, depth, size) + 1, self._tokens_left[np.asarray(index)])

    def token_table(self, depth: int, sizes: ArrayLike) -> NDArray[np.uint8]:
        """Tokens emitted at every position by one depth and each of `sizes`, uint8 [N, number of sizes]."""
        sizes = np.asarray(sizes)
        tokens = np.ones((len(self._ranks), len(sizes)), dtype=np.uint8)
        for level in range(depth):
            tokens += self._ranks[:, depth, level, None] < sizes
        return np.minimum(tokens, self._tokens_left[:, None]).astype(np.uint8)
