"""Linear layers for few rows: fused weights, and half-precision packing where it computes the same model.

On a CPU a decoding step reads every weight for a handful of rows, so memory traffic decides. FBGEMM's packed kernels
keep the weight in half precision and multiply in float32: half the traffic, and the same products as long as half
precision represents the weight exactly. Where it does not, or the processor lacks the kernels, float32 layers are used.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LinearFunction = Callable[[Tensor], Tensor]

# Below this many weights a matrix stays in the caches and the packed kernel's start-up costs more than it saves.
SMALLEST_PACKED = 1 << 17


def packed_kernels_available() -> bool:
    """Whether this build of torch has FBGEMM's half-precision linear layers for this processor."""
    engines = {"fbgemm", "x86"}
    return torch.backends.quantized.engine in engines and torch.backends.cpu.get_cpu_capability() != "DEFAULT"


def representable_in_half(weight: Tensor) -> bool:
    """Whether converting a float32 weight to half precision and back changes nothing."""
    return torch.equal(weight.half().float(), weight)


def fused_linear(modules: Sequence[nn.Linear], packed: bool) -> LinearFunction:
    """One product that computes the given layers side by side: rows [R, in] -> [R, sum of outs].

    `packed` allows half-precision packing on a CPU; the choice depends on values and shapes alone, never on timing.
    Outside the CPU the modules' weights become views of the fused one, so that nothing is stored twice.
    """
    weights = [module.weight.detach() for module in modules]
    biases = [module.bias.detach() for module in modules if module.bias is not None]
    weight = torch.cat(weights) if len(weights) > 1 else weights[0]
    bias = torch.cat(biases) if biases else None
    if weight.device.type != "cpu":
        _share(modules, weight)
        return lambda rows: F.linear(rows, weight, bias)
    if weight.dtype != torch.float32:
        return lambda rows: F.linear(rows, weight, bias)
    if packed and weight.numel() >= SMALLEST_PACKED and representable_in_half(weight):
        return _packed(weight, bias)
    return _transposed(weight, bias) if weight.shape[0] >= weight.shape[1] else _plain(weight, bias)


def _share(modules: Sequence[nn.Linear], weight: Tensor) -> None:
    if len(modules) > 1:
        for module, part in zip(modules, weight.split([m.out_features for m in modules]), strict=True):
            module.weight.data = part


def _packed(weight: Tensor, bias: Tensor | None) -> LinearFunction:
    parameters = torch.ops.quantized.linear_prepack_fp16(weight, bias)
    multiply = torch.ops.quantized.linear_dynamic_fp16.default
    return lambda rows: multiply(rows, parameters)


def _plain(weight: Tensor, bias: Tensor | None) -> LinearFunction:
    return lambda rows: F.linear(rows, weight, bias)


def _transposed(weight: Tensor, bias: Tensor | None) -> LinearFunction:
    # For wide outputs and few rows the CPU's product over a row-major [in, out] matrix is about twice as fast.
    columns = weight.t().contiguous()
    if bias is None:
        return lambda rows: torch.mm(rows, columns)
    return lambda rows: torch.addmm(bias, rows, columns)
