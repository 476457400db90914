"""Linear layers for few rows: fused weights, and half-precision packing where it computes the same model.

On a CPU a decoding step reads every weight for a handful of rows, so memory traffic decides. FBGEMM's packed
kernels keep the weight in half precision and multiply in float32: half the traffic, and the same products as
long as half precision represents the weight exactly. Where it does not, or the processor lacks the kernels,
float32 layers are used.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Below this many weights starting the packed kernel costs more than it saves.
SMALLEST_PACKED = 1 << 14


class PackedLinear(nn.Module):
    """Rows [R, in] -> [R, out] with the weight held in half precision, products and sums in float32."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.packed = torch.ops.quantized.linear_prepack_fp16(weight, bias)

    def forward(self, rows: Tensor) -> Tensor:
        return torch.ops.quantized.linear_dynamic_fp16(rows, self.packed)


class PlainLinear(nn.Module):
    """Rows [R, in] -> [R, out] with the weight as it is, [out, in]."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, rows: Tensor) -> Tensor:
        return F.linear(rows, self.weight, self.bias)


class TransposedLinear(nn.Module):
    """Rows [R, in] -> [R, out] with the weight as rows of inputs, [in, out].

    For wide outputs and few rows that is about twice as fast on a CPU.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.columns, self.bias = weight.t().contiguous(), bias

    def forward(self, rows: Tensor) -> Tensor:
        product = torch.mm(rows, self.columns)
        if self.bias is not None:
            product += self.bias
        return product


def packed_kernels_available() -> bool:
    """Whether this build of torch has FBGEMM's half-precision linear layers for this processor."""
    vectors = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    return vectors and torch.backends.quantized.engine in ("fbgemm", "x86")


def representable_in_half(weight: Tensor) -> bool:
    """Whether converting a float32 weight to half precision and back changes nothing."""
    return torch.equal(weight.half().float(), weight)


def fused_linear(modules: Sequence[nn.Linear], packed: bool) -> nn.Module:
    """One product that computes the given layers side by side: rows [R, in] -> [R, sum of outs].

    `packed` allows half-precision packing on a CPU; the choice depends on values and shapes alone, never on
    timing. Outside the CPU the modules' weights become views of the fused one: nothing is stored twice.
    """
    weights = [module.weight.detach() for module in modules]
    biases = [module.bias.detach() for module in modules if module.bias is not None]
    weight = torch.cat(weights) if len(weights) > 1 else weights[0]
    bias = torch.cat(biases) if biases else None
    if weight.device.type == "cpu" and weight.dtype == torch.float32:
        large = weight.numel() >= SMALLEST_PACKED
        if packed and large and packed_kernels_available() and representable_in_half(weight):
            return PackedLinear(weight, bias)
        wide = weight.shape[0] >= weight.shape[1]
        return TransposedLinear(weight, bias) if wide else PlainLinear(weight, bias)
    if weight.device.type != "cpu" and len(modules) > 1:
        for module, part in zip(modules, weight.split([m.out_features for m in modules]), strict=True):
            module.weight.data = part
    return PlainLinear(weight, bias)
