"""A small network's answer to one row of inputs, compiled: policies and classifiers decide by it.

Libraries take longer to begin a product of one row than these loops take for it. They read the weights in the
order in which they lie in memory, so that large networks gain as well.
"""

import numpy as np

from ltd.engine.compiled.arithmetic import kernel


@kernel
def perceptron(weights, biases, values):
    """Outputs of a multilayer perceptron with ReLU between its linear layers, a row of `values`.

    weights: a matrix [out, in] a layer, biases [out]; values [2, widest layer] holds the inputs in its first
    row and is working space: what goes into a layer, and what comes out.
    """
    for layer in range(len(weights)):
        weight, bias = weights[layer], biases[layer]
        inputs, outputs = values[layer % 2], values[1 - layer % 2]
        for output in range(len(bias)):
            total = bias[output]
            for i in range(weight.shape[1]):
                total += weight[output, i] * inputs[i]
            inner = layer < len(weights) - 1
            outputs[output] = max(total, np.float32(0)) if inner else total
    return values[len(weights) % 2]
