"""Products of rows with a weight matrix, whose weights are read once for a block of rows.

Weights are float32, the same values in half precision, or pairs of bfloat16 (see `ltd.bfloat16`): then
the rows are rounded and paired, too, once for all outputs.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numba import types
from numba.extending import overload

from ltd.engine.compiled import amx
from ltd.engine.compiled.arithmetic import bits_of_float, kernel
from ltd.engine.compiled.number_types import (
    LANES,
    Pairs,
    WidenedPairs,
    has_tile_registers,
    multiplies_pairs,
    vector_registers,
)
from ltd.engine.compiled.tiles import make_fill, make_tile

PAIR = np.uint32  # how a pair of bfloat16 is held

# Panels of the tile for every number of rows, as measured with 8 outputs a panel, by the number of registers:
# sums, weights and a row's number stay in them (three rows times four panels need 17), nine sums or more keep
# the multipliers busy, and a few rows have few enough panels for the memory to keep up with what is fetched
# ahead.
PANELS = {16: (4, 4, 3, 3, 2, 2), 32: (4, 4, 4, 2, 2, 2)}
# Of 32, which processors with an instruction for pairs have:
PANELS_OF_PAIRS = (12, 6, 6, 6, 4, 4, 3, 3)
# Of sixteen, weights and numbers widened to twice as many:
PANELS_OF_WIDENED_PAIRS = (4, 3, 2, 2)


def panels_of(weight: np.ndarray) -> np.ndarray:
    """The layout that `product` reads, [panels, in, LANES], of weight [out, in], filled up with zeros."""
    outputs, inputs = weight.shape
    padded = np.zeros((padded_width(outputs), inputs), weight.dtype)
    padded[:outputs] = weight
    return np.ascontiguousarray(padded.reshape(-1, LANES, inputs).transpose(0, 2, 1))


def paired(rows: np.ndarray) -> np.ndarray:
    """Pairs [R, in / 2] of the bits of bfloat16 [R, in], filled up with a zero."""
    return np.ascontiguousarray(np.pad(rows, ((0, 0), (0, rows.shape[1] % 2)))).view(PAIR)


def padded_width(outputs: int) -> int:
    """Columns that a target of so many outputs needs: whole panels."""
    return -(-outputs // LANES) * LANES


def inputs_of(weight: np.ndarray) -> int:
    """Columns that rows for a matrix [panels, steps, LANES] need."""
    return weight.shape[1] * (2 if weight.dtype == PAIR else 1)


def make_product(shapes: Sequence[int], pairs: type[WidenedPairs] = Pairs) -> Callable:
    """Kernel of a product with tiles of shapes[height - 1] panels for `height` rows."""
    highest, strip = len(shapes), _make_strip(shapes, pairs)
    # Panels that are read for one block of rows after the other, while in the cache: whole tiles of all
    # heights that such blocks have, of which the lowest is half the highest.
    shared = math.lcm(*shapes[(highest - 1) // 2 :])

    @kernel(kept=False)
    def product(rows, weight, steps, first, last, target):
        count = len(rows)
        blocks = (count + highest - 1) // highest
        together = shared if blocks > 1 else max(last - first, 1)
        for group in range(first, last, together):
            end = min(group + together, last)
            for block in range(blocks):
                # Blocks of equal size: 7 rows are 4 and 3, which takes less time than 6 and 1.
                start, stop = count * block // blocks, count * (block + 1) // blocks
                strip(rows, start, stop - start, weight, steps, group, end, target)

    return product


def _make_strip(shapes: Sequence[int], pairs: type[WidenedPairs]) -> Callable:
    """Product of up to len(shapes) rows with the panels [panel, end)."""
    highest, panels = len(shapes), shapes[-1]
    fill = make_fill(make_tile(highest, panels, pairs), make_tile(highest, 1, pairs), panels)
    lower = _make_strip(shapes[:-1], pairs) if highest > 1 else None

    if lower is None:

        @kernel(kept=False)
        def strip(rows, start, height, weight, steps, panel, end, target):
            fill(rows, start, weight, steps, panel, end, target)

    else:

        @kernel(kept=False)
        def strip(rows, start, height, weight, steps, panel, end, target):
            if height == highest:
                fill(rows, start, weight, steps, panel, end, target)
            else:
                lower(rows, start, height, weight, steps, panel, end, target)

    return strip


_product_of_floats = make_product(PANELS[vector_registers()])
if multiplies_pairs():
    _product_of_pairs = make_product(PANELS_OF_PAIRS)
else:
    _product_of_pairs = make_product(PANELS_OF_WIDENED_PAIRS, WidenedPairs)
if has_tile_registers():
    _whole_blocks = amx.make_product()

    @kernel(kept=False)
    def _product_of_blocks(rows, weight, steps, first, last, target):
        # What does not fill tile registers takes the other way, always: a row's result is one.
        if steps % amx.BLOCK:
            _product_of_pairs(rows, weight, steps, first, last, target)
        else:
            _whole_blocks(rows, weight, steps, first, last, target)


def product(rows, weight, steps, first, last, target):
    """target[:, LANES * p + lane] = rows @ weight[p, :steps, lane] for the panels p in [first, last).

    rows float32 [R, >= steps], weight [panels, >= steps, LANES] float32 or uint16 (the bits of half
    precision), target [R, >= LANES * panels]; or rows and weight pairs of bfloat16, two inputs a step. A
    row's result does not depend on the other rows. For kernels only.
    """
    raise NotImplementedError


@overload(product)
def _product(rows, weight, steps, first, last, target):
    if weight.dtype != types.uint32:
        chosen = _product_of_floats
    elif has_tile_registers():
        chosen = _product_of_blocks
    else:
        chosen = _product_of_pairs

    def call(rows, weight, steps, first, last, target):
        chosen(rows, weight, steps, first, last, target)

    return call


def as_inputs(rows, weight):
    """Rows [R, inputs] of float32 as `product` with this weight wants them. For kernels only."""
    raise NotImplementedError


@overload(as_inputs)
def _as_inputs(rows, weight):
    if weight.dtype != types.uint32:
        return lambda rows, weight: rows

    def round_rows(rows, weight):
        pairs = np.empty((len(rows), weight.shape[1]), np.uint32)
        round_pairs(rows, pairs)
        return pairs

    return round_rows


@kernel
def round_pairs(rows, pairs):
    """Round rows float32 [R, inputs] to pairs of bfloat16 [R, >= inputs / 2]: to nearest, ties to even."""
    width = min(rows.shape[1], 2 * pairs.shape[1])
    for row in range(len(rows)):
        source, target = rows[row], pairs[row].view(np.uint16)
        for i in range(width):
            bits = bits_of_float(source[i])
            # Half of the last place, less the smallest step where the last kept bit is zero.
            target[i] = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        for i in range(width, len(target)):
            target[i] = np.uint16(0)
