"""Attention of the rows of a tree: rotation and cache entries in one kernel, attention in another, and where
its keys were split, a third that joins the parts.

Rows of a tree see some of each other and, behind these in the cache, all of a prefix whose length stands in
memory, where a CUDA graph finds it anew at every replay.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ltd.engine.gpu.products import shared_memory

COLUMNS = 64  # keys at a time
MOST_STAGES = 3  # times as many are under way
ENOUGH = 320  # programs at a time: a few for each multiprocessor of a large GPU


@triton.jit(do_not_specialize=["count"])
def _rotation_kernel(
    heads, table, positions, norm, slots, queries,
    count, slot_stride, eps,
    SIZE: tl.constexpr, WIDE: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, NORMED: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0), tl.program_id(1)
    number = tl.arange(0, WIDE)
    inside = number < SIZE
    swapped = (number + SIZE // 2) % SIZE
    source = heads + (row * tl.num_programs(1) + head) * SIZE
    own = tl.load(source + number, mask=inside, other=0.0).to(tl.float32)
    other = tl.load(source + swapped, mask=inside, other=0.0).to(tl.float32)
    if NORMED:  # noqa: SIM102 (known when the kernel is compiled; what follows is not)
        if head < QUERIES + KEYS:
            scale = tl.rsqrt(tl.sum(own * own, 0) / SIZE + eps)
            own *= scale * tl.load(norm + head * SIZE + number, mask=inside, other=0.0).to(tl.float32)
            other *= scale * tl.load(norm + head * SIZE + swapped, mask=inside, other=0.0).to(tl.float32)
    kind = (head >= QUERIES).to(tl.int32) + (head >= QUERIES + KEYS).to(tl.int32)
    factors = table + tl.load(positions + row) * 6 * SIZE + kind * SIZE + number
    cosine = tl.load(factors, mask=inside, other=0.0)
    sine = tl.load(factors + 3 * SIZE, mask=inside, other=0.0)
    turned = (own * cosine + other * sine).to(queries.dtype.element_ty)
    if head < QUERIES:
        tl.store(queries + (head * count + row) * SIZE + number, turned, mask=inside)
    else:
        place = slots + (head - QUERIES).to(tl.int64) * slot_stride + row * SIZE
        tl.store(place + number, turned, mask=inside)


@triton.jit(do_not_specialize=["count", "own", "sees_stride"])
def _attention_kernel(
    queries, keys, values, sees, length, out, parts, sums,
    count, own, sees_stride, head_stride,
    SIZE: tl.constexpr, WIDE: tl.constexpr, GROUPS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    SPLITS: tl.constexpr,
):  # fmt: skip
    head, block, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    heads = tl.num_programs(0) * GROUPS
    # The query heads that share a key head are rows of one product.
    folded, number = block * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDE)
    valid, inside = folded < GROUPS * count, number < SIZE
    query_head, row = head * GROUPS + folded // count, folded % count
    place = (query_head * count + row)[:, None] * SIZE + number[None, :]
    query = tl.load(queries + place, mask=valid[:, None] & inside[None, :], other=0.0)
    highest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    mean = tl.zeros([ROWS, WIDE], tl.float32)
    stop = own + tl.load(length).to(tl.int32)
    share = tl.cdiv(tl.cdiv(stop, SPLITS), COLUMNS) * COLUMNS
    keys += head.to(tl.int64) * head_stride
    values += head.to(tl.int64) * head_stride
    for first in range(split * share, tl.minimum((split + 1) * share, stop), COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        cached = column < stop
        across = cached[None, :] & inside[:, None]
        key = tl.load(keys + column[None, :] * SIZE + number[:, None], mask=across, other=0.0)
        relatives = valid[:, None] & (column < own)[None, :]
        seen = tl.load(sees + row[:, None] * sees_stride + column[None, :], mask=relatives, other=1)
        scores = tl.dot(query, key, input_precision="ieee")
        scores = tl.where((seen != 0) & cached[None, :], scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        weights = tl.exp(scores - base[:, None])
        shrink = tl.exp(highest - base)
        along = cached[:, None] & inside[None, :]
        value = tl.load(values + column[:, None] * SIZE + number[None, :], mask=along, other=0.0)
        mean = mean * shrink[:, None] + tl.dot(weights.to(value.dtype), value, input_precision="ieee")
        total = total * shrink + tl.sum(weights, 1)
        highest = higher
    kept = valid[:, None] & inside[None, :]
    if SPLITS == 1:
        place = (row * heads + query_head)[:, None] * SIZE + number[None, :]
        tl.store(out + place, (mean / total[:, None]).to(out.dtype.element_ty), mask=kept)
    else:
        at = (split * heads + query_head) * count + row
        tl.store(parts + at[:, None] * SIZE + number[None, :], mean, mask=kept)
        tl.store(sums + at * 2, highest, mask=valid)
        tl.store(sums + at * 2 + 1, total, mask=valid)


@triton.jit(do_not_specialize=["count"])
def _joining_kernel(parts, sums, out, count, SIZE: tl.constexpr, WIDE: tl.constexpr, SPLITS: tl.constexpr):
    head, row = tl.program_id(0), tl.program_id(1)
    heads, number = tl.num_programs(0), tl.arange(0, WIDE)
    highest = float("-inf")
    for split in tl.static_range(SPLITS):
        highest = tl.maximum(highest, tl.load(sums + ((split * heads + head) * count + row) * 2))
    mean, total = tl.zeros([WIDE], tl.float32), 0.0
    for split in tl.static_range(SPLITS):
        at = (split * heads + head) * count + row
        weight = tl.exp(tl.load(sums + at * 2) - highest)
        total += weight * tl.load(sums + at * 2 + 1)
        mean += weight * tl.load(parts + at * SIZE + number, mask=number < SIZE, other=0.0)
    place = out + (row * heads + head) * SIZE + number
    tl.store(place, (mean / total).to(out.dtype.element_ty), mask=number < SIZE)


def rotate_and_store(
    heads: Tensor, table: Tensor, positions: Tensor, slots: Tensor, norm: Tensor | None, eps: float
) -> Tensor:
    """As `ltd.engine.lean_layers.rotate_and_store`, with the factors at positions [R] read from `table` [n,
    2, 3, 2, head_dim / 2] (see `ltd.engine.lean_layers.HeadRotation`).
    """
    rows, count, size = heads.shape
    keys = len(slots) // 2
    queries = heads.new_empty(count - 2 * keys, rows, size)
    _rotation_kernel[(rows, count)](
        heads, table, positions, heads if norm is None else norm, slots, queries,
        rows, slots.stride(0), eps,
        SIZE=size, WIDE=triton.next_power_of_2(size), QUERIES=len(queries), KEYS=keys,
        NORMED=norm is not None, num_warps=1,
    )  # fmt: skip
    return queries


def tree_attention(queries: Tensor, keys: Tensor, values: Tensor, sees: Tensor, length: Tensor) -> Tensor:
    """Attention [R, query_heads * head_dim] of scaled queries [query_heads, R, head_dim] over keys and
    values [kv_heads, *, K, head_dim] of one stride.

    Of the K slots the first n are those of `sees` bool [R, n], the `length` [1] after them are seen by all.
    Every row sees something.
    """
    heads, rows, size = queries.shape
    kv_heads, columns = keys.shape[0], keys.shape[2]
    folded = heads // kv_heads * rows
    height = 16 if folded <= 64 else 32
    blocks = triton.cdiv(folded, height)
    splits = _splits(kv_heads * blocks, columns)
    out = queries.new_empty(rows, heads * size)
    parts, sums = out, out
    if splits > 1:
        parts = torch.empty(splits, heads, rows, size, dtype=torch.float32, device=out.device)
        sums = torch.empty(splits, heads, rows, 2, dtype=torch.float32, device=out.device)
    wide = max(16, triton.next_power_of_2(size))
    bytes_under_way = 2 * COLUMNS * wide * queries.element_size()
    _attention_kernel[(kv_heads, blocks, splits)](
        queries, keys, values, sees.view(torch.uint8), length, out, parts, sums,
        rows, sees.shape[1], sees.stride(0), keys.stride(0),
        SIZE=size, WIDE=wide, GROUPS=heads // kv_heads, ROWS=height, COLUMNS=COLUMNS, SPLITS=splits,
        num_warps=4, num_stages=max(1, min(MOST_STAGES, shared_memory(out.device) // bytes_under_way)),
    )  # fmt: skip
    if splits > 1:
        grid = (heads, rows)
        _joining_kernel[grid](parts, sums, out, rows, SIZE=size, WIDE=wide, SPLITS=splits, num_warps=1)
    return out


def _splits(programs: int, columns: int) -> int:
    """Parts of the keys that are seen to at the same time: as many as a GPU has room for."""
    splits = 1
    while 2 * splits * programs <= ENOUGH and 2 * splits * COLUMNS <= columns:
        splits *= 2
    return splits
