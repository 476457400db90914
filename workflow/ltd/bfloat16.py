"""What `dtype: bfloat16` means on a CPU.

All weights are values of bfloat16. The inputs of every linear layer are rounded to bfloat16 (to the nearest,
ties to even); their products with the weights are summed in float32. Everything else is float32: norms,
attention, the residual stream, softmax, logits.

Weights and activations are therefore float32 tensors, in PyTorch as in the compiled engine, and both compute
the same but for the order of sums (there: pairs of inputs in their order, the second of a pair before the
first, every addition rounded; with AMX blocks of pairs). On a GPU bfloat16 is PyTorch's own number type, in
which activations are rounded, too.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def round_inputs(inputs: Tensor) -> Tensor:
    """Values of bfloat16, held in float32."""
    return inputs.bfloat16().float()


class RoundingLinear(nn.Linear):
    """A linear layer of float32 that rounds its inputs to bfloat16, as its weights have been."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(round_inputs(input), self.weight, self.bias)


def round_linear_inputs(module: nn.Module) -> nn.Module:
    """Let the linear layers of a float32 module round their inputs, in place."""
    for layer in module.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = RoundingLinear  # the weight stays the same object: it may be tied to another
    return module


@torch.no_grad()
def to_bfloat16(module: nn.Module) -> nn.Module:
    """Round all weights of a float32 module, too, in place."""
    for weight in module.parameters():
        weight.copy_(weight.bfloat16())
    return round_linear_inputs(module)


def without_rounding(model: nn.Module) -> nn.Module:
    """A float32 model of the same weights, not copied, whose linear layers do not round their inputs."""
    weights = (*model.parameters(), *model.buffers())
    plain = copy.deepcopy(model, {id(weight): weight for weight in weights})
    for layer in plain.modules():
        if isinstance(layer, RoundingLinear):
            layer.__class__ = nn.Linear
    return plain


def in_bfloat16(module: nn.Module) -> bool:
    """Whether the linear layers of a module round their inputs."""
    return any(isinstance(layer, RoundingLinear) for layer in module.modules())


def held_in_float32(number_type: torch.dtype, device: torch.device) -> bool:
    """Whether a model of this number type needs `to_bfloat16` there."""
    return number_type == torch.bfloat16 and device.type == "cpu"


def computes_in(model: nn.Module) -> torch.dtype:
    """Number type of a transformers model's products, which is not that of its tensors in the case above."""
    return torch.bfloat16 if in_bfloat16(model) else model.dtype


def saved_type(number_type: torch.dtype) -> torch.dtype:
    """What trained weights are rounded to for a model of this number type, so that the engine, which holds
    them in 16 bits, computes the model that was evaluated: bfloat16 for bfloat16, else half precision.
    """
    return torch.bfloat16 if number_type == torch.bfloat16 else torch.float16
