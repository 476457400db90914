"""Drafting, compiled: a pass of the draft head and the bookkeeping of its level are one call."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ltd.draft_head.eagle3 import Eagle3Head, rotary_of
from ltd.engine.compiled.arithmetic import copy, kernel, normalise, normalise_rows
from ltd.engine.compiled.attention import Window, causal, check_slots, make_cache
from ltd.engine.compiled.bundle import Bundle, bundle
from ltd.engine.compiled.layer import LayerWeights, Workspace, decoder_layer, rows_of, split_product
from ltd.engine.compiled.number_types import LANES
from ltd.engine.compiled.threads import share_threads
from ltd.engine.compiled.tree import advance_beam, best_children, select_tree
from ltd.engine.compiled.weights import holding, layer_weights, matrix, vector
from ltd.engine.drafting import Drafter
from ltd.engine.tree import DraftTree, pool_size


class HeadWeights(NamedTuple):
    """embedding [vocab, H]; tap_norms [parts, 3 * Ht / parts], no parts for none; fuse: 3 * Ht to H; output:
    H to Vd; target_ids [Vd].
    """

    embedding: np.ndarray
    tap_norms: np.ndarray
    fuse: np.ndarray
    token_norm: np.ndarray
    feature_norm: np.ndarray
    layer: LayerWeights
    final_norm: np.ndarray
    output: np.ndarray
    target_ids: np.ndarray
    norm_before_residual: bool
    norm_output: bool
    eps: np.float32


class HeadPass(NamedTuple):
    """What every pass of the head works with: cos and sin [slots, d]; keys and values of the cache; visible
    [W, (D - 1) * W] and parents [pool] as in `advance_beam`.
    """

    weights: HeadWeights
    cos: np.ndarray
    sin: np.ndarray
    keys: np.ndarray
    values: np.ndarray
    visible: np.ndarray
    parents: np.ndarray
    work: Workspace


class Prefix(NamedTuple):
    """Rows that are to join the cache behind `length` others: taps [R, 3 * Ht] and tokens [R]."""

    taps: np.ndarray
    tokens: np.ndarray
    length: int


class Pool(NamedTuple):
    """What is drafted: scores and tokens [pool]; hidden [W, H] and logits [W, >= Vd] of the newest pass."""

    scores: np.ndarray
    tokens: np.ndarray
    hidden: np.ndarray
    logits: np.ndarray


class DraftArrays(NamedTuple):
    """All that a drafter works with; deferred_taps [rows, 3 * Ht] and deferred_tokens [rows] are those that
    the next prefix pass may take, recent as in `ltd.engine.controllers.DraftState`.
    """

    head: HeadPass
    pool: Pool
    deferred_taps: np.ndarray
    deferred_tokens: np.ndarray
    recent: np.ndarray


class CompiledDrafter(Drafter):
    """Same interface and results as `Drafter`, for a head of float32 or bfloat16 on a CPU."""

    drafts_in_one_call = True

    def __init__(self, head: Eagle3Head, *, packed: bool = True, **sizes: int) -> None:
        """`packed` allows weights held in half precision; sizes as for `Drafter`."""
        self.packed = packed
        super().__init__(head, **sizes)
        # Meet every kernel once, so that none is compiled while time is taken.
        self.extend(self._pending_taps[:2], torch.zeros(2, dtype=torch.int64))
        if self.max_depth > 1:
            self.expand()
        self.select(1)
        self.reset()

    def _make_passes(self) -> None:
        threads, config = share_threads(), self.head.config
        weights = _head_weights(self.head, self.packed)
        # Behind the prefix stand the beams of all levels but the last, which no pass runs over.
        tree_slots = self.beam * (self.max_depth - 1)
        slots = self.max_context + max(tree_slots, self.prefix_rows)
        self._prefix_slots = slots - tree_slots
        keys, values = make_cache(1, config.num_key_value_heads, slots, config.head_dim)
        work = Workspace.make(weights.layer, max(self.beam, self.prefix_rows), slots, threads)
        rotation = (part.numpy() for part in rotary_of(config, torch.arange(slots)))
        parents = np.full(pool_size(self.beam, self.max_depth), -1)
        visible = np.zeros((self.beam, tree_slots), dtype=bool)
        head = HeadPass(weights, *rotation, keys[0], values[0], visible, parents, work)
        width = len(weights.output) * LANES
        self.hidden = torch.zeros(self.beam, config.hidden_size, dtype=torch.float32)
        logits = torch.zeros(self.beam, width, dtype=torch.float32)
        # Arrays and rows that share the tensors' memory, made once.
        scores, tokens = self.state.score_array, self.tokens.numpy()
        self._pool_arrays = scores, parents, tokens
        pool = Pool(scores, tokens, self.hidden.numpy(), logits.numpy())
        self._newest = self.hidden[0], logits[0, : config.draft_vocab_size]
        self.deferred_taps, self.deferred_tokens = self._pending_taps.numpy(), self._pending_tokens.numpy()
        self._every = np.arange(len(self.deferred_tokens))
        deferred = self.deferred_taps, self.deferred_tokens
        self.arrays = bundle(DraftArrays(head, pool, *deferred, self.state.recent))

    @torch.inference_mode()
    def prefill(self, taps: Tensor, tokens: Tensor) -> None:
        """Start a sequence; see `Drafter.prefill`."""
        self.reset()
        self._append_rows(taps[:-1].numpy(), tokens[1:].numpy())
        self.state.scores.fill_(float("-inf"))  # nothing is drafted yet: the children were the prompt's
        self._new_tree()

    @torch.inference_mode()
    def defer(self, taps: Tensor, tokens: Tensor, rows: Tensor | None = None) -> None:
        """Rows for the next prefix pass; see `Drafter.defer`."""
        places = self._every[: len(tokens)] if rows is None else rows.numpy()
        deferred = self.deferred_taps, self.deferred_tokens
        defer_rows(taps.numpy(), places, tokens.numpy(), *deferred, self.pending)
        self.pending += len(tokens)
        self._new_tree()

    def extend(self, taps: Tensor | None = None, tokens: Tensor | None = None) -> None:
        """Prefix pass over all deferred rows; see `Drafter.extend`."""
        if taps is not None:
            self.defer(taps, tokens)
        self._append_rows(self.deferred_taps[: self.pending], self.deferred_tokens[: self.pending])
        self._root, self.pending = int(self.deferred_tokens[self.pending - 1]), 0
        self._note_level(1)

    def _append_rows(self, taps: np.ndarray, tokens: np.ndarray) -> None:
        """Prefix pass over taps [R, 3 * Ht] and tokens [R], which join the cache; the last row's children are
        level 1.
        """
        check_slots(self.length + len(tokens), self._prefix_slots, "draft head")
        draft_prefix(Prefix(taps, tokens, self.length), self.arrays)
        self.length += len(tokens)

    def _next_level(self, level: int) -> None:
        draft_level(level, self.length, self.arrays)
        self._note_level(level + 1)

    def _note_level(self, depth: int) -> None:
        state = self.state
        state.depth = depth
        state.feature, state.draft_logits = self._newest
        state.context_length = self.length

    def loop_arguments(self, pending: int | None = None) -> tuple[Bundle, int, int]:
        """Arguments of a kernel that drafts a whole tree behind the first `pending` deferred rows, none: all.

        They are the last three that a kernel of `ltd.engine.compiled.draft_loop.make_draft_kernel` takes;
        `note_levels` is then told what it drafted. Raises IndexError where the rows do not fit the cache.
        """
        rows = self.pending if pending is None else pending
        check_slots(self.length + rows, self._prefix_slots, "draft head")
        return self.arrays, self.length, rows

    def note_levels(self, depth: int) -> None:
        """Take note that the deferred rows joined the cache and so many levels the pool; 0: nothing did."""
        if depth:
            self._root, self.length = int(self.deferred_tokens[self.pending - 1]), self.length + self.pending
            self.pending = 0
            self._note_level(depth)

    @torch.inference_mode()
    def select(self, size: int) -> DraftTree:
        """Tree of the best `size` drafted nodes; see `Drafter.select`."""
        scores, parents, tokens = self._pool_arrays
        tree = select_tree(scores[: self.state.pool], parents, tokens, self._root, size)
        return DraftTree(*map(torch.from_numpy, tree))

    def pool_arguments(self) -> tuple[Bundle, int, int]:
        """What a kernel selects a tree from: bundled `DraftArrays`, the drafted nodes, the root's token."""
        return self.arrays, self.state.pool, self._root

    def note_deferred(self, count: int) -> None:
        """Take note that `count` rows were written behind the deferred ones and the pool's scores cleared."""
        self.pending += count
        self.state.depth = 0  # or `_new_tree` would clear the scores again
        self._new_tree()

    def forget_deferred(self, count: int) -> None:
        """Drop the last `count` deferred rows; nothing is drafted yet."""
        self.pending -= count
        self._new_tree()


def _head_weights(head: Eagle3Head, packed: bool) -> HeadWeights:
    config, layer = head.config, head.midlayer
    hold = holding([head.fc, layer, head.lm_head], packed)
    norms = []
    if config.feature_norm in ("together", "each"):
        norms = [head.input_norm] if config.feature_norm == "together" else list(head.fc_norm)
    none = np.zeros((0, 3 * config.target_hidden_size), np.float32)
    return HeadWeights(
        embedding=head.embed_tokens.weight.detach().numpy(),
        tap_norms=np.stack([vector(norm) for norm in norms]) if norms else none,
        fuse=matrix([head.fc], hold),
        token_norm=vector(layer.input_layernorm),
        feature_norm=vector(layer.hidden_norm),
        layer=layer_weights(layer.self_attn, layer.mlp, layer.post_attention_layernorm, hold),
        final_norm=vector(head.norm),
        output=matrix([head.lm_head], hold),
        target_ids=head.to_target(torch.arange(config.draft_vocab_size)).numpy(),
        norm_before_residual=config.norm_before_residual,
        norm_output=config.norm_output,
        eps=np.float32(config.rms_norm_eps),
    )


@kernel
def defer_rows(taps, rows, tokens, deferred_taps, deferred_tokens, first):
    """Append the rows [m] of taps, and tokens [m], to what waits from `first` on."""
    for place in range(len(rows)):
        copy(taps[rows[place]], deferred_taps[first + place])
        deferred_tokens[first + place] = tokens[place]


@kernel
def draft_prefix(prefix, drafter):
    """All rows of a `Prefix` join the cache, as many in a pass as there is working space for; the last one's
    children enter the pool. drafter: bundled `DraftArrays`.
    """
    head, pool, _, _, _ = drafter.value
    most, rows = len(head.work.hidden), len(prefix.tokens)
    for first in range(0, rows, most):
        end = min(first + most, rows)
        taps, tokens = prefix.taps[first:end], prefix.tokens[first:end]
        _draft_rows(taps, tokens, prefix.length + first, head, pool)


@kernel
def _draft_rows(taps, new_tokens, length, head, pool):
    """Rows of taps [R, 3 * Ht] and tokens [R] join a cache of `length` rows; the last one's children enter
    the pool.
    """
    weights, cos, sin, keys, values, _, _, work = head
    scores, tokens, hidden, logits = pool
    count, parts, beam = len(new_tokens), len(weights.tap_norms), len(hidden)
    features = np.empty((count, len(weights.fuse) * LANES), np.float32)
    fused = taps
    if parts:
        fused, width = np.empty_like(taps), taps.shape[1] // parts
        for row in range(count):
            for part in range(parts):
                first, last = part * width, (part + 1) * width
                norm = weights.tap_norms[part]
                normalise(taps[row, first:last], norm, weights.eps, fused[row, first:last])
    split_product(fused, weights.fuse, features, len(work.scores))
    work, window, end = rows_of(work, count), Window(length, length), length + count
    cos, sin = cos[length:end], sin[length:end]
    visible = causal(count)
    _layer_pass(new_tokens, features, weights, cos, sin, keys, values, window, visible, work)
    _output_pass(weights, work, count - 1, hidden[:1], logits[:1])
    best_children(logits[0], np.float32(0), weights.target_ids, scores[:beam], tokens[:beam])


@kernel
def draft_level(level, length, drafter):
    """Pass over the beam of `level` behind `length` rows; its children enter the pool.

    drafter: bundled `DraftArrays`; the pool's hidden and logits of the pass before become those of this one.
    """
    head, pool, _, _, _ = drafter.value
    weights, cos, sin, keys, values, visible, parents, work = head
    scores, tokens, hidden, logits = pool
    beam, place_of_level = len(visible), length + level - 1
    nodes, ranks = np.empty(beam, np.int64), np.empty(beam, np.int64)
    advance_beam(scores, level, parents, visible, nodes, ranks)
    features, beam_tokens = np.empty((beam, hidden.shape[1]), np.float32), np.empty(beam, np.int64)
    turn_cos = np.empty((beam, cos.shape[1]), np.float32)
    turn_sin = np.empty((beam, cos.shape[1]), np.float32)
    for place in range(beam):
        # The nodes of level 1 have one parent, the last row of the prefix pass.
        copy(hidden[0 if level == 1 else ranks[place]], features[place])
        beam_tokens[place] = tokens[nodes[place]]
        copy(cos[place_of_level], turn_cos[place])
        copy(sin[place_of_level], turn_sin[place])
    work, window = rows_of(work, beam), Window(length + (level - 1) * beam, length)
    _layer_pass(beam_tokens, features, weights, turn_cos, turn_sin, keys, values, window, visible, work)
    _output_pass(weights, work, 0, hidden, logits)
    for place in range(beam):
        first = beam + (level - 1) * beam * beam + place * beam
        last, parent_score = first + beam, scores[nodes[place]]
        best_children(logits[place], parent_score, weights.target_ids, scores[first:last], tokens[first:last])


@kernel
def _layer_pass(tokens, features, weights, cos, sin, keys, values, window, visible, work):
    """The decoder layer over rows of tokens [R] and features [R, >= H]; the result is in `work.hidden`."""
    size = work.hidden.shape[1]
    for row in range(len(tokens)):
        embedding = weights.embedding[tokens[row]]
        normalise(embedding, weights.token_norm, weights.eps, work.inputs[row, :size])
        normalise(features[row], weights.feature_norm, weights.eps, work.inputs[row, size:])
        stream = work.inputs[row, size:] if weights.norm_before_residual else features[row, :size]
        copy(stream, work.hidden[row])
    decoder_layer(weights.layer, weights.eps, cos, sin, keys, values, window, visible, work)


@kernel
def _output_pass(weights, work, first, hidden, logits):
    """Residual stream hidden [n, H] and logits [n, >= Vd] of the rows from `first` on."""
    size = hidden.shape[1]
    normalise_rows(work.hidden[first:], weights.final_norm, weights.eps, work.normed[first:])
    for row in range(len(hidden)):
        stream = work.normed[first + row, :size] if weights.norm_output else work.hidden[first + row]
        copy(stream, hidden[row])
    split_product(work.normed[first:], weights.output, logits, len(work.scores))
