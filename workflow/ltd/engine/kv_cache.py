"""Keys and values of all layers in one buffer, allocated once: a permanent prefix behind a scratch area for
trees.

Slots `[scratch, scratch + length)` hold the tokens that are part of the sequence. Tree nodes are written
into the last slots before them, `[scratch - rows, scratch)`. Attention does not care about the order of
keys, so a window of the buffer that ends with the prefix is all that a tree pass reads; the tree's columns
of a mask never move; and keeping a path is one copy from the scratch area to the end of the prefix.
"""

import torch
from torch import Tensor


class KeyValueCache:
    """Cache for `capacity` tokens and `scratch` tree rows.

    The buffer is [layers, 2 * kv_heads, scratch + capacity + 1, head_dim], keys before values; what is
    written to the very last slot is never read.
    """

    def __init__(
        self,
        layers: int,
        kv_heads: int,
        head_dim: int,
        *,
        capacity: int,
        scratch: int,
        groups: int = 1,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.capacity, self.scratch, self.length = capacity, scratch, 0
        self.buffer = torch.zeros(
            layers, 2 * kv_heads, scratch + capacity + 1, head_dim, dtype=dtype, device=device
        )
        shape = (layers, kv_heads, groups, scratch + capacity + 1, head_dim)
        # Query heads that share a key head see it through a zero stride: nothing is repeated in memory.
        self._keys = self.buffer[:, :kv_heads, None].expand(shape)
        self._values = self.buffer[:, kv_heads:, None].expand(shape)

    def reset(self) -> None:
        """Forget all tokens."""
        self.length = 0

    def slots(self, start: int, rows: int) -> list[Tensor]:
        """Writable views [2 * kv_heads, rows, head_dim], one a layer, of the slots from `start`."""
        return list(self.buffer.narrow(2, start, rows).unbind(0))

    def window(self, start: int, stop: int) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values [kv_heads, groups, stop - start, head_dim], one a layer, of the slots in
        between.
        """
        count = stop - start
        keys, values = self._keys.narrow(3, start, count), self._values.narrow(3, start, count)
        return list(keys.unbind(0)), list(values.unbind(0))

    def keep(self, rows: Tensor, tree_rows: int) -> None:
        """Append the tree rows `rows` [m] (ascending) of a tree of `tree_rows` rows to the prefix."""
        count = len(rows)
        path = self.buffer.index_select(2, rows + (self.scratch - tree_rows))
        self.buffer.narrow(2, self.scratch + self.length, count).copy_(path)
        self.length += count

    def keep_last(self, rows: int, length: Tensor, count: Tensor) -> None:
        """Copy the last scratch slots to the end of a prefix of `length` [1] tokens, without moving it.

        Of `rows` slots the last `count` [1] are real; nothing here waits for their number.
        """
        place = torch.arange(rows, device=length.device) - rows + count
        target = torch.where(place >= 0, length + place, self.capacity) + self.scratch
        last = self.buffer.narrow(2, self.scratch - rows, rows).clone()
        self.buffer.index_copy_(2, target, last)

    def keep_path(self, path: Tensor, tree_rows: int, length: Tensor, count: Tensor) -> None:
        """Copy the first `count` [1] of rows path [m] of a tree of `tree_rows` rows to the end of a prefix of
        `length` [1] tokens, without moving it; nothing here waits for their number. Rows beyond the capacity,
        which no answer has room for, are dropped.
        """
        place = torch.arange(len(path), device=path.device)
        kept = (length + place).clamp(max=self.capacity)
        target = torch.where(place < count, kept, self.capacity) + self.scratch
        self.buffer.index_copy_(2, target, self.buffer.index_select(2, path + (self.scratch - tree_rows)))
