"""How much of an autoregressive step is spent in matrix products: the part that no engine can avoid."""

import time

from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from ltd.devices import synchronise
from ltd.target import TargetModel

STEPS = 24
# Operators whose own time is a product of matrices; fused attention is counted as something else.
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "quantized::linear_dynamic_fp16")


def matrix_product_share(target: TargetModel, prompt: Tensor) -> float:
    """Return time in matrix products over the time of plain steps that follow `prompt` [n], between 0 and 1.

    The products are timed by torch's profiler, the steps without it, since it slows everything around them.
    """
    target.prefill(prompt)
    token = prompt[-1:]
    for _ in range(4):
        target.step(token)
    synchronise(target.device)
    begun = time.perf_counter()
    for _ in range(STEPS):
        target.step(token)
    synchronise(target.device)
    seconds = (time.perf_counter() - begun) / STEPS
    on_gpu = target.device.type == "cuda"
    activities = [ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]
    with profile(activities=activities) as recorded:
        for _ in range(STEPS):
            target.step(token)
        synchronise(target.device)
    products = sum(
        event.self_device_time_total if on_gpu else event.self_cpu_time_total
        for event in recorded.key_averages()
        if event.key in PRODUCTS
        or (on_gpu and any(word in event.key for word in ("gemm", "gemv", "cutlass")))
    )
    return min(products / 1e6 / STEPS / seconds, 1.0)
