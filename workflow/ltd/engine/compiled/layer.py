"""A decoder layer over rows: grouped-query attention and SwiGLU, each added to the residual stream.

The target's layers and the draft head's share it. Threads split the outputs of a product and the key heads
of the attention between them.
"""

from typing import NamedTuple

import numpy as np
from numba import prange

from ltd.engine.compiled.arithmetic import exponential, kernel, normalise_rows
from ltd.engine.compiled.attention import QUERIES, attention
from ltd.engine.compiled.products import padded_width, product
from ltd.engine.compiled.tiles import LANES


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
        heads, attended = len(weights.qkv) * LANES, weights.output.shape[1]
        normed = len(weights.output) * LANES
        widths = (weights.qkv.shape[1], heads, attended, normed, hidden, gates, gates // 2)
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


@kernel(parallel=True)
def decoder_layer(weights, eps, cos, sin, keys, values, window, visible, work):
    """Residual stream `work.hidden` [R, H] after the layer, in place, from its attention's `work.inputs`.

    `work` holds exactly the R rows of the pass; cos to visible as in `attention`.
    """
    inputs, heads, attended, normed, hidden, gates, gated, queries, scores = work
    qkv, output, gate_up, down = weights.qkv, weights.output, weights.gate_up, weights.down
    qkv_bias, output_bias, head_norms = weights.qkv_bias, weights.output_bias, weights.head_norms
    gate_up_bias, down_bias = weights.gate_up_bias, weights.down_bias
    parts, kv_heads, half = len(scores), len(keys), len(gate_up) // 2
    for part in prange(parts):
        start, stop = _share(len(qkv), part, parts)
        product(inputs, qkv, qkv.shape[1], start, stop, heads)
        _add_bias(heads, qkv_bias, start * LANES, min(stop * LANES, len(qkv_bias)))
    for part in prange(parts):
        first, last = _share(kv_heads, part, parts)
        for head in range(first, last):
            attention(
                head, heads, head_norms, eps, cos, sin, keys, values, window, visible, queries[part],
                scores[part], attended,
            )  # fmt: skip
    for part in prange(parts):
        start, stop = _share(len(output), part, parts)
        product(attended, output, output.shape[1], start, stop, normed)
        stop = min(stop * LANES, len(output_bias))
        _add_bias(normed, output_bias, start * LANES, stop)
        _add(normed, start * LANES, stop, hidden)
    normalise_rows(hidden, weights.mlp_norm, eps, normed)
    for part in prange(parts):
        start, stop = _share(half, part, parts)
        product(normed, gate_up, gate_up.shape[1], start, stop, gates)
        product(normed, gate_up, gate_up.shape[1], half + start, half + stop, gates)
        _gate(gates, gate_up_bias, start * LANES, stop * LANES, gated)
    for part in prange(parts):
        start, stop = _share(len(down), part, parts)
        product(gated, down, down.shape[1], start, stop, normed)
        stop = min(stop * LANES, len(down_bias))
        _add_bias(normed, down_bias, start * LANES, stop)
        _add(normed, start * LANES, stop, hidden)


@kernel(parallel=True)
def split_product(rows, weight, target, parts):
    """The whole of a product, its panels split between `parts` threads."""
    for part in prange(parts):
        start, stop = _share(len(weight), part, parts)
        product(rows, weight, weight.shape[1], start, stop, target)


@kernel
def _gate(gates, bias, start, stop, target):
    """SwiGLU: the columns [start, stop) of target [R, I] from gates [R, 2 * I], I in whole panels."""
    width = target.shape[1]
    for row in range(len(gates)):
        for i in range(start, stop):
            gate, up = gates[row, i] + bias[i], gates[row, width + i] + bias[width + i]
            target[row, i] = gate / (np.float32(1) + exponential(-gate)) * up


@kernel
def _add_bias(rows, bias, start, stop):
    for row in range(len(rows)):
        for i in range(start, stop):
            rows[row, i] += bias[i]


@kernel
def _add(rows, start, stop, target):
    for row in range(len(rows)):
        for i in range(start, stop):
            target[row, i] += rows[row, i]
