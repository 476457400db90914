"""Products of rows with a weight matrix, whose weights are read once for up to six rows."""

from collections.abc import Callable

import numpy as np

from ltd.engine.compiled.arithmetic import kernel
from ltd.engine.compiled.tiles import LANES, make_tile

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


def _make_strip(height: int, panels: int) -> Callable:
    """Product of `height` rows with the panels [panel, end), `panels` at a time and the others singly."""
    wide, single = make_tile(height, panels), make_tile(height, 1)

    @kernel(kept=False)
    def strip(rows, start, weight, inputs, panel, end, target):
        while panel + panels <= end:
            wide(rows, start, weight, panel, inputs, target)
            panel += panels
        while panel < end:
            single(rows, start, weight, panel, inputs, target)
            panel += 1

    return strip


# Rows and panels of a tile fill the sixteen vector registers: few rows take more panels.
_one, _two, _three = _make_strip(1, 4), _make_strip(2, 4), _make_strip(3, 4)
_four, _five, _six = _make_strip(4, 2), _make_strip(5, 2), _make_strip(6, 2)


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
            height = stop - start
            if height == 1:
                _one(rows, start, weight, inputs, group, end, target)
            elif height == 2:
                _two(rows, start, weight, inputs, group, end, target)
            elif height == 3:
                _three(rows, start, weight, inputs, group, end, target)
            elif height == 4:
                _four(rows, start, weight, inputs, group, end, target)
            elif height == 5:
                _five(rows, start, weight, inputs, group, end, target)
            else:
                _six(rows, start, weight, inputs, group, end, target)
