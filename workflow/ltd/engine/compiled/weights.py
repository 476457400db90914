"""Weights as the kernels want them: matrices side by side, in half precision where that is the same model."""

from collections.abc import Sequence

import llvmlite.binding
import numpy as np
import torch
from torch import Tensor, nn

from ltd.engine.compiled.layer import LayerWeights
from ltd.engine.compiled.products import padded_width, panels_of


def half_precision_available() -> bool:
    """Whether the processor turns half precision into float32 by an instruction."""
    features = llvmlite.binding.get_host_cpu_features()
    return bool(features.get("f16c") or features.get("fullfp16") or features.get("neon"))


def representable_in_half(weight: Tensor) -> bool:
    """Whether converting a float32 weight to half precision and back changes nothing."""
    return torch.equal(weight.half().float(), weight)


def all_in_half(modules: nn.Module | Sequence[nn.Module]) -> bool:
    """Whether every linear layer in there may be held in half precision, at half the memory traffic."""
    linear = (layer for module in modules for layer in module.modules() if isinstance(layer, nn.Linear))
    return half_precision_available() and all(representable_in_half(layer.weight) for layer in linear)


def matrix(modules: Sequence[nn.Linear], half: bool) -> np.ndarray:
    """Weights of layers side by side as `product` reads them: float32, or the bits of half precision."""
    weight = torch.cat([module.weight.detach() for module in modules])
    return panels_of((weight.half() if half else weight).numpy().view(np.uint16 if half else np.float32))


def vector(norm: nn.Module) -> np.ndarray:
    """Weight of a norm, [size]."""
    return norm.weight.detach().numpy().copy()


def layer_weights(attention: nn.Module, mlp: nn.Module, mlp_norm: nn.Module, half: bool) -> LayerWeights:
    """Weights of a layer with transformers' names for its parts."""
    qkv = [attention.q_proj, attention.k_proj, attention.v_proj]
    norms = [attention.q_norm, attention.k_norm] if hasattr(attention, "q_norm") else []
    empty = np.zeros((0, attention.head_dim), np.float32)
    return LayerWeights(
        qkv=matrix(qkv, half),
        qkv_bias=np.concatenate([_bias(module) for module in qkv]),
        head_norms=np.stack([vector(norm) for norm in norms]) if norms else empty,
        output=matrix([attention.o_proj], half),
        output_bias=_bias(attention.o_proj),
        mlp_norm=vector(mlp_norm),
        gate_up=np.concatenate([matrix([mlp.gate_proj], half), matrix([mlp.up_proj], half)]),
        gate_up_bias=np.concatenate([_whole_panels(_bias(mlp.gate_proj)), _whole_panels(_bias(mlp.up_proj))]),
        down=matrix([mlp.down_proj], half),
        down_bias=_bias(mlp.down_proj),
    )


def stacked(layers: Sequence[LayerWeights]) -> LayerWeights:
    """The same fields with the layers as first dimension."""
    return LayerWeights(*map(np.stack, zip(*layers, strict=True)))


def _whole_panels(bias: np.ndarray) -> np.ndarray:
    return np.pad(bias, (0, padded_width(len(bias)) - len(bias)))


def _bias(module: nn.Linear) -> np.ndarray:
    if module.bias is None:
        return np.zeros(module.out_features, np.float32)
    return module.bias.detach().numpy().copy()
