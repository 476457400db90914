"""What stays the same from call to call, handed to kernels as one thing.

Every array of a call costs time to hand over, most where a pass has just sent the weights through the
processor's caches: there the forty of a draft head take 25 microseconds (docs/cpu.md).
"""

from collections.abc import Callable
from typing import Any

from numba import typeof, types
from numba.experimental import structref

from ltd.engine.compiled.arithmetic import kernel


@structref.register
class BundleType(types.StructRef):
    """The type of a `Bundle`, one for each type of value."""


class Bundle(structref.StructRefProxy):
    """Kernels find in `value` what `bundle` was given, with the same arrays; Python only passes it on."""


structref.define_proxy(Bundle, BundleType, ["value"])


@kernel
def bundle(value):
    """A `Bundle` of a number, an array or any (named) tuple of them. Python's own call of the class would be
    compiled anew in every process.
    """
    return Bundle(value)


def compile_for(function: Callable, *arguments: Any) -> None:
    """Compile a kernel for arguments of these types, or read it from the cache; it does not run."""
    function.compile(tuple(map(typeof, arguments)))
