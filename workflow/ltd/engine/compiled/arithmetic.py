"""What every kernel here is made of: how they are compiled, maxima, exponentials, norms.

Numbers are float32. The compiler may take sums in another order (that is what lets them run in vector
registers), but one kernel does the same for the same row whatever is beside it.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ltd.engine.compiled.number_types import has_tile_registers

# Kernels may then be called by several threads of Python. Torch's wheels bring an OpenMP library of their
# own, whose threads sleep while a pass runs.
numba.config.THREADING_LAYER = "omp"


def _cache_folder() -> Path:
    """Where machine code is kept: one folder per state of the sources, because Numba does not notice when a
    kernel that another one calls has changed, and whether the system allows AMX, which it does not ask.
    """
    sources = sorted(Path(__file__).parent.glob("*.py"))
    state = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    beside, home = Path(__file__).parent / "__pycache__", Path.home() / ".cache" / "learning-to-draft"
    name = f"kernels-{state}{'-amx' * has_tile_registers()}"
    return (beside if os.access(beside.parent, os.W_OK) else home) / name


numba.config.CACHE_DIR = str(_cache_folder())

# What the compiler may do to sums and products: take them in another order, or both in one instruction.
RELAXED = {"reassoc", "contract", "nsz", "arcp"}
AS_WRITTEN = {"contract"}
# Threads only where a kernel says so: looking for more takes seconds of compiling and finds nothing.
OTHER_PARALLEL = ("comprehension", "reduction", "inplace_binop", "setitem", "numpy", "stencil", "fusion")
THREADS = {"prange": True} | dict.fromkeys(OTHER_PARALLEL, False)


def kernel(
    function: Callable | None = None,
    *,
    parallel: bool = False,
    arithmetic: set[str] = RELAXED,
    kept: bool = True,
) -> Callable:
    """Compile a function at its first call, or read it from the cache of an earlier process.

    Functions that are made by a function are not `kept` themselves: Numba tells them apart by their place in
    the source. Whoever calls them is, with them inside.
    """
    threads = THREADS if parallel else False
    compiled = numba.njit(fastmath=arithmetic, parallel=threads, nogil=True, cache=kept, error_model="numpy")
    return compiled(function) if function is not None else compiled


@intrinsic
def float_of_bits(typing_context, bits):
    """The float32 that has these bits, an int32."""

    def convert(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), convert


@intrinsic
def bits_of_float(typing_context, number):
    """The bits of a float32, a uint32."""

    def convert(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), convert


@intrinsic
def _larger(typing_context, first, second):
    """The larger of two float32 that are numbers. Python's `max` has to say what it does with others, and a
    loop that says so does not become vector code.
    """

    def choose(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.FloatType(), [ir.FloatType()] * 2)
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.maxnum.f32")
        return builder.call(function, arguments, fastmath=("nnan", "nsz"))

    return types.float32(types.float32, types.float32), choose


@kernel
def highest(numbers):
    """The largest of a row [>= 1]; any of them where one is NaN."""
    found = numbers[0]
    for i in range(len(numbers)):
        found = _larger(found, numbers[i])
    return found


@kernel(arithmetic=AS_WRITTEN)
def exponential(x):
    """e^x to float32 rounding, without a call, so that loops over it become vector code; 0 below -87."""
    bounded = min(max(x, np.float32(-87.0)), np.float32(88.0))
    # Adding and taking away 1.5 * 2^23 rounds to a whole number.
    whole = bounded * np.float32(1.44269504) + np.float32(12582912.0) - np.float32(12582912.0)
    # ln 2 in two parts: the first has few digits, so that its product with a whole number is exact.
    rest = bounded - whole * np.float32(0.693359375) + whole * np.float32(2.12194440e-4)
    # Taylor's series up to the seventh power: |rest| <= ln(2) / 2.
    series = np.float32(1 / 5040) * rest + np.float32(1 / 720)
    series = series * rest + np.float32(1 / 120)
    series = series * rest + np.float32(1 / 24)
    series = series * rest + np.float32(1 / 6)
    series = series * rest + np.float32(1 / 2)
    series = series * rest * rest + rest + np.float32(1)
    power = float_of_bits((np.int32(whole) + np.int32(127)) << np.int32(23))
    return series * power if x >= np.float32(-87.0) else np.float32(0)


@kernel
def normalise(source, weight, eps, target):
    """Root-mean-square norm of a row: source [>= size], weight [size], target [>= size]."""
    total, size = np.float32(0), len(weight)
    for i in range(size):
        total += source[i] * source[i]
    scale = np.float32(1) / np.sqrt(total / np.float32(size) + eps)
    for i in range(size):
        target[i] = source[i] * scale * weight[i]


@kernel
def normalise_rows(source, weight, eps, target):
    """The same for rows [R, >= size]."""
    for row in range(len(source)):
        normalise(source[row], weight, eps, target[row])


@kernel
def copy(source, target):
    """target[:] = source, for rows of one length (compiling an assignment's error messages takes seconds)."""
    for i in range(len(source)):
        target[i] = source[i]
