"""A small network's answer to one row of inputs, compiled: policies and classifiers decide by it.

Libraries take longer to begin a product of one row than these loops take for it. They read the weights in the
order in which they lie in memory, so that large networks gain as well.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ltd.engine.compiled.arithmetic import kernel


class KernelNetwork(NamedTuple):
    """A multilayer perceptron with ReLU between its linear layers.

    parameters: the weights [out, in], row by row, and the biases [out] of a layer after the other; widths:
    numbers that go into each layer, and those that come out of the last; values [2, widest layer] takes the
    inputs in its first row and is working space: what goes into a layer, and what comes out.
    """

    parameters: np.ndarray
    widths: np.ndarray
    values: np.ndarray


def for_kernel(layers: Sequence[tuple[np.ndarray, np.ndarray]]) -> KernelNetwork:
    """Linear layers, (weight [out, in], bias [out]) float32 each, as kernels take them.

    One array for all of them: every array of a call costs time to hand over.
    """
    parameters = np.concatenate([part.ravel() for layer in layers for part in layer])
    widths = np.array([layers[0][0].shape[1], *(len(bias) for _, bias in layers)], np.int64)
    return KernelNetwork(parameters, widths, np.zeros((2, widths.max()), np.float32))


@kernel
def perceptron(network):
    """Outputs for the inputs in `network.values[0]`; a row of these values."""
    parameters, widths, values = network
    start, last = 0, len(widths) - 2
    for layer in range(last + 1):
        width, count = widths[layer], widths[layer + 1]
        inputs, outputs = values[layer % 2], values[1 - layer % 2]
        biases = start + count * width
        for output in range(count):
            row, total = parameters[start + output * width : start + (output + 1) * width], np.float32(0)
            for i in range(width):
                total += row[i] * inputs[i]
            total += parameters[biases + output]
            outputs[output] = max(total, np.float32(0)) if layer < last else total
        start = biases + count
    return values[(last + 1) % 2]
