"""Runs of small operations that a GPU does in a kernel or two.

Between two matrix products a decoder layer does a handful of things to a few rows, which take no longer to
compute than a kernel to start. Fused, a step of Llama-3.1-8B behind 1000 tokens on an H100 is 481 kernels,
not 866, and takes 7.8 ms, not 9.0. Functions marked here are compiled by torch on a GPU; everywhere else they
run as they are written.
"""

import shutil
import warnings
from collections.abc import Callable
from functools import cache, wraps
from importlib.util import find_spec
from os import environ
from typing import TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


def fused(function: Callable[..., Result]) -> Callable[..., Result]:
    """Compile `function`, whose first argument is a tensor, where that tensor is on a GPU."""

    @cache
    def compiled() -> Callable[..., Result]:
        # A target and its head take five variants of a function; torch stops at eight, for all models.
        torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
        # Said of a softmax over thousands of tokens, and nothing that a user can do about.
        warnings.filterwarnings("ignore", r"\s*Online softmax is disabled on the fly")
        return torch.compile(function)

    @wraps(function)
    def run(first: Tensor, *rest) -> Result:
        chosen = compiled() if first.is_cuda and can_compile() else function
        return chosen(first, *rest)

    return run


def has_kernels(device: torch.device) -> bool:
    """Whether the kernels of `ltd.engine.gpu` are for this device: an NVIDIA GPU that multiplies bfloat16."""
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0) and can_compile()


@cache
def can_compile() -> bool:
    """Whether there is what torch needs to make kernels for a GPU; says once what is missing."""
    missing = [] if find_spec("triton") else ["Triton"]
    if not any(map(shutil.which, (environ.get("CC", "cc"), "gcc", "clang"))):
        missing.append("a C compiler")
    if missing:
        warnings.warn(
            f"{' and '.join(missing)} not found: small operations are not fused, and passes take longer",
            stacklevel=2,
        )
    return not missing
