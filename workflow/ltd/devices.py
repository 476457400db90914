"""Where the work runs: device, threads, synchronisation, and the name that measurements carry."""

import os
import platform
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch

from ltd.errors import InputError


def resolve_device(device: str) -> torch.device:
    """Turn `auto`, `cpu` or `cuda` into a torch device; `auto` takes the GPU where there is one.

    Raises InputError when CUDA is asked for and absent.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"device: {device!r} is not one of auto, cpu, cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device: cuda asked for, but torch sees no GPU; use cpu, or install torch for CUDA")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def working_on(device: torch.device) -> AbstractContextManager:
    """Context in which a GPU is the current one: streams and graphs belong to that; nothing on a CPU."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def set_threads(threads: int) -> int:
    """Fix the number of threads of torch's CPU kernels (0: all cores this process may use) and return it.

    Raises InputError for a negative one.
    """
    if threads < 0:
        raise InputError(f"threads: {threads} is negative; use 0 for all cores, or how many")
    count = threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(count)
    return count


@cache
def has_numba() -> bool:
    """Whether kernels can be compiled for the CPU. Decoding there needs them; decoding on a GPU, where Python
    and numpy may be of versions that Numba does not know yet, decides more slowly without.
    """
    try:
        import numba  # noqa: F401
    except Exception:  # beside a numpy that it does not know, not only an ImportError
        return False
    return True


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether products in bfloat16 are an instruction of the device; elsewhere they are emulated, slowly.

    Versions of torch that do not tell about the processor are taken for one without.
    """
    if device.type == "cuda":
        return True
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16", False))


def mixed_precision(device: torch.device) -> torch.autocast:
    """Context to train in: matrix products in bfloat16 where the device multiplies it, else all in float32.

    Parameters, gradients and optimiser states are float32 in either case.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=multiplies_bfloat16(device))


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished all queued work; nothing to do on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_name(device: torch.device) -> str:
    """Return the processor's or GPU's model name, as measurements are labelled with it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux: the platform's own word for the processor is the best there is
    return platform.processor() or platform.machine()
