"""How the numbers of a product are held, and how one step of its loop multiplies them, as LLVM code.

The step of a loop takes one input, or two where numbers are held in pairs of bfloat16: a vector of weights
for every panel, a number for every row, and a sum of float32 for each pair of them.
"""

import ctypes
from functools import cache
from typing import Any

from llvmlite import binding, ir
from numba.core import cgutils
from numba.core.registry import cpu_target


def _has(feature: str) -> bool:
    """Whether the processor that Numba compiles for has it, in LLVM's words."""
    return f"+{feature}" in cpu_target.target_context.codegen().magic_tuple()[2].split(",")


# Outputs of a panel: what a register of 256 bits holds, or one of 512 on processors like the one that was
# measured with them.
LANES = 16 if _has("avx512bf16") else 8
FLOAT, HALF, BITS = ir.FloatType(), ir.HalfType(), ir.IntType(32)
VECTOR, BIT_VECTOR = ir.VectorType(FLOAT, LANES), ir.VectorType(BITS, LANES)
# Linux's arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA), on x86.
ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA = 158, 0x1023, 18


class Floats:
    """Weights and rows of float32."""

    name = "float"
    weight, number = FLOAT, FLOAT  # what an element of a panel and of a row is

    def load_weights(self, builder: ir.IRBuilder, place: ir.Value) -> Any:
        """The weights of one step from their address."""
        return builder.load(builder.bitcast(place, VECTOR.as_pointer()), align=4)

    def load_number(self, builder: ir.IRBuilder, place: ir.Value) -> Any:
        """The number of a row, in every lane, from its address."""
        return _everywhere(builder, builder.load(place))

    def add_product(self, builder: ir.IRBuilder, total: ir.Value, weights: Any, number: Any) -> ir.Value:
        """total + weights * number, in every lane."""
        return _fused_multiply_add(builder, number, weights, total)


class Halves(Floats):
    """Weights of half precision, rows of float32."""

    name, weight = "half", HALF

    def load_weights(self, builder: ir.IRBuilder, place: ir.Value) -> Any:
        halves = ir.VectorType(HALF, LANES)
        return builder.fpext(builder.load(builder.bitcast(place, halves.as_pointer()), align=2), VECTOR)


class WidenedPairs:
    """Pairs of bfloat16, the first in the lower half of 32 bits: the second's product is added before the
    first's, each with one rounding, as the instruction for pairs does (see `Pairs`).
    """

    name = "widened"
    weight, number = BITS, BITS

    def load_weights(self, builder: ir.IRBuilder, place: ir.Value) -> Any:
        return _widened(builder, builder.load(builder.bitcast(place, BIT_VECTOR.as_pointer()), align=4))

    def load_number(self, builder: ir.IRBuilder, place: ir.Value) -> Any:
        return _widened(builder, _everywhere(builder, builder.load(place)))

    def add_product(self, builder: ir.IRBuilder, total: ir.Value, weights: Any, number: Any) -> ir.Value:
        total = _fused_multiply_add(builder, number[1], weights[1], total)
        return _fused_multiply_add(builder, number[0], weights[0], total)


class Pairs(WidenedPairs):
    """The same by one instruction of x86 processors with AVX512_BF16; it takes denormals for zero."""

    name = "pairs"

    def load_weights(self, builder: ir.IRBuilder, place: ir.Value) -> Any:
        return builder.load(builder.bitcast(place, BIT_VECTOR.as_pointer()), align=4)

    def load_number(self, builder: ir.IRBuilder, place: ir.Value) -> Any:
        return _everywhere(builder, builder.load(place))

    def add_product(self, builder: ir.IRBuilder, total: ir.Value, weights: Any, number: Any) -> ir.Value:
        kind = ir.FunctionType(VECTOR, [VECTOR, _BFLOATS, _BFLOATS])
        name = f"llvm.x86.avx512bf16.dpbf16ps.{32 * LANES}"
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        return builder.call(function, [total, *(builder.bitcast(x, _BFLOATS) for x in (weights, number))])


class _BFloat(ir.Type):
    """LLVM's bfloat, which llvmlite has no name for."""

    def __str__(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


_BFLOATS = ir.VectorType(_BFloat(), 2 * LANES)


def multiplies_pairs() -> bool:
    """Whether the processor that Numba compiles for multiplies pairs of bfloat16 by an instruction."""
    return _has("avx512bf16")


@cache
def has_tile_registers() -> bool:
    """Whether that processor has AMX for bfloat16, and the system lets this process use it: it is asked."""
    if not (_has("amx-tile") and _has("amx-bf16")):
        return False
    binding.initialize_native_asmparser()
    return ctypes.CDLL(None).syscall(ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA) == 0


def made_by_amd() -> bool:
    """Whether that processor is one of AMD's Zen."""
    return cpu_target.target_context.codegen().magic_tuple()[1].startswith("znver")


def vector_registers() -> int:
    """How many registers of `LANES` numbers that processor has."""
    return 32 if _has("avx512vl") else 16


def _everywhere(builder: ir.IRBuilder, number: ir.Value) -> ir.Value:
    """A vector with the same number in every lane."""
    undefined = ir.Constant(ir.VectorType(number.type, LANES), ir.Undefined)
    first = builder.insert_element(undefined, number, BITS(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(BIT_VECTOR, [0] * LANES))


def _widened(builder: ir.IRBuilder, pairs: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Firsts and seconds of pairs of bfloat16 as float32, which begins with the same bits."""
    shift = ir.Constant(BIT_VECTOR, [16] * LANES)
    mask = ir.Constant(BIT_VECTOR, [0xFFFF0000] * LANES)
    first, second = builder.shl(pairs, shift), builder.and_(pairs, mask)
    return builder.bitcast(first, VECTOR), builder.bitcast(second, VECTOR)


def _fused_multiply_add(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    kind = ir.FunctionType(VECTOR, [VECTOR] * 3)
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f32")
    return builder.call(function, [a, b, c])
