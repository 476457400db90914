"""Products of a few rows with a matrix, and what surrounds them in a decoder layer, in one kernel each.

A step reads every weight once, and that is what it should take. A kernel here computes a tile of the result
from all columns of its part of the matrix, so nothing is left to add up afterwards, and does on the way what
would be a kernel of its own: the norm before, the gate or the residual addition behind.

The norm of a row is its elements times a weight each, divided by the row's root mean square. The first is
done by who writes the row, the second by who has multiplied it: `WeightedRows` are what passes between them.
Sums of squares come as one number a tile and row, added up in a fixed order.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ltd.engine.fusion import fused
from ltd.engine.lean_layers import RowNorm

TILE = 64  # rows of the matrix, which are columns of the result, that one program computes
DEPTH = 128  # elements of them at a time
MOST_ROWS = 32  # with more, a library's products take less time
MOST_STAGES = 8  # tiles under way


class WeightedRows(NamedTuple):
    """Rows [R, H] times the weight of their norm; `squares` float32 [parts, R], which add up to the sum of
    squares of the rows before that; and what the norm adds to the mean square.
    """

    rows: Tensor
    squares: Tensor
    eps: float

    def last(self) -> "WeightedRows":
        """The last row alone."""
        return WeightedRows(self.rows[-1:], self.squares[:, -1:], self.eps)


def weigh(rows: Tensor, norm: RowNorm) -> WeightedRows:
    """Rows [R, H] that go through a norm."""
    return WeightedRows(*_weigh(rows, norm.weight), norm.eps)


@fused
def _weigh(rows: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return rows * weight, rows.float().square().sum(dim=-1)[None]


@triton.jit
def _norm_scale(squares, stride, parts, valid, width, eps, MANY: tl.constexpr, ROWS: tl.constexpr):
    """One over the root mean square of every row [ROWS]."""
    part, row = tl.arange(0, MANY)[:, None], tl.arange(0, ROWS)[None, :]
    found = tl.load(squares + part * stride + row, mask=(part < parts) & (row < valid), other=0.0)
    return tl.rsqrt(tl.sum(found, 0) / width + eps)


@triton.jit
def _accumulate(
    matrix, rows, valid, depth, first, TILE: tl.constexpr, DEPTH: tl.constexpr, ROWS: tl.constexpr
):
    """Products [TILE, ROWS] of the matrix's rows `first` and following with all rows."""
    line, row, step = tl.arange(0, TILE), tl.arange(0, ROWS), tl.arange(0, DEPTH)
    left = matrix + (first + line).to(tl.int64)[:, None] * depth + step[None, :]
    right = rows + row[None, :] * depth + step[:, None]
    total = tl.zeros([TILE, ROWS], tl.float32)
    for _ in range(0, depth, DEPTH):
        weights = tl.load(left, eviction_policy="evict_first")
        given = tl.load(right, mask=(row < valid)[None, :], other=0.0)
        total = tl.dot(weights, given, total, input_precision="ieee")
        left += DEPTH
        right += DEPTH
    return total


@triton.jit(do_not_specialize=["valid", "parts", "stride"])
def _product_kernel(
    rows, squares, matrix, bias, out,
    valid, parts, stride, depth, count, eps,
    TILE: tl.constexpr, DEPTH: tl.constexpr, ROWS: tl.constexpr, MANY: tl.constexpr, BIASED: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0) * TILE
    line, row = first + tl.arange(0, TILE), tl.arange(0, ROWS)
    total = _accumulate(matrix, rows, valid, depth, first, TILE, DEPTH, ROWS)
    if MANY > 0:
        total = total * _norm_scale(squares, stride, parts, valid, depth, eps, MANY, ROWS)[None, :]
    if BIASED:
        total += tl.load(bias + line).to(tl.float32)[:, None]
    place = out + row[None, :] * count + line[:, None]
    tl.store(place, total.to(out.dtype.element_ty), mask=(row < valid)[None, :])


@triton.jit(do_not_specialize=["valid"])
def _adding_kernel(
    rows, matrix, residual, weight, out, weighted, squares,
    valid, depth, count,
    TILE: tl.constexpr, DEPTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    part = tl.program_id(0)
    line, row = part * TILE + tl.arange(0, TILE), tl.arange(0, ROWS)
    total = _accumulate(matrix, rows, valid, depth, part * TILE, TILE, DEPTH, ROWS)
    kept = (row < valid)[None, :]
    place = row[None, :] * count + line[:, None]
    # Rounded as if the product and the sum were stored in between.
    update = total.to(out.dtype.element_ty).to(tl.float32)
    before = tl.load(residual + place, mask=kept, other=0.0).to(tl.float32)
    after = (before + update).to(out.dtype.element_ty)
    tl.store(out + place, after, mask=kept)
    wide = after.to(tl.float32)
    scaled = wide * tl.load(weight + line).to(tl.float32)[:, None]
    tl.store(weighted + place, scaled.to(out.dtype.element_ty), mask=kept)
    tl.store(squares + part * valid + row, tl.sum(wide * wide, 0), mask=row < valid)


@triton.jit(do_not_specialize=["valid", "parts", "stride"])
def _gated_kernel(
    rows, squares, matrix, out,
    valid, parts, stride, depth, count, eps,
    TILE: tl.constexpr, DEPTH: tl.constexpr, ROWS: tl.constexpr, MANY: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0) * TILE
    line, row, step = tl.arange(0, TILE), tl.arange(0, ROWS), tl.arange(0, DEPTH)
    gates = matrix + (first + line).to(tl.int64)[:, None] * depth + step[None, :]
    ups = gates + count.to(tl.int64) * depth
    right = rows + row[None, :] * depth + step[:, None]
    gate, up = tl.zeros([TILE, ROWS], tl.float32), tl.zeros([TILE, ROWS], tl.float32)
    for _ in range(0, depth, DEPTH):
        given = tl.load(right, mask=(row < valid)[None, :], other=0.0)
        gate = tl.dot(tl.load(gates, eviction_policy="evict_first"), given, gate, input_precision="ieee")
        up = tl.dot(tl.load(ups, eviction_policy="evict_first"), given, up, input_precision="ieee")
        gates += DEPTH
        ups += DEPTH
        right += DEPTH
    scale = _norm_scale(squares, stride, parts, valid, depth, eps, MANY, ROWS)[None, :]
    gate, up = gate * scale, up * scale
    place = out + row[None, :] * count + (first + line)[:, None]
    tl.store(place, (gate * tl.sigmoid(gate) * up).to(out.dtype.element_ty), mask=(row < valid)[None, :])


def suits(matrix: Tensor, parts: int = 1) -> bool:
    """Whether a matrix [N, K], of so many equal parts one below the other, falls into whole tiles, as it lies
    in memory.
    """
    whole = matrix.shape[0] % (parts * TILE) == 0 and matrix.shape[1] % DEPTH == 0
    return whole and matrix.is_contiguous()


def product(given: Tensor | WeightedRows, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
    """Rows [R, K], normalised if they are `WeightedRows`, times matrix [N, K]: [R, N]."""
    weighted = isinstance(given, WeightedRows)
    rows, squares, eps = given if weighted else (given, given, 0.0)
    parts = squares.shape[0] if weighted else 0
    out = rows.new_empty(len(rows), matrix.shape[0])
    _product_kernel[(matrix.shape[0] // TILE,)](
        rows, squares, matrix, matrix if bias is None else bias, out,
        len(rows), parts, squares.stride(0), matrix.shape[1], matrix.shape[0], eps,
        **_shape(rows, tiles=1), MANY=_power(parts) if weighted else 0, BIASED=bias is not None,
    )  # fmt: skip
    return out


def product_and_add(
    rows: Tensor, matrix: Tensor, residual: Tensor, norm: RowNorm
) -> tuple[Tensor, WeightedRows]:
    """Residual stream [R, N] with rows [R, K] times matrix [N, K] added, itself and on its way through the
    next norm.
    """
    count = matrix.shape[0]
    out, weighted = torch.empty_like(residual), torch.empty_like(residual)
    squares = torch.empty(count // TILE, len(rows), dtype=torch.float32, device=rows.device)
    _adding_kernel[(count // TILE,)](
        rows, matrix, residual, norm.weight, out, weighted, squares,
        len(rows), matrix.shape[1], count,
        **_shape(rows, tiles=1),
    )  # fmt: skip
    return out, WeightedRows(weighted, squares, norm.eps)


def gated_product(given: WeightedRows, matrix: Tensor) -> Tensor:
    """SwiGLU [R, I] of normalised rows [R, K] with matrix [2 * I, K], gates before what they gate."""
    rows, squares, eps = given
    count = matrix.shape[0] // 2
    out = rows.new_empty(len(rows), count)
    _gated_kernel[(count // TILE,)](
        rows, squares, matrix, out,
        len(rows), len(squares), squares.stride(0), matrix.shape[1], count, eps,
        **_shape(rows, tiles=2), MANY=_power(len(squares)),
    )  # fmt: skip
    return out


def _shape(rows: Tensor, tiles: int) -> dict[str, int]:
    """Compile-time constants of a kernel that reads so many tiles of a matrix at a time."""
    height = max(16, _power(len(rows)))
    bytes_under_way = (tiles * TILE + height) * DEPTH * rows.element_size()
    stages = max(2, min(MOST_STAGES, shared_memory(rows.device) // bytes_under_way))
    return {"TILE": TILE, "DEPTH": DEPTH, "ROWS": height, "num_warps": 4, "num_stages": stages}


def _power(count: int) -> int:
    return triton.next_power_of_2(count)


def shared_memory(device: torch.device) -> int:
    """Bytes that a program can have."""
    if device.type != "cuda":
        return 1 << 17
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin
