"""Growing a model in depth early in training: new blocks start silent, so the function is preserved.

A new block adds nothing as long as its two output projections are zero; training goes on without a jump.
The other weights of a new block are random, as at the start of training: several copies of one trained block
would get the same gradients and learn the same. Whether the new blocks earn their place is measured, not
assumed: `without_blocks` takes any out again.
"""

import copy
from collections.abc import Collection

import torch
from torch import nn
from transformers import LlamaForCausalLM

from ltd.errors import InputError


def grow(model: LlamaForCausalLM, layers: int, seed: int) -> LlamaForCausalLM:
    """Return a model of `layers` blocks that computes the same function.

    `layers` is a multiple of the model's own number of blocks; with factor r, block i becomes block r*i, and
    r - 1 new silent blocks, drawn with `seed`, follow it. Raises InputError when it is not a multiple.
    """
    blocks = model.model.layers
    if layers % len(blocks):
        raise InputError(f"layers: {layers} is not a multiple of the {len(blocks)} layers to grow from")
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = layers
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        grown = LlamaForCausalLM(config)
    factor = layers // len(blocks)
    for index, block in enumerate(grown.model.layers):
        if index % factor:
            silence(block)
        else:
            grown.model.layers[index] = copy.deepcopy(blocks[index // factor])
            grown.model.layers[index].self_attn.layer_idx = index
    outside = {key: value for key, value in model.state_dict().items() if ".layers." not in key}
    grown.load_state_dict(outside, strict=False)
    return grown.to(model.device)


def silence(block: nn.Module) -> None:
    """Zero the two output projections of a block: it passes its input on unchanged."""
    nn.init.zeros_(block.self_attn.o_proj.weight)
    nn.init.zeros_(block.mlp.down_proj.weight)


def without_blocks(model: LlamaForCausalLM, removed: Collection[int]) -> LlamaForCausalLM:
    """Return a copy of the model without the blocks of these indices."""
    kept = [block for index, block in enumerate(model.model.layers) if index not in removed]
    result = copy.deepcopy(model)
    result.config.num_hidden_layers = len(kept)
    result.model.layers = nn.ModuleList(copy.deepcopy(kept))
    for index, block in enumerate(result.model.layers):
        block.self_attn.layer_idx = index
    return result
