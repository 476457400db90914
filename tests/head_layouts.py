"""One small head written in exactly the layout of each project that publishes Eagle3 heads.

A layout changes the configuration and the tensors that `save_head` writes into those that the project's own
trainer leaves behind: keys it adds, keys it leaves out, and its conventions.
"""

import json

import torch
from safetensors.torch import load_file, save_file

SHAPE_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "num_hidden_layers",
    "rms_norm_eps",
    "max_position_embeddings",
    "vocab_size",
    "hidden_act",
)


def numbered(tensors):
    return {name.replace("midlayer.", "layers.0."): tensor for name, tensor in tensors.items()}


def safeailab(values, tensors):
    """Half precision in pytorch_model.bin; no rotary base, no head_dim, no layer ids."""
    own = {key: values[key] for key in (*SHAPE_KEYS, "draft_vocab_size")}
    own |= {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "pad_token_id": 0,
        "bos_token_id": 1,
    }
    return own | {"rope_scaling": None, "torch_dtype": "float16"}, tensors


def angelslim(values, tensors):
    """A rotary base that training never saw, tied embeddings claimed, the target's model type."""
    own = {key: values[key] for key in (*SHAPE_KEYS, "draft_vocab_size", "head_dim")}
    own |= {"architectures": ["Eagle3LlamaForCausalLM"], "model_type": "qwen3", "target_model_type": "qwen3"}
    return own | {"rope_theta": 1e6, "tie_word_embeddings": True}, tensors


def specforge(values, tensors):
    """Layer ids count outputs; norm_output only says that a norm stands before the output head."""
    own = {key: values[key] for key in (*SHAPE_KEYS, "draft_vocab_size", "head_dim", "eagle_config")}
    own |= {"architectures": ["LlamaForCausalLMEagle3"], "model_type": "llama", "norm_output": True}
    return own | {"rope_theta": values["rope_theta"], "torch_dtype": "bfloat16"}, tensors


def modelopt(values, tensors):
    """layers.0, no t2d, layer ids in eagle_config beside switches."""
    own = {key: values[key] for key in (*SHAPE_KEYS, "draft_vocab_size", "head_dim", "rope_theta")}
    ids = values["eagle_config"]["eagle_aux_hidden_state_layer_ids"]
    switches = {
        "use_aux_hidden_state": True,
        "use_last_layernorm": True,
        "eagle_aux_hidden_state_layer_ids": ids,
    }
    tensors = {name: tensor for name, tensor in numbered(tensors).items() if name != "t2d"}
    return own | {"architectures": ["LlamaForCausalLMEagle3"], "eagle_config": switches}, tensors


def speculators(values, tensors):
    """The layer's shapes in a block, rotary parameters as transformers 5 has them, the embedding inside."""
    layer = {key: values[key] for key in (*SHAPE_KEYS, "head_dim")} | {"model_type": "llama"}
    layer["rope_parameters"] = {"rope_type": "default", "rope_theta": values["rope_theta"]}
    ids = values["eagle_config"]["eagle_aux_hidden_state_layer_ids"]
    own = {
        "architectures": ["Eagle3Speculator"],
        "speculators_model_type": "eagle3",
        "transformer_layer_config": layer,
        "draft_vocab_size": values["draft_vocab_size"],
        "target_hidden_size": None,
        "norm_before_residual": False,
        "norm_output": False,
        "eagle_aux_hidden_state_layer_ids": [index + 1 for index in ids],
        "speculators_config": {"algorithm": "eagle3"},
    }
    embedding = torch.zeros(layer["vocab_size"], layer["hidden_size"])
    return own, numbered(tensors) | {"embed_tokens.weight": embedding}


LAYOUTS = {
    "SafeAILab": safeailab,
    "AngelSlim": angelslim,
    "SpecForge": specforge,
    "ModelOpt": modelopt,
    "speculators": speculators,
}


def rewrite(folder, layout):
    """Change the head that `save_head` wrote to `folder` into this layout."""
    values, weights = json.loads((folder / "config.json").read_text()), folder / "model.safetensors"
    values, tensors = LAYOUTS[layout](values, load_file(weights))
    (folder / "config.json").write_text(json.dumps(values))
    if layout == "SafeAILab":
        weights.unlink()
        torch.save(
            {n: t.half() if t.is_floating_point() else t for n, t in tensors.items()},
            folder / "pytorch_model.bin",
        )
    else:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, weights)
    return folder
