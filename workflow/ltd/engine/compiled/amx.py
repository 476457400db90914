"""Products of pairs of bfloat16 in the tile registers of processors with AMX: 16 rows at the price of one.

A tile register holds 16 rows of 64 bytes. One instruction multiplies up to 16 rows of 16 pairs with the
weights of 16 pairs and `LANES` outputs and adds the products to sums of float32; the panels of
`ltd.engine.compiled.products` hold the weights as it wants them. A row's sums depend on its own numbers
alone: within a block of 16 pairs the first of all pairs are added up, and the second of all, then both to the
sum. So results differ from those of `Pairs` by rounding. Denormals count as zero.

llvmlite has no type for these registers, so their instructions are written in assembly.
"""

from collections.abc import Callable

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ltd.engine.compiled.arithmetic import kernel
from ltd.engine.compiled.number_types import LANES
from ltd.engine.compiled.tiles import make_fill

BLOCK = 16  # rows of a tile register, and pairs of a step
PAIR_BYTES = 4  # also of a sum
REGISTERS = 8
CACHE_LINE = 64
# Panels that are read for one block of rows after the other, while in the cache.
SHARED_PANELS = 20
BYTE, WORD, INDEX = ir.IntType(8), ir.IntType(16), ir.IntType(64)


class Roles:
    """Which register holds what, where `blocks` times 16 rows meet `panels` panels."""

    def __init__(self, blocks: int, panels: int) -> None:
        self.blocks, self.panels = blocks, panels
        count = blocks * panels
        self.sums = [[block * panels + panel for panel in range(panels)] for block in range(blocks)]
        self.numbers = list(range(REGISTERS - blocks, REGISTERS))
        # The next weights arrive while those before are multiplied.
        self.weights = list(range(count, REGISTERS - blocks))[-2:]


ONE, TWO = Roles(1, 5), Roles(2, 2)


def _assembly(builder: ir.IRBuilder, text: str, *arguments: ir.Value) -> None:
    kind = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
    builder.asm(kind, text, ",".join(["r"] * len(arguments) + ["~{memory}"]), arguments, True)


def _make_configure(roles: Roles) -> Callable:
    """Kernel that gives the registers of these roles their shapes."""

    @intrinsic
    def configure(typing_context, first, second):
        """For `first` rows in the first block and `second` in the second, if there is one."""

        def emit(context, builder, signature, arguments):
            table = ir.ArrayType(BYTE, 64)
            place = cgutils.alloca_once(builder, table)
            builder.store(ir.Constant(table, None), place)
            start = builder.bitcast(place, BYTE.as_pointer())

            def put(offset: int, value: ir.Value) -> None:
                field = builder.bitcast(builder.gep(start, [INDEX(offset)]), value.type.as_pointer())
                builder.store(value, field, align=1)

            def shape(register: int, rows: ir.Value, bytes_of_row: int) -> None:
                put(16 + 2 * register, WORD(bytes_of_row))
                put(48 + register, rows)

            put(0, BYTE(1))  # the only palette there is
            for block, rows in enumerate(arguments[: roles.blocks]):
                height = builder.trunc(rows, BYTE)
                shape(roles.numbers[block], height, BLOCK * PAIR_BYTES)
                for register in roles.sums[block]:
                    shape(register, height, LANES * PAIR_BYTES)
            for register in roles.weights:
                shape(register, BYTE(BLOCK), LANES * PAIR_BYTES)
            _assembly(builder, "ldtilecfg ($0)", start)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), emit

    return configure


@intrinsic
def _release(typing_context):
    """Leave the registers empty, so that nobody has to save them."""

    def emit(context, builder, signature, arguments):
        _assembly(builder, "tilerelease")
        return context.get_dummy_value()

    return types.void(), emit


def _make_tile(roles: Roles, panels: int) -> Callable:
    """Kernel of `roles.blocks` blocks of rows times `panels` panels, the registers being configured."""

    @intrinsic
    def tile(typing_context, source, row, weight, panel, steps, target):
        """target[row + r, LANES * (panel + p) + l] = sum of source[row + r, i] * weight[panel + p, i, l].

        i runs over `steps`, whole blocks of them; source [R, >= steps] and weight [all panels, >= steps,
        LANES] uint32, pairs of bfloat16; target float32 [R, wide enough].
        """

        def emit(context, builder, signature, arguments):
            row, panel, steps = arguments[1], arguments[3], arguments[4]
            (source, source_stride), (weight, apart), (target, target_stride) = (
                _address(builder, context.make_array(signature.args[i])(context, builder, arguments[i]))
                for i in (0, 2, 5)
            )
            line = INDEX(LANES * PAIR_BYTES)

            def at(base: ir.Value, stride: ir.Value, number: ir.Value) -> ir.Value:
                return builder.add(base, builder.mul(stride, number))

            rows = [builder.add(row, INDEX(BLOCK * block)) for block in range(roles.blocks)]
            columns = [at(weight, apart, builder.add(panel, INDEX(p))) for p in range(panels)]
            for block in range(roles.blocks):
                for register in roles.sums[block][:panels]:
                    _assembly(builder, f"tilezero %tmm{register}")
            ahead = builder.mul(apart, INDEX(panels))
            with cgutils.for_range_slice(builder, INDEX(0), steps, INDEX(BLOCK)) as (i, _):
                for register, first in zip(roles.numbers, rows, strict=True):
                    place = at(at(source, source_stride, first), INDEX(PAIR_BYTES), i)
                    _assembly(builder, f"tileloadd ($0,$1,1), %tmm{register}", place, source_stride)
                for p, column in enumerate(columns):
                    place, held = at(column, line, i), roles.weights[p % 2]
                    _assembly(builder, f"tileloadd ($0,$1,1), %tmm{held}", place, line)
                    _fetch_next(builder, place, ahead)
                    for block, numbers in enumerate(roles.numbers):
                        total = roles.sums[block][p]
                        _assembly(builder, f"tdpbf16ps %tmm{held}, %tmm{numbers}, %tmm{total}")
            for block, first in enumerate(rows):
                for p in range(panels):
                    column = builder.mul(builder.add(panel, INDEX(p)), line)
                    place = builder.add(at(target, target_stride, first), column)
                    text = f"tilestored %tmm{roles.sums[block][p]}, ($0,$1,1)"
                    _assembly(builder, text, place, target_stride)
            return context.get_dummy_value()

        return types.void(source, row, weight, panel, steps, target), emit

    return tile


def _address(builder: ir.IRBuilder, array: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Of an array, and the bytes from one to the next along its first axis."""
    return builder.ptrtoint(array.data, INDEX), cgutils.unpack_tuple(builder, array.strides)[0]


def _fetch_next(builder: ir.IRBuilder, place: ir.Value, ahead: ir.Value) -> None:
    """Ask the memory for the weights that many bytes on, those of the next panels (see
    `ltd.engine.compiled.tiles`).
    """
    offsets = range(0, BLOCK * LANES * PAIR_BYTES, CACHE_LINE)
    _assembly(builder, "\n".join(f"prefetcht1 {offset}($0,$1,1)" for offset in offsets), place, ahead)


def make_product() -> Callable:
    """Kernel of a product; see `ltd.engine.compiled.products.product`. `steps` are whole blocks."""
    configure_one, configure_two = _make_configure(ONE), _make_configure(TWO)
    # Of as many rows as the registers are configured for.
    fill_one, fill_two = (
        make_fill(_make_tile(roles, roles.panels), _make_tile(roles, 1), roles.panels) for roles in (ONE, TWO)
    )

    @kernel(kept=False)
    def product(rows, weight, steps, first, last, target):
        count = len(rows)
        parts = (count + 2 * BLOCK - 1) // (2 * BLOCK)
        together = SHARED_PANELS if parts > 1 else max(last - first, 1)
        for group in range(first, last, together):
            end = min(group + together, last)
            for part in range(parts):
                start, stop = count * part // parts, count * (part + 1) // parts
                if stop - start <= BLOCK:
                    configure_one(stop - start, 0)
                    fill_one(rows, start, weight, steps, group, end, target)
                else:
                    configure_two(BLOCK, stop - start - BLOCK)
                    fill_two(rows, start, weight, steps, group, end, target)
        _release()

    return product
