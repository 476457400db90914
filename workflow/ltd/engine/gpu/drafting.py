"""What a draft step does beside its network: the best children of every row, and the next beam.

Both pick the best few of many by taking the highest key again and again. A key has the score in its upper
bits and the place below, the earlier the higher, so that of equal scores the first is taken.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ltd.engine.tree import pool_size

NONE = tl.constexpr(-(1 << 63))  # below every key
COLUMNS = 64  # of what a beam sees that one program moves
CHUNK = 1024  # tokens of the draft vocabulary that one program looks at


@triton.jit
def _keys(scores, place):
    """int64 keys of float32 scores at places: ordered as the scores, then against the places."""
    bits = (scores + 0.0).to(tl.int32, bitcast=True)  # one zero, not two
    ordered = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.int64)
    return (ordered << 32) | (0x7FFFFFFF - place).to(tl.int64)


@triton.jit
def _score(key):
    """The score of a key."""
    ordered = (key >> 32).to(tl.int32)
    return tl.where(ordered < 0, ordered ^ 0x7FFFFFFF, ordered).to(tl.float32, bitcast=True)


@triton.jit
def _place(key):
    """The place of a key."""
    return 0x7FFFFFFF - (key & 0xFFFFFFFF)


@triton.jit
def _chunk_kernel(logits, keys, sums, count, stride, BEAM: tl.constexpr, CHUNK: tl.constexpr):
    """The best keys of a chunk of a row, its highest logit and the sum of exponentials below that."""
    row, chunk, chunks = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    token = chunk * CHUNK + tl.arange(0, CHUNK)
    found = tl.load(logits + row * stride + token, mask=token < count, other=float("-inf")).to(tl.float32)
    highest = tl.max(found, 0)
    at = row * chunks + chunk
    tl.store(sums + at * 2, highest)
    tl.store(sums + at * 2 + 1, tl.sum(tl.exp(found - highest), 0))
    key = tl.where(token < count, _keys(found, token), NONE)
    for rank in tl.static_range(BEAM):
        best = tl.max(key, 0)
        tl.store(keys + at * BEAM + rank, best)
        key = tl.where(key == best, NONE, key)


@triton.jit(do_not_specialize=["chunks"])
def _children_kernel(
    keys, sums, parents, target_ids, scores, tokens, chunks,
    BEAM: tl.constexpr, CHUNKS: tl.constexpr, KEYS: tl.constexpr, ADDED: tl.constexpr,
):  # fmt: skip
    """The best of all chunks of a row."""
    row = tl.program_id(0)
    chunk, number = tl.arange(0, CHUNKS), tl.arange(0, KEYS)
    sums += row * chunks * 2
    highest = tl.load(sums + chunk * 2, mask=chunk < chunks, other=float("-inf"))
    share = tl.load(sums + chunk * 2 + 1, mask=chunk < chunks, other=0.0)
    top = tl.max(highest, 0)
    shift = 0.0 - top - tl.log(tl.sum(share * tl.exp(highest - top), 0))
    key = tl.load(keys + row * chunks * BEAM + number, mask=number < chunks * BEAM, other=NONE)
    for rank in tl.static_range(BEAM):
        best = tl.max(key, 0)
        key = tl.where(key == best, NONE, key)
        score = _score(best) + shift
        if ADDED:
            score += tl.load(parents + row)
        tl.store(scores + row * BEAM + rank, score)
        tl.store(tokens + row * BEAM + rank, tl.load(target_ids + _place(best)))


@triton.jit(do_not_specialize=["first", "level", "start", "moved"])
def _beam_kernel(
    scores, tokens, hidden, paths, sees, features, beam_tokens, beam_scores,
    first, level, start, moved, width, path_length, sees_stride,
    BEAM: tl.constexpr, BEAM_ROWS: tl.constexpr, NODES: tl.constexpr, PATH: tl.constexpr,
    COLUMNS: tl.constexpr, BLOCK: tl.constexpr, FIRST: tl.constexpr,
):  # fmt: skip
    """Program r makes the node of rank r a member of the beam; those behind move the rows of `sees`."""
    program = tl.program_id(0)
    number, row = tl.arange(0, NODES), tl.arange(0, BEAM_ROWS)
    offsets = row  # places of the beam's nodes within their level, by rank
    if not FIRST:
        found = tl.load(scores + first + number, mask=number < BEAM * BEAM, other=float("-inf"))
        key = tl.where(number < BEAM * BEAM, _keys(found, number), NONE)
        for rank in tl.static_range(BEAM):
            best = tl.max(key, 0)
            key = tl.where(key == best, NONE, key)
            offsets = tl.where(row == rank, _place(best).to(tl.int32), offsets)
    if program < BEAM:
        offset = tl.sum(tl.where(row == program, offsets, 0), 0)
        node = first + offset
        parent = offset if FIRST else offset // BEAM
        tl.store(beam_tokens + program, tl.load(tokens + node))
        tl.store(beam_scores + program, tl.load(scores + node))
        step = tl.arange(0, PATH)
        above = paths + ((level - 1) * BEAM + parent) * path_length + step
        path = tl.load(above, mask=step < path_length, other=-1)
        path = tl.where(step == level, (node + 1).to(tl.int64), path)
        tl.store(paths + (level * BEAM + program) * path_length + step, path, mask=step < path_length)
        source = hidden if FIRST else hidden + parent * width
        for begin in range(0, width, BLOCK):
            column = begin + tl.arange(0, BLOCK)
            feature = tl.load(source + column, mask=column < width)
            tl.store(features + program * width + column, feature, mask=column < width)
    else:
        column = (program - BEAM) * COLUMNS + tl.arange(0, COLUMNS)
        inside = (row < BEAM)[:, None] & (column < moved)[None, :]
        parents = tl.where(row < BEAM, offsets // BEAM, 0)
        window = sees + start + column[None, :]
        earlier = tl.load(window + parents[:, None] * sees_stride, mask=inside, other=0)
        tl.debug_barrier()  # every row is read before any is written
        tl.store(window + row[:, None] * sees_stride, earlier, mask=inside)


def best_children(
    logits: Tensor, beam: int, parents: Tensor | None, target_ids: Tensor
) -> tuple[Tensor, Tensor]:
    """Of the W best children of rows with logits [R, Vd]: log-probabilities [R * W] in float32, added to the
    `parents` [R] if given, and the target's token ids [R * W]. Of equal logits the first is taken.
    """
    rows, count = logits.shape
    chunks, device = triton.cdiv(count, CHUNK), logits.device
    keys = torch.empty(rows, chunks, beam, dtype=torch.int64, device=device)
    sums = torch.empty(rows, chunks, 2, dtype=torch.float32, device=device)
    scores = torch.empty(rows * beam, dtype=torch.float32, device=device)
    tokens = torch.empty(rows * beam, dtype=torch.int64, device=device)
    _chunk_kernel[(rows, chunks)](
        logits, keys, sums, count, logits.stride(0), BEAM=beam, CHUNK=CHUNK, num_warps=4
    )
    _children_kernel[(rows,)](
        keys, sums, scores if parents is None else parents, target_ids, scores, tokens, chunks,
        BEAM=beam, CHUNKS=triton.next_power_of_2(chunks), KEYS=triton.next_power_of_2(chunks * beam),
        ADDED=parents is not None, num_warps=2,
    )  # fmt: skip
    return scores, tokens


def advance_beam(
    scores: Tensor, tokens: Tensor, hidden: Tensor, paths: Tensor, sees: Tensor, level: int
) -> tuple[Tensor, Tensor, Tensor]:
    """As `ltd.engine.tree.advance_beam`, with `sees` bool in place of an additive mask."""
    beam, width, path_length = sees.shape[0], hidden.shape[1], paths.shape[1]
    moved = (level - 1) * beam
    features = hidden.new_empty(beam, width)
    beam_tokens, beam_scores = tokens.new_empty(beam), scores.new_empty(beam)
    first = pool_size(beam, level - 1)
    _beam_kernel[(beam + triton.cdiv(moved, COLUMNS),)](
        scores, tokens, hidden, paths, sees.view(torch.uint8), features, beam_tokens, beam_scores,
        first, level, sees.shape[1] - moved, moved, width, path_length, sees.stride(0),
        BEAM=beam, BEAM_ROWS=triton.next_power_of_2(beam), NODES=triton.next_power_of_2(beam * beam),
        PATH=triton.next_power_of_2(path_length), COLUMNS=COLUMNS, BLOCK=2048, FIRST=level == 1, num_warps=4,
    )  # fmt: skip
    return features, beam_tokens, beam_scores
