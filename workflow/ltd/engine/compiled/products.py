"""Products of rows with a weight matrix, whose weights are read once for up to six rows."""

import numpy as np

from ltd.engine.compiled.arithmetic import kernel
from ltd.engine.compiled.tiles import LANES, make_tile

# Rows and panels of a tile fill the sixteen vector registers; few rows take more panels.
_one_by_one, _one_by_eight = make_tile(1, 1), make_tile(1, 8)
_two_by_one, _two_by_four = make_tile(2, 1), make_tile(2, 4)
_three_by_one, _three_by_three = make_tile(3, 1), make_tile(3, 3)
_four_by_one, _four_by_two = make_tile(4, 1), make_tile(4, 2)
_five_by_one, _five_by_two = make_tile(5, 1), make_tile(5, 2)
_six_by_one, _six_by_two = make_tile(6, 1), make_tile(6, 2)
BLOCK = 6  # rows of the highest tile
GROUP = 8  # panels that are read for one block of rows after the other, while they are in the cache


def panels_of(weight: np.ndarray) -> np.ndarray:
    """The layout that `product` reads, [panels, in, LANES], of weight [out, in], filled up with zeros."""
    outputs, inputs = weight.shape
    padded = np.zeros((padded_width(outputs), inputs), weight.dtype)
    padded[:outputs] = weight
    return np.ascontiguousarray(padded.reshape(-1, LANES, inputs).transpose(0, 2, 1))


def padded_width(outputs: int) -> int:
    """Columns that a target of so many outputs needs: whole panels."""
    return -(-outputs // LANES) * LANES


@kernel
def product(rows, weight, inputs, first, last, target):
    """target[:, LANES * p + lane] = rows @ weight[p, :inputs, lane] for the panels p in [first, last).

    rows float32 [R, >= inputs], weight [panels, >= inputs, LANES] float32 or uint16 (the bits of half
    precision), target [R, >= LANES * panels]. A row's result does not depend on the other rows.
    """
    count = len(rows)
    blocks = (count + BLOCK - 1) // BLOCK
    for group in range(first, last, GROUP):
        end = min(group + GROUP, last)
        for block in range(blocks):
            # Blocks of equal size: 7 rows are 4 and 3, which takes less time than 6 and 1.
            start, stop = count * block // blocks, count * (block + 1) // blocks
            _block(rows, start, stop - start, weight, inputs, group, end, target)


@kernel
def _block(rows, start, height, weight, inputs, panel, end, target):
    if height == 1:
        while panel + 8 <= end:
            _one_by_eight(rows, start, weight, panel, inputs, target)
            panel += 8
        while panel < end:
            _one_by_one(rows, start, weight, panel, inputs, target)
            panel += 1
    elif height == 2:
        while panel + 4 <= end:
            _two_by_four(rows, start, weight, panel, inputs, target)
            panel += 4
        while panel < end:
            _two_by_one(rows, start, weight, panel, inputs, target)
            panel += 1
    elif height == 3:
        while panel + 3 <= end:
            _three_by_three(rows, start, weight, panel, inputs, target)
            panel += 3
        while panel < end:
            _three_by_one(rows, start, weight, panel, inputs, target)
            panel += 1
    elif height == 4:
        while panel + 2 <= end:
            _four_by_two(rows, start, weight, panel, inputs, target)
            panel += 2
        while panel < end:
            _four_by_one(rows, start, weight, panel, inputs, target)
            panel += 1
    elif height == 5:
        while panel + 2 <= end:
            _five_by_two(rows, start, weight, panel, inputs, target)
            panel += 2
        while panel < end:
            _five_by_one(rows, start, weight, panel, inputs, target)
            panel += 1
    else:
        while panel + 2 <= end:
            _six_by_two(rows, start, weight, panel, inputs, target)
            panel += 2
        while panel < end:
            _six_by_one(rows, start, weight, panel, inputs, target)
            panel += 1
