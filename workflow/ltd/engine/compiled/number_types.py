"""How the numbers of a product are held, and how one step of its loop multiplies them, as LLVM code.

The step of a loop takes one input, or four where numbers are bfloat16, which are held as two pairs side by
side: a vector of weights for every panel, a number for every row, and a vector of sums of float32 for each
two of them. The sums over first and over second pairs are kept apart and added at the end: of instructions
that wait for one another there are half as many, so that one row is multiplied as fast as memory allows.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils
from numba.core.registry import cpu_target

LANES = 8  # outputs of a panel: floats of a register of 256 bits, two pairs of one of 512
FLOAT, HALF, INDEX, TWO_PAIRS = ir.FloatType(), ir.HalfType(), ir.IntType(32), ir.IntType(64)
VECTOR = ir.VectorType(FLOAT, LANES)
_SUMS_OF_PAIRS = ir.VectorType(FLOAT, 2 * LANES)
_BITS_OF_PAIRS = ir.VectorType(ir.IntType(32), 2 * LANES)


class Floats:
    """Weights and rows of float32."""

    name = "float"
    weight, number = FLOAT, FLOAT  # what an element of a panel and of a row is
    weight_bytes, number_bytes = 4, 4
    sums = VECTOR  # of a row and a panel

    def load_weights(self, builder: ir.IRBuilder, place: ir.Value) -> Any:
        """The weights of one step from their address."""
        return builder.load(builder.bitcast(place, VECTOR.as_pointer()), align=4)

    def load_number(self, builder: ir.IRBuilder, place: ir.Value) -> Any:
        """The number of a row, in every lane, from its address."""
        return _everywhere(builder, builder.load(place))

    def add_product(self, builder: ir.IRBuilder, total: ir.Value, weights: Any, number: Any) -> ir.Value:
        """total + weights * number, in every lane."""
        return _fused_multiply_add(builder, number, weights, total)

    def total(self, builder: ir.IRBuilder, sums: ir.Value) -> ir.Value:
        """The sum of every output, [LANES]."""
        return sums


class Halves(Floats):
    """Weights of half precision, rows of float32."""

    name, weight, weight_bytes = "half", HALF, 2

    def load_weights(self, builder: ir.IRBuilder, place: ir.Value) -> Any:
        halves = ir.VectorType(HALF, LANES)
        return builder.fpext(builder.load(builder.bitcast(place, halves.as_pointer()), align=2), VECTOR)


class WidenedPairs:
    """Two pairs of bfloat16, in each the first in the lower half of 32 bits: the second's product is added
    before the first's, each with one rounding, as the instruction for pairs does (see `Pairs`).
    """

    name = "widened"
    weight, number = TWO_PAIRS, TWO_PAIRS
    weight_bytes, number_bytes = 8, 8
    sums = _SUMS_OF_PAIRS  # of every output that over the first pairs, then that over the second ones

    def load_weights(self, builder: ir.IRBuilder, place: ir.Value) -> Any:
        return _widened(builder, _load_pairs(builder, place))

    def load_number(self, builder: ir.IRBuilder, place: ir.Value) -> Any:
        return _widened(builder, builder.bitcast(_everywhere(builder, builder.load(place)), _BITS_OF_PAIRS))

    def add_product(self, builder: ir.IRBuilder, total: ir.Value, weights: Any, number: Any) -> ir.Value:
        total = _fused_multiply_add(builder, number[1], weights[1], total)
        return _fused_multiply_add(builder, number[0], weights[0], total)

    def total(self, builder: ir.IRBuilder, sums: ir.Value) -> ir.Value:
        # Taken apart as integers. A sum of shuffled lanes would become an instruction (VHADDPS) that only
        # knows half of the registers, for which all sums would then compete.
        both = builder.bitcast(sums, ir.VectorType(TWO_PAIRS, LANES))
        later = builder.lshr(both, ir.Constant(both.type, [32] * LANES))
        first, second = (
            builder.bitcast(builder.trunc(bits, ir.VectorType(INDEX, LANES)), VECTOR)
            for bits in (both, later)
        )
        return builder.fadd(first, second)


class Pairs(WidenedPairs):
    """The same by one instruction of x86 processors with AVX512_BF16; it takes denormals for zero."""

    name = "pairs"

    def load_weights(self, builder: ir.IRBuilder, place: ir.Value) -> Any:
        return _load_pairs(builder, place)

    def load_number(self, builder: ir.IRBuilder, place: ir.Value) -> Any:
        return _everywhere(builder, builder.load(place))

    def add_product(self, builder: ir.IRBuilder, total: ir.Value, weights: Any, number: Any) -> ir.Value:
        kind = ir.FunctionType(self.sums, [self.sums, _BFLOATS, _BFLOATS])
        name = f"llvm.x86.avx512bf16.dpbf16ps.{32 * self.sums.count}"
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


_BFLOATS = ir.VectorType(_BFloat(), 4 * LANES)


def multiplies_pairs() -> bool:
    """Whether the processor that Numba compiles for multiplies pairs of bfloat16 by an instruction."""
    return "+avx512bf16" in cpu_target.target_context.codegen().magic_tuple()[2].split(",")


def _everywhere(builder: ir.IRBuilder, number: ir.Value) -> ir.Value:
    """A vector with the same number for every output of a panel."""
    undefined = ir.Constant(ir.VectorType(number.type, LANES), ir.Undefined)
    first = builder.insert_element(undefined, number, INDEX(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(INDEX, LANES), [0] * LANES))


def _load_pairs(builder: ir.IRBuilder, place: ir.Value) -> ir.Value:
    """The pairs of a step of a panel, from their address."""
    return builder.load(builder.bitcast(place, _BITS_OF_PAIRS.as_pointer()), align=8)


def _widened(builder: ir.IRBuilder, pairs: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Firsts and seconds of pairs of bfloat16 as float32, which begins with the same bits."""
    shift = ir.Constant(_BITS_OF_PAIRS, [16] * 2 * LANES)
    mask = ir.Constant(_BITS_OF_PAIRS, [0xFFFF0000] * 2 * LANES)
    first, second = builder.shl(pairs, shift), builder.and_(pairs, mask)
    return builder.bitcast(first, _SUMS_OF_PAIRS), builder.bitcast(second, _SUMS_OF_PAIRS)


def _fused_multiply_add(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    kind = ir.FunctionType(c.type, [c.type] * 3)
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{c.type.count}f32")
    return builder.call(function, [a, b, c])
