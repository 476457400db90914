"""Growing a trained model in depth: every block is followed by copies of itself that start silent.

A copy adds nothing as long as its two output projections are zero, so the grown model computes what the small
one did and training goes on without a jump. Whether the copies earn their place is measured, not assumed:
`without_copies` takes them out again.
"""

import copy

from torch import nn
from transformers import LlamaForCausalLM

from ltd.errors import InputError


def grow(model: LlamaForCausalLM, layers: int) -> LlamaForCausalLM:
    """Return a model of `layers` blocks that computes the same function.

    `layers` is a multiple of the model's own number of blocks; with factor r, block i becomes block r*i, and
    r - 1 silent copies follow it. Raises InputError when it is not a multiple.
    """
    blocks = model.model.layers
    if layers % len(blocks):
        raise InputError(f"layers: {layers} is not a multiple of the {len(blocks)} layers to grow from")
    grown = _with_blocks(model, [block for block in blocks for _ in range(layers // len(blocks))])
    for index, block in enumerate(grown.model.layers):
        if index % (layers // len(blocks)):
            silence(block)
    return grown


def silence(block: nn.Module) -> None:
    """Zero the two output projections of a block: it passes its input on unchanged."""
    nn.init.zeros_(block.self_attn.o_proj.weight)
    nn.init.zeros_(block.mlp.down_proj.weight)


def without_copies(model: LlamaForCausalLM, layers: int) -> LlamaForCausalLM:
    """Return the model with only the `layers` blocks that it was grown from."""
    factor = model.config.num_hidden_layers // layers
    return _with_blocks(model, list(model.model.layers[::factor]))


def _with_blocks(model: LlamaForCausalLM, blocks: list[nn.Module]) -> LlamaForCausalLM:
    """Copy the model's weights into one that has these blocks, copied too, in this order."""
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = len(blocks)
    result = LlamaForCausalLM(config).to(model.device)
    outside = {key: value for key, value in model.state_dict().items() if ".layers." not in key}
    result.load_state_dict(outside, strict=False)
    for new, old in zip(result.model.layers, blocks, strict=True):
        new.load_state_dict(old.state_dict())
    return result
