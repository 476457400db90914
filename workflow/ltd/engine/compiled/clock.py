"""The clock of `time.perf_counter` inside of kernels."""

import time

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ltd.engine.compiled.arithmetic import kernel

LONG, INT, BYTES = ir.IntType(64), ir.IntType(32), ir.IntType(8).as_pointer()


@kernel
def seconds_now():
    """Seconds since some moment in the past, float64: what perf_counter reads on Linux."""
    seconds, nanoseconds = _read_clock()
    return seconds + 1e-9 * nanoseconds


@intrinsic
def _read_clock(typing_context):
    """Whole seconds and the nanoseconds beyond, as the C library's clock_gettime gives them."""

    def emit(context, builder, signature, arguments):
        timespec = cgutils.alloca_once(builder, ir.ArrayType(LONG, 2))
        kind = ir.FunctionType(INT, [INT, BYTES])
        clock_gettime = cgutils.get_or_insert_function(builder.module, kind, "clock_gettime")
        builder.call(clock_gettime, [INT(time.CLOCK_MONOTONIC), builder.bitcast(timespec, BYTES)])
        return builder.load(timespec)

    return types.UniTuple(types.int64, 2)(), emit
