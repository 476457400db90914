"""The target's passes, compiled: same interface and results as `ltd.engine.lean_forward.LeanForward`.

A token is computed alike whether it is a step, a row of a prompt or a row of a tree: to the last bit.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ltd.engine.compiled.arithmetic import copy, kernel, normalise_rows
from ltd.engine.compiled.attention import Window, causal, check_slots, make_cache, move_slot
from ltd.engine.compiled.bundle import bundle
from ltd.engine.compiled.layer import LayerWeights, Workspace, decoder_layer, rows_of, split_product
from ltd.engine.compiled.products import padded_width
from ltd.engine.compiled.threads import share_threads, use_threads
from ltd.engine.compiled.tree import largest
from ltd.engine.compiled.weights import holding, in_float, layer_weights, matrix, stacked, vector

PREFILL_ROWS = 64  # a longer prompt takes several passes
MATRICES = 7  # linear layers of a decoder layer


class TargetWeights(NamedTuple):
    """embedding [vocab, H]; layers stacked; input_norms [L, H]; final_norm [H]; output: H to vocab."""

    embedding: np.ndarray
    layers: LayerWeights
    input_norms: np.ndarray
    final_norm: np.ndarray
    output: np.ndarray


class TargetArrays(NamedTuple):
    """What every pass of the target works with; cos and sin [slots, d], keys and values of all layers
    (`make_cache`), tap_layers [taps].
    """

    weights: TargetWeights
    eps: np.float32
    cos: np.ndarray
    sin: np.ndarray
    keys: np.ndarray
    values: np.ndarray
    tap_layers: np.ndarray
    work: Workspace


class CompiledForward:
    """Prefill, single steps and tree passes of a Llama-structured model on a CPU, of float32 or bfloat16 (see
    `ltd.bfloat16`).

    The cache (see `make_cache`) holds the sequence in its first `length` slots and the rows of a tree behind
    them.
    """

    def __init__(
        self, model: nn.Module, tap_layers: Sequence[int], *, max_context: int, max_tree: int, packed: bool
    ) -> None:
        inner, threads = model.model, share_threads()
        hold = holding([*inner.layers, model.lm_head], packed)
        layers = (
            layer_weights(layer.self_attn, layer.mlp, layer.post_attention_layernorm, hold)
            for layer in inner.layers
        )
        weights = TargetWeights(
            inner.embed_tokens.weight.detach().numpy(),
            stacked(layers, len(inner.layers)),
            np.stack([vector(layer.input_layernorm) for layer in inner.layers]),
            vector(inner.norm),
            matrix([model.lm_head], hold),
        )
        first = LayerWeights(*(field[0] for field in weights.layers))
        self.packed_layers = MATRICES * len(inner.layers) + 1 if hold is not in_float else 0
        self.vocab_size, eps = model.lm_head.out_features, np.float32(inner.norm.variance_epsilon)
        attention, self._slots = inner.layers[0].self_attn, max_context + max_tree + 1
        slots, kv_heads = self._slots, attention.k_proj.out_features // attention.head_dim
        self.cache = make_cache(len(inner.layers), kv_heads, slots, attention.head_dim)
        self.rows = max(PREFILL_ROWS, max_tree + 1)
        self.work = Workspace.make(first, self.rows, slots, threads)
        rotation = inner.rotary_emb(inner.embed_tokens.weight[:1], torch.arange(slots)[None])
        cos, sin = (part[0].detach().numpy() for part in rotation)
        taps = np.asarray(tap_layers)
        self.arrays = bundle(TargetArrays(weights, eps, cos, sin, *self.cache, taps, self.work))
        self._tapped = len(taps) * self.work.hidden.shape[1]
        self.length = 0
        # Meet every kernel once, so that none is compiled while time is taken.
        self.append(torch.zeros(2, dtype=torch.int64))
        self.keep(torch.zeros(1, dtype=torch.int64), 1)
        self.reset()

    def reset(self) -> None:
        """Start an empty sequence, decoded by the thread of Python that asks for it."""
        use_threads(len(self.work.scores))
        self.length = 0

    def append(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Add tokens [R] to the sequence; logits [vocab] of the last one and taps [R, 3 * H]."""
        taps = []
        for part in tokens.split(self.rows):
            rows = len(part)
            logits, part_taps = self._run_to_tensors(part.numpy(), np.arange(rows), causal(rows), 1)
            taps.append(part_taps)
            self.length += rows
        return logits[0], taps[0] if len(taps) == 1 else torch.cat(taps)

    def verify(self, tokens: Tensor, depths: Tensor, ancestors: Tensor) -> tuple[Tensor, Tensor]:
        """Pass over a tree; see `LeanForward.verify`."""
        return self._run_to_tensors(tokens.numpy(), depths.numpy(), ancestors.numpy(), len(tokens))

    def keep(self, rows: Tensor, tree_rows: int) -> None:
        """Make rows [m], ascending, of the last verified tree part of the sequence."""
        keep_rows(self.arrays, self.length, rows.numpy())
        self.length += len(rows)

    def products(self) -> None:
        """The matrix products of a step and nothing else, on whatever numbers are there: to time them."""
        _products(self.arrays, self.empty_outputs(1, 1)[1])

    def empty_outputs(self, rows: int, wanted: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Arrays for `target_pass`: taps of `rows` rows, logits and greedy tokens of the last `wanted`."""
        taps = np.empty((rows, self._tapped), np.float32)
        logits = np.empty((wanted, padded_width(self.vocab_size)), np.float32)
        return taps, logits, np.empty(wanted, np.int64)

    def check_room(self, rows: int) -> None:
        """Raise IndexError where the cache has no slots for so many rows more."""
        check_slots(self.length + rows, self._slots, "target")

    def _run_to_tensors(
        self, tokens: np.ndarray, depths: np.ndarray, visible: np.ndarray, wanted: int
    ) -> tuple[Tensor, Tensor]:
        """A pass behind the sequence, which stays as it is: logits [wanted, vocab] of the last rows and taps
        [R, 3 * H], as new tensors.
        """
        self.check_room(len(tokens))
        taps, logits, greedy = self.empty_outputs(len(tokens), wanted)
        target_pass(self.arrays, self.length, tokens, depths, visible, taps, logits, greedy)
        return torch.from_numpy(logits)[:, : self.vocab_size], torch.from_numpy(taps)


@kernel
def target_pass(target, length, tokens, depths, visible, taps, logits, greedy):
    """Rows with tokens [R] at positions length + depths [R] go to the slots from `length` on and see what is
    before, and visible [R, R]. Writes taps [R, 3 * H] and, of the last n rows, the logits [n, >= vocab] and
    the tokens [n] of greedy decoding. target: bundled `TargetArrays`.
    """
    weights, eps, cos, sin, keys, values, tap_layers, work = target.value
    count, size, window = len(tokens), work.hidden.shape[1], Window(length, length)
    positions = depths + length
    work, cos, sin = rows_of(work, count), cos[positions], sin[positions]
    for row in range(count):
        copy(weights.embedding[tokens[row]], work.hidden[row])
    layers = weights.layers
    for index in range(len(layers.qkv)):
        for tap in range(len(tap_layers)):
            if tap_layers[tap] == index:
                for row in range(count):
                    copy(work.hidden[row], taps[row, tap * size : (tap + 1) * size])
        normalise_rows(work.hidden, weights.input_norms[index], eps, work.inputs)
        layer = LayerWeights(
            layers.qkv[index],
            layers.qkv_bias[index],
            layers.head_norms[index],
            layers.output[index],
            layers.output_bias[index],
            layers.mlp_norm[index],
            layers.gate_up[index],
            layers.gate_up_bias[index],
            layers.down[index],
            layers.down_bias[index],
        )
        decoder_layer(layer, eps, cos, sin, keys[index], values[index], window, visible, work)
    last = work.normed[count - len(logits) :]
    normalise_rows(work.hidden[count - len(logits) :], weights.final_norm, eps, last)
    split_product(last, weights.output, logits, len(work.scores))
    for row in range(len(logits)):
        greedy[row] = largest(logits[row, : len(weights.embedding)])


@kernel
def _products(target, logits):
    weights, work = target.value.weights, rows_of(target.value.work, 1)
    layers, parts = weights.layers, len(work.scores)
    for index in range(len(layers.qkv)):
        split_product(work.inputs, layers.qkv[index], work.heads, parts)
        split_product(work.attended, layers.output[index], work.normed, parts)
        split_product(work.normed, layers.gate_up[index], work.gates, parts)
        split_product(work.gated, layers.down[index], work.normed, parts)
    split_product(work.normed, weights.output, logits, parts)


@kernel
def keep_rows(target, length, rows):
    """Move the tree rows `rows`, ascending, to the end of the sequence; no row moves up. target: bundled
    `TargetArrays`.
    """
    keys, values = target.value.keys, target.value.values
    for place in range(len(rows)):
        if rows[place] != place:
            move_slot(keys, values, length + rows[place], length + place)
