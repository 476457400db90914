"""The inner loop of a matrix product, written as vector code: a few rows times a few panels of weights.

Loops over registers cannot be expressed in Python, so this module emits the loop itself (LLVM code): per
step one number of every row and `LANES` weights of every panel meet in registers. Every output is the sum
over its inputs in their order, so a row's result does not depend on which rows are computed with it.
"""

from collections.abc import Callable

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ltd.engine.compiled.arithmetic import kernel
from ltd.engine.compiled.number_types import (
    FLOAT,
    LANES,
    VECTOR,
    Floats,
    Halves,
    Pairs,
    WidenedPairs,
    made_by_amd,
)

FLOAT_BYTES = 4  # also of a pair of bfloat16
INDEX = ir.IntType(64)
UNROLLED = 4  # steps of a turn of the loop: their weights in half precision fill a line of the cache
CACHE_LINE = 64  # bytes
# How far ahead the weights of pairs are fetched on AMD's processors: 2 KB of every panel.
NEAR_STEPS = 32
INTO_FIRST, INTO_SECOND = 3, 2  # level of the cache, in LLVM's words


def make_tile(rows: int, panels: int, paired: type[WidenedPairs] = Pairs) -> Callable:
    """Kernel of a tile: rows * panels + panels + 1 registers hold sums, weights and a row's number.

    `paired` says how pairs of bfloat16 are multiplied.
    """

    @intrinsic
    def tile(typing_context, source, row, weight, panel, steps, target):
        """target[row + r, LANES * (panel + p) + l] = sum of source[row + r, i] * weight[panel + p, i, l].

        i runs over `steps`; target float32 [R, wide enough]; source [R, >= steps] and weight [all panels, >=
        steps, LANES] float32; or weight uint16 with the bits of half precision; or both uint32, pairs of
        bfloat16.
        """
        numbers = {types.float32: Floats, types.uint16: Halves, types.uint32: paired}[weight.dtype]()

        def emit(context, builder, signature, arguments):
            source, weight, target = (
                context.make_array(signature.args[i])(context, builder, arguments[i]) for i in (0, 2, 5)
            )
            row, panel, steps = arguments[1], arguments[3], arguments[4]
            size = cgutils.unpack_tuple(builder, weight.shape)[1]
            first = builder.mul(panel, builder.mul(size, INDEX(LANES)))
            weights = builder.gep(builder.bitcast(weight.data, numbers.weight.as_pointer()), [first])
            source_row, source_stride = _row(builder, source, row)
            target_row, target_stride = _row(builder, target, row)
            place = builder.gep(target_row, [builder.mul(panel, INDEX(LANES))])
            builder.call(
                _function(builder.module, numbers, rows, panels),
                [source_row, source_stride, weights, size, steps, place, target_stride],
            )
            return context.get_dummy_value()

        return types.void(source, row, weight, panel, steps, target), emit

    return tile


def make_fill(wide: Callable, single: Callable, width: int) -> Callable:
    """Kernel of the rows of a tile times the panels [panel, end): `wide` tiles, of `width` panels, as far as
    they go, then `single` ones.
    """

    @kernel(kept=False)
    def fill(rows, row, weight, steps, panel, end, target):
        while panel + width <= end:
            wide(rows, row, weight, panel, steps, target)
            panel += width
        while panel < end:
            single(rows, row, weight, panel, steps, target)
            panel += 1

    return fill


def _row(builder, array, row) -> tuple:
    """Address of a row of a two-dimensional array of 32 bits, and the numbers from one row to the next."""
    stride = builder.udiv(cgutils.unpack_tuple(builder, array.strides)[0], INDEX(FLOAT_BYTES))
    return builder.gep(array.data, [builder.mul(row, stride)]), stride


def _function(module, numbers: Floats | WidenedPairs, rows: int, panels: int):
    """The tile as a function of its own, made once a module: it is called from many places."""
    weight, number, sums = (kind.as_pointer() for kind in (numbers.weight, numbers.number, FLOAT))
    kind = ir.FunctionType(ir.VoidType(), [number, INDEX, weight, INDEX, INDEX, sums, INDEX])
    function = cgutils.get_or_insert_function(module, kind, f"tile_{numbers.name}_{rows}_{panels}")
    if function.is_declaration:
        function.linkage = "linkonce_odr"
        function.attributes.add("noinline")
        builder = ir.IRBuilder(function.append_basic_block("start"))
        source, source_stride, weight, size, steps, target, target_stride = function.args
        sources = [builder.gep(source, [builder.mul(source_stride, INDEX(r))]) for r in range(rows)]
        apart = builder.mul(size, INDEX(LANES))
        weights = [builder.gep(weight, [builder.mul(apart, INDEX(p))]) for p in range(panels)]
        for r, row_sums in enumerate(_sums(builder, numbers, sources, weights, steps)):
            base = builder.gep(target, [builder.mul(target_stride, INDEX(r))])
            for p, vector in enumerate(row_sums):
                place = builder.gep(base, [INDEX(p * LANES)])
                builder.store(vector, builder.bitcast(place, VECTOR.as_pointer()), align=FLOAT_BYTES)
        builder.ret_void()
    return function


def _sums(builder, numbers: Floats | WidenedPairs, sources: list, weights: list, steps) -> list[list]:
    """The loop over the inputs: a vector of sums for every row and panel."""
    zero = VECTOR([0.0] * LANES)
    sums = [[cgutils.alloca_once_value(builder, zero) for _ in weights] for _ in sources]
    whole = builder.and_(steps, INDEX(-UNROLLED))
    if numbers.name == Pairs.name and made_by_amd():
        ahead, level = INDEX(NEAR_STEPS), INTO_FIRST
    else:
        ahead, level = builder.mul(steps, INDEX(len(weights))), INTO_SECOND  # those of the next panels
    with cgutils.for_range_slice(builder, INDEX(0), whole, INDEX(UNROLLED)) as (i, _):
        for pointer in weights:
            _fetch(builder, pointer, builder.add(i, ahead), level)
        for k in range(UNROLLED):
            _add_products(builder, numbers, sources, weights, builder.add(i, INDEX(k)), sums)
    with cgutils.for_range_slice(builder, whole, steps, INDEX(1)) as (i, _):
        _add_products(builder, numbers, sources, weights, i, sums)
    return [[builder.load(total) for total in row_sums] for row_sums in sums]


def _add_products(
    builder, numbers: Floats | WidenedPairs, sources: list, weights: list, i, sums: list[list]
) -> None:
    """The number of every row times the weights of step `i`, added to the sums."""
    places = [builder.gep(pointer, [builder.mul(i, INDEX(LANES))]) for pointer in weights]
    vectors = [numbers.load_weights(builder, place) for place in places]
    for source, row_sums in zip(sources, sums, strict=True):
        number = numbers.load_number(builder, builder.gep(source, [i]))
        for vector, total in zip(vectors, row_sums, strict=True):
            builder.store(numbers.add_product(builder, builder.load(total), vector, number), total)


def _fetch(builder, pointer, i, level: int) -> None:
    """Ask the memory for the weights of `UNROLLED` steps from `i` on, counted on through the next panels.

    While rows are multiplied with some weights, the next ones arrive: without that a pass over several rows
    takes the time of the arithmetic and that of the memory one after the other. What is fetched a tile ahead
    waits in the second-level cache; on a Zen 5 it gets in the way of what the processor fetches by itself,
    most for a single row (docs/cpu.md, "Fetching ahead").
    """
    byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
    prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    width = LANES * (FLOAT_BYTES // 2 if isinstance(pointer.type.pointee, ir.HalfType) else FLOAT_BYTES)
    start = builder.bitcast(builder.gep(pointer, [builder.mul(i, INDEX(LANES))]), byte)
    for offset in range(0, UNROLLED * width, CACHE_LINE):
        # To read, data.
        builder.call(prefetch, [builder.gep(start, [INDEX(offset)]), number(0), number(level), number(1)])
