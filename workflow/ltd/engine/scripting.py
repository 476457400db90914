"""Compile small-model code on a CPU with TorchScript, which needs no C++ compiler on the machine.

A decoding step of a small model is a few hundred operations of a few microseconds each; starting them from
Python takes longer than the arithmetic of many of them. TorchScript runs the same operations without that.
On a GPU, where its fusers would compile kernels at run time, the code stays as it is.
"""

import warnings
from typing import Any

import torch


def scripted(code: Any, device: torch.device, wanted: bool = True) -> Any:
    """TorchScript of a module or function for a CPU, `code` itself elsewhere or when not wanted."""
    if not wanted or device.type != "cpu":
        return code
    with warnings.catch_warnings():
        # Deprecated in favour of compilers that need a toolchain; the pinned torch has it.
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(code)
