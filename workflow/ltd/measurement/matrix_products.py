"""How much of an autoregressive step is spent in matrix products: the part that no engine can avoid."""

import time
from collections.abc import Callable

import numpy as np
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from ltd.devices import synchronise
from ltd.engine.target import TargetModel

STEPS = 24
# Operators whose own time is a product of matrices; fused attention is counted as something else.
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")
PRODUCT_KERNELS = ("gemm", "gemv", "cutlass", "nvjet", "splitk")  # nvjet: cuBLAS's own on Hopper and later
OUR_PRODUCT_KERNELS = ("_product_kernel", "_adding_kernel", "_gated_kernel")  # of `ltd.engine.gpu.products`
ATTENTION_KERNELS = ("fmha", "flash")


def matrix_product_share(target: TargetModel, prompt: Tensor) -> float:
    """Return time in matrix products over the time of plain steps that follow `prompt` [n], between 0 and 1.

    Compiled products are timed alone, between the steps; others by torch's profiler, the steps without it,
    since it slows everything around them. Both as medians over steps.
    """
    on_gpu = target.device.type == "cuda"
    target.prefill(prompt)
    compiled = getattr(target.forward, "products", None)
    if compiled is not None:
        pairs = [(_step_seconds(target, prompt[-1:]), _seconds(compiled)) for _ in range(STEPS)]
        steps, products = np.median(pairs, axis=0)
        return float(min(products / steps, 1.0))
    seconds = [_step_seconds(target, prompt[-1:]) for _ in range(STEPS)]
    target.prefill(prompt)  # the same steps again: the cache need not hold twice as many
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as recorded:
        for _ in range(STEPS):
            _step_seconds(target, prompt[-1:])
    microseconds = [
        event.self_device_time_total if on_gpu else event.self_cpu_time_total
        for event in recorded.events()
        if event.name in PRODUCTS or (on_gpu and is_product_kernel(event.name))
    ]
    return float(min(per_step(microseconds) / 1e6 / np.median(seconds), 1.0))


def is_product_kernel(name: str) -> bool:
    """Whether a GPU's kernel of this name multiplies matrices."""
    name = name.lower()
    fused = any(word in name for word in ATTENTION_KERNELS)
    return not fused and any(word in name for word in PRODUCT_KERNELS + OUR_PRODUCT_KERNELS)


def per_step(microseconds: list[float]) -> float:
    """Time of all products of a step; every step makes the same ones in the same order.

    A profiler may lose events of a GPU, or be given none there; then the mean has to do.
    """
    if not microseconds or len(microseconds) % STEPS:
        return sum(microseconds) / STEPS
    return float(np.median(np.reshape(microseconds, (STEPS, -1)), axis=0).sum())


def _step_seconds(target: TargetModel, token: Tensor) -> float:
    def step() -> None:
        target.step(token)
        synchronise(target.device)

    synchronise(target.device)
    return _seconds(step)


def _seconds(work: Callable[[], None]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
