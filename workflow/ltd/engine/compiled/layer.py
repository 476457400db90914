"""A decoder layer over rows: grouped-query attention and SwiGLU, each added to the residual stream.

The target's layers and the draft head's share it. Threads split the outputs of a product and the rows of
the key heads of the attention between them.
"""

from typing import NamedTuple

import numpy as np
from numba import prange

from ltd.engine.compiled.arithmetic import exponential, kernel, normalise_rows
from ltd.engine.compiled.attention import QUERIES, attention, store_rows
from ltd.engine.compiled.number_types import LANES
from ltd.engine.compiled.products import as_inputs, inputs_of, padded_width, product


class LayerWeights(NamedTuple):
    """Weights of one layer, or of L layers stacked; the matrices are in the panels of `product`.

    qkv: inputs to (query + 2 * kv heads) * head_dim, with its bias; head_norms [2 or 0, head_dim]; output:
    query heads * head_dim to H, with its bias; mlp_norm [H]; gate_up: H to two times I, each of whole
    panels, as its bias; down: I to H, with its bias.
    """

    qkv: np.ndarray
    qkv_bias: np.ndarray
    head_norms: np.ndarray
    output: np.ndarray
    output_bias: np.ndarray
    mlp_norm: np.ndarray
    gate_up: np.ndarray
    gate_up_bias: np.ndarray
    down: np.ndarray
    down_bias: np.ndarray


class Workspace(NamedTuple):
    """What a pass over up to R rows writes in between, allocated once; products want whole panels.

    inputs [R, inputs]; heads [R, >= outputs of qkv]; attended [R, query heads * head_dim]; normed [R, >= H];
    hidden [R, H]; gates [R, >= 2 * I]; gated [R, >= I]; and of every thread what `attention` works with,
    queries [>= QUERIES, >= head_dim] and scores [>= QUERIES, slots].
    """

    inputs: np.ndarray
    heads: np.ndarray
    attended: np.ndarray
    normed: np.ndarray
    hidden: np.ndarray
    gates: np.ndarray
    gated: np.ndarray
    queries: np.ndarray
    scores: np.ndarray

    @classmethod
    def make(cls, weights: LayerWeights, rows: int, slots: int, threads: int) -> "Workspace":
        """Arrays that suit a layer (weights not stacked)."""
        hidden, gates = len(weights.mlp_norm), len(weights.gate_up) * LANES
        heads, attended = len(weights.qkv) * LANES, inputs_of(weights.output)
        normed = len(weights.output) * LANES
        widths = (inputs_of(weights.qkv), heads, attended, normed, hidden, gates, gates // 2)
        arrays = (np.zeros((rows, width), np.float32) for width in widths)
        head_dim = weights.head_norms.shape[1]
        most = max(QUERIES, attended // head_dim)
        queries = np.zeros((threads, most, padded_width(head_dim)), np.float32)
        return cls(*arrays, queries, np.zeros((threads, most, padded_width(slots)), np.float32))


@kernel
def _share(count, part, parts):
    """First and last of the `count` items that are one thread's."""
    which, of = np.int64(part), np.int64(parts)
    return count * which // of, count * (which + 1) // of


@kernel
def rows_of(work, count):
    """The first `count` rows of a workspace, as the pass that runs over them sees it."""
    return Workspace(
        work.inputs[:count],
        work.heads[:count],
        work.attended[:count],
        work.normed[:count],
        work.hidden[:count],
        work.gates[:count],
        work.gated[:count],
        work.queries,
        work.scores,
    )


@kernel
def decoder_layer(weights, eps, cos, sin, keys, values, window, visible, work):
    """Residual stream `work.hidden` [R, H] after the layer, in place, from its attention's `work.inputs`.

    `work` holds exactly the R rows of the pass; cos to visible as in `attention`.
    """
    inputs, heads, attended, normed, hidden, gates, gated, queries, scores = work
    threads = len(scores)
    split_product(inputs, weights.qkv, heads, threads)
    _add_bias(heads, weights.qkv_bias)
    norms = weights.head_norms
    store_rows(heads, attended.shape[1], norms, eps, cos, sin, keys, values, window.first)
    _split_attention(heads, norms, eps, cos, sin, keys, values, window, visible, queries, scores, attended)
    split_product(attended, weights.output, normed, threads)
    _add_bias(normed, weights.output_bias)
    _add(normed, hidden)
    normalise_rows(hidden, weights.mlp_norm, eps, normed)
    _split_gates(normed, weights.gate_up, weights.gate_up_bias, gates, gated, threads)
    split_product(gated, weights.down, normed, threads)
    _add_bias(normed, weights.down_bias)
    _add(normed, hidden)


@kernel(parallel=True)
def split_product(rows, weight, target, threads):
    """The whole of a product, its panels split between threads."""
    rows = as_inputs(rows, weight)
    for thread in prange(threads):
        first, last = _share(len(weight), thread, threads)
        product(rows, weight, weight.shape[1], first, last, target)


@kernel(parallel=True)
def _split_attention(
    heads, head_norms, eps, cos, sin, keys, values, window, visible, queries, scores, target
):
    """The whole of the attention, the rows of all key heads split between threads; see `attention`."""
    threads, kv_heads, rows = len(scores), len(keys), len(heads)
    for thread in prange(threads):
        first, last = _share(kv_heads * rows, thread, threads)
        for head in range(kv_heads):
            start, stop = max(first - head * rows, 0), min(last - head * rows, rows)
            if start < stop:
                attention(
                    head, start, stop, heads, head_norms, eps, cos, sin, keys, values, window, visible,
                    queries[thread], scores[thread], target,
                )  # fmt: skip


@kernel(parallel=True)
def _split_gates(rows, weight, bias, gates, target, threads):
    """SwiGLU: target [R, I] from the gates and the ups, side by side in weight and in gates [R, 2 * I]."""
    rows, half = as_inputs(rows, weight), len(weight) // 2
    for thread in prange(threads):
        first, last = _share(half, thread, threads)
        product(rows, weight, weight.shape[1], first, last, gates)
        product(rows, weight, weight.shape[1], half + first, half + last, gates)
        _gate(gates, bias, first * LANES, last * LANES, target)


@kernel
def _gate(gates, bias, start, stop, target):
    width = target.shape[1]
    gate_bias, up_bias = bias[start:stop], bias[width + start : width + stop]
    for row in range(len(gates)):
        gate, up = gates[row, start:stop], gates[row, width + start : width + stop]
        gated = target[row, start:stop]
        for i in range(len(gated)):
            x = gate[i] + gate_bias[i]
            gated[i] = x / (np.float32(1) + exponential(-x)) * (up[i] + up_bias[i])


@kernel
def _add_bias(rows, bias):
    for row in range(len(rows)):
        for i in range(len(bias)):
            rows[row, i] += bias[i]


@kernel
def _add(rows, target):
    for row in range(len(target)):
        for i in range(target.shape[1]):
            target[row, i] += rows[row, i]
