"""Attention of a few rows over the slots of a cache, as two products for all rows that share a key head.

What a row sees is summed in the order of its path, wherever the slots are, so that a row of a tree and the
same token in a plain sequence are computed alike, to the last bit.
"""

from typing import NamedTuple

import numpy as np

from ltd.engine.compiled.arithmetic import copy, exponential, highest, kernel, normalise
from ltd.engine.compiled.number_types import LANES
from ltd.engine.compiled.products import padded_width, product

QUERIES = 24  # queries of one key head that are computed together


class Window(NamedTuple):
    """Where the rows of a pass stand in the cache and what they see.

    Row r is in slot `first + r`. It sees all slots below `length`, and the slots `length + t` where
    its row of the matrix `visible` [R, T] says so, itself among them.
    """

    first: int
    length: int


@kernel
def causal(rows):
    """What the rows of a sequence see of each other, for `visible`: bool [rows, rows]."""
    visible = np.empty((rows, rows), np.bool_)
    for row in range(rows):
        for other in range(rows):
            visible[row, other] = other <= row
    return visible


def make_cache(layers: int, kv_heads: int, slots: int, head_dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys [layers, kv_heads, slots / LANES, head_dim, LANES] and values [layers, kv_heads, head_dim / LANES,
    slots, LANES]: both as `product` reads weights, keys as inputs to slots, values as slots to outputs.
    """
    slots = padded_width(slots)
    keys = np.zeros((layers, kv_heads, slots // LANES, head_dim, LANES), np.float32)
    return keys, np.zeros((layers, kv_heads, padded_width(head_dim) // LANES, slots, LANES), np.float32)


def check_slots(last: int, slots: int, owner: str) -> None:
    """Raise IndexError where rows would go beyond the slots of a cache: kernels check no bounds."""
    if last > slots:
        raise IndexError(
            f"{owner}: {last} rows do not fit its cache of {slots}; make it with more max_context"
        )


@kernel
def move_slot(keys, values, source, target):
    """Copy what a slot holds, in keys and values of all layers, to another slot."""
    for layer in range(keys.shape[0]):
        for head in range(keys.shape[1]):
            for i in range(keys.shape[3]):
                number = keys[layer, head, source // LANES, i, source % LANES]
                keys[layer, head, target // LANES, i, target % LANES] = number
            for panel in range(values.shape[2]):
                for lane in range(LANES):
                    values[layer, head, panel, target, lane] = values[layer, head, panel, source, lane]


@kernel
def store_rows(heads, queries_end, head_norms, eps, cos, sin, keys, values, first):
    """Rotated keys, and values, of rows into the slots from `first` on.

    heads [R, >= queries_end + 2 * kv heads * head_dim]: queries up to column `queries_end`, then keys and
    values, before rotation; the keys are overwritten. Others as in `attention`.
    """
    kv_heads, head_dim = len(keys), keys.shape[2]
    for kv_head in range(kv_heads):
        column = queries_end + kv_head * head_dim
        for row in range(len(heads)):
            key = heads[row, column : column + head_dim]
            value = heads[row, column + kv_heads * head_dim : column + (kv_heads + 1) * head_dim]
            if len(head_norms):
                normalise(key, head_norms[1], eps, key)
            _rotate(key, cos[row], sin[row], key)
            panel, lane = divmod(first + row, LANES)
            for i in range(head_dim):
                keys[kv_head, panel, i, lane] = key[i]
                values[kv_head, i // LANES, first + row, i % LANES] = value[i]


@kernel
def attention(
    kv_head, start, stop, heads, head_norms, eps, cos, sin, keys, values, window, visible, queries, scores,
    target,
):  # fmt: skip
    """The rows [start, stop) of a pass and the query heads that share one key head; keys and values of all
    rows are in the cache (see `store_rows`).

    heads [R, >= query heads * head_dim], overwritten: queries before rotation. head_norms [2, head_dim], of
    queries and keys, or [0, head_dim] where the model has none. cos, sin [R, head_dim]. keys, values: one
    layer of `make_cache`. queries [QUERIES, >= head_dim], scores [QUERIES, slots] are working space, target
    [R, query heads * head_dim] what comes out.
    """
    kv_heads, head_dim = len(keys), keys.shape[2]
    groups = target.shape[1] // head_dim // kv_heads
    scale, end = np.float32(1) / np.sqrt(np.float32(head_dim)), window.length + visible.shape[1]
    together = max(QUERIES // groups, 1)
    for first in range(start, stop, together):
        count = (min(first + together, stop) - first) * groups
        for place in range(count):
            row, column = first + place // groups, (kv_head * groups + place % groups) * head_dim
            query = heads[row, column : column + head_dim]
            if len(head_norms):
                normalise(query, head_norms[0], eps, query)
            _rotate(query, cos[row], sin[row], query)
            for i in range(head_dim):
                queries[place, i] = query[i] * scale
        slot_panels = (end + LANES - 1) // LANES
        product(queries[:count], keys[kv_head], head_dim, 0, slot_panels, scores[:count])
        for place in range(count):
            _softmax(scores[place], window.length, visible[first + place // groups])
        mixed = queries[:count]
        product(scores[:count], values[kv_head], end, 0, values.shape[1], mixed)
        for place in range(count):
            row, column = first + place // groups, (kv_head * groups + place % groups) * head_dim
            copy(mixed[place, :head_dim], target[row, column : column + head_dim])


@kernel
def _rotate(source, cos, sin, target):
    """Rotary embedding of a head [head_dim], possibly in place, in the layout of transformers."""
    half = len(source) // 2
    for i in range(half):
        x, y = source[i], source[i + half]
        target[i] = x * cos[i] - y * sin[i]
        target[i + half] = y * cos[i + half] + x * sin[i + half]


@kernel
def _softmax(scores, length, visible):
    """Softmax of scores [>= length + T] in place, over the first `length` and the visible of the others.

    The visible ones stand side by side for the sums, as they would in a plain sequence; the others become 0.
    """
    count = length
    for t in range(len(visible)):
        if visible[t]:
            scores[count] = scores[length + t]
            count += 1
    top, total = highest(scores[:count]), np.float32(0)
    for place in range(count):
        weight = exponential(scores[place] - top)
        scores[place] = weight
        total += weight
    share = np.float32(1) / total
    for place in range(count):
        scores[place] *= share
    for t in range(len(visible) - 1, -1, -1):
        if visible[t]:
            count -= 1
            scores[length + t] = scores[count]
        else:
            scores[length + t] = np.float32(0)
