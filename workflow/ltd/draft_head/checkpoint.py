"""Eagle3 checkpoints on disk: every published layout in, the two common ones out.

A checkpoint is a folder with `config.json` and `model.safetensors` (or `pytorch_model.bin`). Projects differ
in prefixes, in the name of the single decoder layer and in what they leave out; everything here maps those
onto one set of tensor names, and refuses what it cannot map. For the configuration see
`ltd.draft_head.head_config`.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ltd.draft_head.head_config import Eagle3Config, check_types, parse_config, read_values
from ltd.errors import InputError
from ltd.files import atomic_path, write_json

PREFIXES = ("draft_model.", "eagle_module.", "model.")
LAYER, NUMBERED_LAYER = "midlayer.", "layers.0."
VOCABULARY_TABLES = ("d2t", "t2d")
EMBEDDING = "embed_tokens.weight"
OUTPUT = "lm_head.weight"
LAYER_WEIGHTS = (
    "input_layernorm",
    "hidden_norm",
    "post_attention_layernorm",
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)
REQUIRED = ("fc.weight", "norm.weight", *(f"{LAYER}{name}.weight" for name in LAYER_WEIGHTS))
FEATURE_NORMS = {
    "none": (),
    "together": ("input_norm.weight",),
    "each": tuple(f"fc_norm.{index}.weight" for index in range(3)),
}


def read_checkpoint(path: Path, num_layers: int) -> tuple[Eagle3Config, dict[str, Tensor]]:
    """Read the head in folder `path`, written for a target with `num_layers` layers.

    Returns the configuration and the tensors under their `midlayer.*` names; `d2t`, `t2d`, the embedding and
    the output head are there only when the file has them. Raises InputError for missing or damaged files, for
    tensors that are unknown, missing or of the wrong shape, and for architecture variants this module does
    not compute.
    """
    path = Path(path)
    values = read_values(path)
    check_types(values, path / "config.json")
    tensors = _canonical_names(_read_tensors(path))
    config = _config_of(values, tensors, num_layers, path)
    _check_names(config, tensors, path)
    _check_shapes(config, tensors, path)
    if config.draft_vocab_size == config.vocab_size:
        # Every token can be drafted: tables would say nothing, and some files hold meaningless ones.
        tensors = {name: tensor for name, tensor in tensors.items() if name not in VOCABULARY_TABLES}
    return config, tensors


def write_checkpoint(
    path: Path, config: Eagle3Config, tensors: Mapping[str, Tensor], dtype: torch.dtype
) -> None:
    """Write `config.json` and `model.safetensors`, both or nothing: in the published layout, or in that of
    speculators for a head with norms that the published one has no words for.
    """
    if not config.plain:
        write_speculators(path, config, tensors, dtype)
        return
    values = _layer_values(config, dtype) | {
        "architectures": ["LlamaForCausalLMEagle3"],
        "target_hidden_size": config.target_hidden_size,
        "draft_vocab_size": config.draft_vocab_size,
        # Convention of this key: 0-based index of the layer whose output is tapped, one less than in
        # `hidden_states`.
        "eagle_config": {"eagle_aux_hidden_state_layer_ids": [index - 1 for index in config.tap_layers]},
    }
    _write(path, values, tensors)


def write_speculators(
    path: Path,
    config: Eagle3Config,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype,
    *,
    verifier: str | None = None,
    architectures: tuple[str, ...] = (),
    speculative_tokens: int = 3,
) -> None:
    """Write the head in the layout of the speculators project, which vLLM serves.

    `verifier` names the target, `architectures` are those of its config.json; `speculative_tokens` is how
    many a server drafts unless told otherwise.
    """
    values = {
        "architectures": ["Eagle3Speculator"],
        "speculators_model_type": "eagle3",
        "transformer_layer_config": _layer_values(config, dtype),
        "draft_vocab_size": config.draft_vocab_size,
        "target_hidden_size": config.target_hidden_size,
        "norm_before_residual": config.norm_before_residual,
        "norm_before_fc": config.feature_norm == "together",
        "fc_norm": config.feature_norm == "each",
        "norm_output": config.norm_output,
        "embed_requires_grad": False,
        "tie_word_embeddings": False,
        "torch_dtype": str(dtype).removeprefix("torch."),
        # Convention of this key: index into `hidden_states`.
        "eagle_aux_hidden_state_layer_ids": list(config.tap_layers),
        "speculators_config": {
            "algorithm": "eagle3",
            "default_proposal_method": "greedy",
            "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": speculative_tokens}],
            "verifier": {"name_or_path": verifier, "architectures": list(architectures)},
        },
    }
    renamed = {
        NUMBERED_LAYER + name.removeprefix(LAYER) if name.startswith(LAYER) else name: tensor
        for name, tensor in tensors.items()
    }
    _write(path, values, renamed)


def _layer_values(config: Eagle3Config, dtype: torch.dtype) -> dict[str, Any]:
    """Keys of the layer as a Llama configuration has them."""
    own = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim")
    own += ("rms_norm_eps", "vocab_size", "rope_theta", "max_position_embeddings")
    values = {key: value for key, value in asdict(config).items() if key in own}
    values["rope_scaling"] = config.rope_scaling
    return values | {
        "model_type": "llama",
        "num_hidden_layers": 1,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }


def _write(path: Path, values: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
    others = sorted({file.name for file in path.glob("*")} - {"config.json", "model.safetensors"})
    if others:
        raise InputError(f"{path}: the folder holds {others[0]}, which is no head's; name one of its own")
    with atomic_path(path) as folder:
        folder.mkdir()
        write_json(folder / "config.json", values)
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors"
        )


def _read_tensors(path: Path) -> dict[str, Tensor]:
    safetensors, binary = path / "model.safetensors", path / "pytorch_model.bin"
    try:
        if safetensors.is_file():
            return load_file(safetensors)
        if binary.is_file():
            return torch.load(binary, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        damaged = safetensors if safetensors.is_file() else binary
        raise InputError(
            f"{damaged}: damaged or truncated weights ({_first_line(error)}); copy it again"
        ) from None
    except (
        Exception
    ) as error:  # torch raises UnpicklingError, of a module it does not export, for unsafe content
        raise InputError(
            f"{binary}: holds more than plain tensors ({_first_line(error)}); convert to safetensors"
        ) from None
    raise InputError(f"{path}: neither model.safetensors nor pytorch_model.bin is there")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def _canonical_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        for prefix in PREFIXES:
            name = name.removeprefix(prefix)
        if name.startswith(NUMBERED_LAYER):
            name = LAYER + name.removeprefix(NUMBERED_LAYER)
        renamed[name] = tensor
    return renamed


def _check_names(config: Eagle3Config, tensors: Mapping[str, Tensor], path: Path) -> None:
    required = {*REQUIRED, *FEATURE_NORMS[config.feature_norm]}
    unknown = sorted(tensors.keys() - required - {*VOCABULARY_TABLES, EMBEDDING, OUTPUT})
    missing = sorted(required - tensors.keys())
    if unknown:
        raise InputError(
            f"{path}: unknown tensors {', '.join(unknown)}; not an Eagle3 head this project computes"
        )
    if missing:
        raise InputError(f"{path}: missing tensors {', '.join(missing)}; the checkpoint is not complete")


def _config_of(
    values: Mapping[str, Any], tensors: Mapping[str, Tensor], num_layers: int, path: Path
) -> Eagle3Config:
    """The configuration, with the sizes that the weights know better."""
    queries, heads = tensors.get(f"{LAYER}self_attn.q_proj.weight"), values.get("num_attention_heads")
    vocab_size = tensors["t2d"].numel() if "t2d" in tensors else values.get("vocab_size")
    # hidden_size / heads is wrong for heads with an explicit head_dim, and some configs leave it out: ask the
    # weights.
    return parse_config(
        values,
        num_layers,
        path / "config.json",
        head_dim=queries.shape[0] // heads if queries is not None and heads else 0,
        vocab_size=vocab_size,
        draft_vocab_size=tensors[OUTPUT].shape[0]
        if OUTPUT in tensors
        else values.get("draft_vocab_size") or vocab_size,
    )


def _check_shapes(config: Eagle3Config, tensors: Mapping[str, Tensor], path: Path) -> None:
    wide, narrow = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    hidden, inner = config.hidden_size, config.intermediate_size
    expected = {f"{LAYER}{name}.weight": (hidden,) for name in LAYER_WEIGHTS[:3]} | {
        "fc.weight": (hidden, 3 * config.target_hidden_size),
        "norm.weight": (hidden,),
        "input_norm.weight": (3 * config.target_hidden_size,),
        **dict.fromkeys(FEATURE_NORMS["each"], (config.target_hidden_size,)),
        f"{LAYER}self_attn.q_proj.weight": (wide, 2 * hidden),
        f"{LAYER}self_attn.k_proj.weight": (narrow, 2 * hidden),
        f"{LAYER}self_attn.v_proj.weight": (narrow, 2 * hidden),
        f"{LAYER}self_attn.o_proj.weight": (hidden, wide),
        f"{LAYER}mlp.gate_proj.weight": (inner, hidden),
        f"{LAYER}mlp.up_proj.weight": (inner, hidden),
        f"{LAYER}mlp.down_proj.weight": (hidden, inner),
        OUTPUT: (config.draft_vocab_size, hidden),
        EMBEDDING: (config.vocab_size, hidden),
        "d2t": (config.draft_vocab_size,),
        "t2d": (config.vocab_size,),
    }
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != expected[name]:
            raise InputError(
                f"{path}: {name} has shape {tuple(tensor.shape)}, which should be {expected[name]} "
                "after config.json"
            )
