"""Linear layers for few rows: fused weights, and half-precision packing where it computes the same model.

On a CPU a decoding step reads every weight for a handful of rows, so memory traffic decides. FBGEMM's
packed kernels keep the weight in half precision and multiply in float32: half the traffic, and the same
products as long as half precision represents the weight exactly. Where it does not, or the processor lacks
the kernels, float32 layers are used.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LinearFunction = Callable[[Tensor], Tensor]

# Below this many weights a matrix stays in the caches and the packed kernel's start-up costs more than it
# saves.
SMALLEST_PACKED = 1 << 17


class PackedLinear:
    """Rows [R, in] -> [R, out] with the weight held in half precision, products and sums in float32."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.parameters = torch.ops.quantized.linear_prepack_fp16(weight, bias)
        self.multiply = torch.ops.quantized.linear_dynamic_fp16.default

    def __call__(self, rows: Tensor) -> Tensor:
        return self.multiply(rows, self.parameters)


def packed_kernels_available() -> bool:
    """Whether this build of torch has FBGEMM's half-precision linear layers for this processor."""
    return torch.backends.quantized.engine in ("fbgemm", "x86") and _vector_instructions()


def _vector_instructions() -> bool:
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def representable_in_half(weight: Tensor) -> bool:
    """Whether converting a float32 weight to half precision and back changes nothing."""
    return torch.equal(weight.half().float(), weight)


def fused_linear(modules: Sequence[nn.Linear], packed: bool) -> LinearFunction:
    """One product that computes the given layers side by side: rows [R, in] -> [R, sum of outs].

    `packed` allows half-precision packing on a CPU; the choice depends on values and shapes alone, never on
    timing. Outside the CPU the modules' weights become views of the fused one: nothing is stored twice.
    """
    weights = [module.weight.detach() for module in modules]
    biases = [module.bias.detach() for module in modules if module.bias is not None]
    weight = torch.cat(weights) if len(weights) > 1 else weights[0]
    bias = torch.cat(biases) if biases else None
    if weight.device.type == "cpu" and weight.dtype == torch.float32:
        return _cpu_linear(weight, bias, packed and packed_kernels_available())
    if weight.device.type != "cpu" and len(modules) > 1:
        for module, part in zip(modules, weight.split([m.out_features for m in modules]), strict=True):
            module.weight.data = part
    return lambda rows: F.linear(rows, weight, bias)


def _cpu_linear(weight: Tensor, bias: Tensor | None, packed: bool) -> LinearFunction:
    if packed and weight.numel() >= SMALLEST_PACKED and representable_in_half(weight):
        return PackedLinear(weight, bias)
    if weight.shape[0] < weight.shape[1]:
        return lambda rows: F.linear(rows, weight, bias)
    # For wide outputs and few rows a product over the row-major [in, out] matrix is about twice as fast.
    columns = weight.t().contiguous()
    if bias is None:
        return lambda rows: torch.mm(rows, columns)
    return lambda rows: torch.addmm(bias, rows, columns)
