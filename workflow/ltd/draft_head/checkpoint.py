"""Eagle3 checkpoints on disk: every published layout in, one layout out.

A checkpoint is a folder with `config.json` and `model.safetensors` (or `pytorch_model.bin`). Projects differ
in prefixes, in the name of the single decoder layer, in what they leave out and in how they number the tapped
layers; everything here maps those onto one `Eagle3Config` and one set of tensor names, and refuses what it
cannot map.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ltd.errors import InputError
from ltd.files import atomic_path, read_json, write_json

PREFIXES = ("draft_model.", "eagle_module.", "model.")
LAYER = "midlayer."
VOCABULARY_TABLES = ("d2t", "t2d")
EMBEDDING = "embed_tokens.weight"
OUTPUT = "lm_head.weight"
DEFAULT_ROPE_THETA = 10000.0  # the base of heads whose trainers never passed one
LAYER_WEIGHTS = (
    "input_layernorm",
    "hidden_norm",
    "post_attention_layernorm",
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)
REQUIRED = ("fc.weight", "norm.weight", *(f"{LAYER}{name}.weight" for name in LAYER_WEIGHTS))
ARCHITECTURE_SWITCHES = ("norm_before_residual", "norm_before_fc", "fc_norm", "attention_bias", "bias")


@dataclass(frozen=True)
class Eagle3Config:
    """Shapes of a head; `tap_layers` are indices into the target's `hidden_states` (0: embedding output)."""

    hidden_size: int
    target_hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    vocab_size: int
    draft_vocab_size: int
    rope_theta: float
    max_position_embeddings: int
    tap_layers: tuple[int, int, int]


def default_tap_layers(num_layers: int) -> tuple[int, int, int]:
    """Indices of the three tapped hidden states (low, middle, high) of a target with `num_layers` layers.

    The published rule 2, L//2, L-3 needs at least 7 layers to name three different ones; below that they are
    spread evenly over the states that enter a layer. The last of these is L-1: state L is after the final
    norm.
    """
    if num_layers < 3:
        raise InputError(
            f"target: {num_layers} layers are too few for three feature taps; at least 3 are needed"
        )
    if num_layers >= 7:
        return 2, num_layers // 2, num_layers - 3
    return (1, num_layers // 2, num_layers - 1) if num_layers > 3 else (0, 1, 2)


def read_checkpoint(path: Path, num_layers: int) -> tuple[Eagle3Config, dict[str, Tensor]]:
    """Read the head in folder `path`, written for a target with `num_layers` layers.

    Returns the configuration and the tensors under their `midlayer.*` names; `d2t`, `t2d`, the embedding and
    the output head are there only when the file has them. Raises InputError for missing or damaged files, for
    tensors that are unknown, missing or of the wrong shape, and for architecture variants this module does
    not compute.
    """
    path = Path(path)
    values = _read_config(path / "config.json")
    tensors = _canonical_names(_read_tensors(path), path)
    config = _parse_config(values, tensors, num_layers, path / "config.json")
    _check_shapes(config, tensors, path)
    return config, tensors


def write_checkpoint(
    path: Path, config: Eagle3Config, tensors: Mapping[str, Tensor], dtype: torch.dtype
) -> None:
    """Write `config.json` and `model.safetensors` in the published layout, both or nothing."""
    values = asdict(config)
    taps = values.pop("tap_layers")
    values |= {
        "architectures": ["LlamaForCausalLMEagle3"],
        "model_type": "llama",
        "num_hidden_layers": 1,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": str(dtype).removeprefix("torch."),
        # Convention of this key: 0-based index of the layer whose output is tapped, one less than in
        # `hidden_states`.
        "eagle_config": {"eagle_aux_hidden_state_layer_ids": [index - 1 for index in taps]},
    }
    with atomic_path(path) as folder:
        folder.mkdir()
        write_json(folder / "config.json", values)
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors"
        )


def _read_config(path: Path) -> dict[str, Any]:
    values = read_json(path)
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected an object with the head's configuration")
    # The speculators format keeps the layer's shapes in a block of their own.
    return values.get("transformer_layer_config", {}) | values


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


def _canonical_names(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        for prefix in PREFIXES:
            name = name.removeprefix(prefix)
        if name.startswith("layers.0."):
            name = LAYER + name.removeprefix("layers.0.")
        renamed[name] = tensor
    known = {*REQUIRED, *VOCABULARY_TABLES, EMBEDDING, OUTPUT}
    unknown = sorted(renamed.keys() - known)
    missing = sorted(set(REQUIRED) - renamed.keys())
    if unknown:
        raise InputError(
            f"{path}: unknown tensors {', '.join(unknown)}; not an Eagle3 head this project computes"
        )
    if missing:
        raise InputError(f"{path}: missing tensors {', '.join(missing)}; the checkpoint is not complete")
    return renamed


def _parse_config(
    values: Mapping[str, Any], tensors: Mapping[str, Tensor], num_layers: int, path: Path
) -> Eagle3Config:
    _refuse_variants(values, path)
    needed = ("hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
    absent = [key for key in needed if not isinstance(values.get(key), int)]
    if absent:
        raise InputError(f"{path}: {', '.join(absent)} missing or not an integer")
    heads = values["num_attention_heads"]
    # hidden_size / heads is wrong for heads with an explicit head_dim, and some configs leave it out: ask the
    # weights.
    head_dim = tensors[f"{LAYER}self_attn.q_proj.weight"].shape[0] // heads
    vocab_size = tensors["t2d"].numel() if "t2d" in tensors else values["vocab_size"]
    draft_vocab_size = (
        tensors[OUTPUT].shape[0] if OUTPUT in tensors else values.get("draft_vocab_size") or vocab_size
    )
    return Eagle3Config(
        hidden_size=values["hidden_size"],
        target_hidden_size=values.get("target_hidden_size") or values["hidden_size"],
        intermediate_size=values["intermediate_size"],
        num_attention_heads=heads,
        num_key_value_heads=values.get("num_key_value_heads") or heads,
        head_dim=head_dim,
        rms_norm_eps=float(values.get("rms_norm_eps", 1e-6)),
        vocab_size=vocab_size,
        draft_vocab_size=draft_vocab_size,
        rope_theta=_rope_theta(values, path),
        max_position_embeddings=int(values.get("max_position_embeddings", 2048)),
        tap_layers=_tap_layers(values, num_layers, path),
    )


def _refuse_variants(values: Mapping[str, Any], path: Path) -> None:
    switches = [key for key in ARCHITECTURE_SWITCHES if values.get(key)]
    # Elsewhere this key only says that the norm stands before the output head, which it always does.
    if values.get("speculators_model_type") and values.get("norm_output"):
        switches.append("norm_output")
    if switches:
        raise InputError(f"{path}: {', '.join(switches)} is set; only the original Eagle3 layer is supported")
    if values.get("num_hidden_layers", 1) != 1:
        raise InputError(f"{path}: num_hidden_layers is {values['num_hidden_layers']}; an Eagle3 head has 1")


def _rope_theta(values: Mapping[str, Any], path: Path) -> float:
    """The rotary base from either place transformers keeps it (`rope_theta`, or `rope_parameters` since
    version 5).
    """
    scaling = values.get("rope_parameters") or values.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind != "default":
        raise InputError(f"{path}: rope scaling '{kind}' is not supported for heads; expected none")
    return float(values.get("rope_theta") or scaling.get("rope_theta") or DEFAULT_ROPE_THETA)


def _tap_layers(values: Mapping[str, Any], num_layers: int, path: Path) -> tuple[int, int, int]:
    """Tapped hidden states from either key: the nested one counts layer outputs, the top-level one hidden
    states.
    """
    outputs = (values.get("eagle_config") or {}).get("eagle_aux_hidden_state_layer_ids")
    states = values.get("eagle_aux_hidden_state_layer_ids")
    if outputs is not None:
        states = [index + 1 for index in outputs]
    if states is None:
        return default_tap_layers(num_layers)
    return check_tap_layers(states, num_layers, str(path))


def check_tap_layers(states: Any, num_layers: int, where: str) -> tuple[int, int, int]:
    """Three ascending hidden-state indices that enter a layer of the target; InputError otherwise."""
    states = tuple(states)
    if len(states) != 3 or list(states) != sorted(set(states)) or states[0] < 0 or states[-1] >= num_layers:
        raise InputError(
            f"{where}: tapped hidden states {list(states)} do not fit a target of {num_layers} layers; "
            f"expected three ascending indices between 0 and {num_layers - 1}"
        )
    return states


def _check_shapes(config: Eagle3Config, tensors: Mapping[str, Tensor], path: Path) -> None:
    wide, narrow = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    hidden, inner = config.hidden_size, config.intermediate_size
    expected = {f"{LAYER}{name}.weight": (hidden,) for name in LAYER_WEIGHTS[:3]} | {
        "fc.weight": (hidden, 3 * config.target_hidden_size),
        "norm.weight": (hidden,),
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
