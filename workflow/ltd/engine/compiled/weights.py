"""Weights as the kernels want them: matrices side by side, in the fewest bytes that hold the same model."""

from collections.abc import Callable, Iterable, Sequence

import llvmlite.binding
import numpy as np
import torch
from torch import Tensor, nn

from ltd.bfloat16 import RoundingLinear
from ltd.engine.compiled.layer import LayerWeights
from ltd.engine.compiled.products import padded_width, paired, panels_of

Holding = Callable[[Tensor], np.ndarray]


def half_precision_available() -> bool:
    """Whether the processor turns half precision into float32 by an instruction."""
    features = llvmlite.binding.get_host_cpu_features()
    return bool(features.get("f16c") or features.get("fullfp16") or features.get("neon"))


def representable_in_half(weight: Tensor) -> bool:
    """Whether converting a float32 weight to half precision and back changes nothing."""
    return torch.equal(weight.half().float(), weight)


def holding(modules: Iterable[nn.Module], packed: bool) -> Holding:
    """How to hold all linear layers in there: pairs of bfloat16 for layers in bfloat16; for others half
    precision where that changes nothing and `packed` allows it, at half the memory traffic, else float32.
    """
    linear = [layer for module in modules for layer in module.modules() if isinstance(layer, nn.Linear)]
    if all(isinstance(layer, RoundingLinear) for layer in linear):
        return in_pairs
    exact = packed and half_precision_available()
    return in_half if exact and all(representable_in_half(layer.weight) for layer in linear) else in_float


def in_float(weight: Tensor) -> np.ndarray:
    """A float32 weight [out, in] as it is."""
    return weight.numpy()


def in_half(weight: Tensor) -> np.ndarray:
    """The bits of half precision [out, in]."""
    return weight.half().numpy().view(np.uint16)


def in_pairs(weight: Tensor) -> np.ndarray:
    """Pairs of bfloat16 [out, in / 2]."""
    return paired(weight.bfloat16().view(torch.uint16).numpy())


def matrix(modules: Sequence[nn.Linear], hold: Holding) -> np.ndarray:
    """Weights of layers side by side as `product` reads them."""
    return panels_of(hold(torch.cat([module.weight.detach() for module in modules])))


def vector(norm: nn.Module) -> np.ndarray:
    """Weight of a norm, [size]."""
    return norm.weight.detach().numpy().copy()


def layer_weights(attention: nn.Module, mlp: nn.Module, mlp_norm: nn.Module, hold: Holding) -> LayerWeights:
    """Weights of a layer with transformers' names for its parts."""
    qkv = [attention.q_proj, attention.k_proj, attention.v_proj]
    norms = [attention.q_norm, attention.k_norm] if hasattr(attention, "q_norm") else []
    empty = np.zeros((0, attention.head_dim), np.float32)
    return LayerWeights(
        qkv=matrix(qkv, hold),
        qkv_bias=np.concatenate([_bias(module) for module in qkv]),
        head_norms=np.stack([vector(norm) for norm in norms]) if norms else empty,
        output=matrix([attention.o_proj], hold),
        output_bias=_bias(attention.o_proj),
        mlp_norm=vector(mlp_norm),
        gate_up=np.concatenate([matrix([mlp.gate_proj], hold), matrix([mlp.up_proj], hold)]),
        gate_up_bias=np.concatenate([_whole_panels(_bias(mlp.gate_proj)), _whole_panels(_bias(mlp.up_proj))]),
        down=matrix([mlp.down_proj], hold),
        down_bias=_bias(mlp.down_proj),
    )


def stacked(layers: Iterable[LayerWeights], count: int) -> LayerWeights:
    """The same fields with the layers, `count` of them, as first dimension; one at a time is held twice."""
    whole: LayerWeights | None = None
    for index, layer in enumerate(layers):
        if whole is None:
            whole = LayerWeights(*(np.empty((count, *field.shape), field.dtype) for field in layer))
        for field, part in zip(whole, layer, strict=True):
            field[index] = part
    return whole


def _whole_panels(bias: np.ndarray) -> np.ndarray:
    return np.pad(bias, (0, padded_width(len(bias)) - len(bias)))


def _bias(module: nn.Linear) -> np.ndarray:
    if module.bias is None:
        return np.zeros(module.out_features, np.float32)
    return module.bias.detach().numpy().copy()
