"""Shapes and variants of an Eagle3 head, read from the config.json of any published layout.

Projects differ in how they number the tapped layers, in where they keep the rotary base, and in which norms
stand where; everything here maps those onto one `Eagle3Config`, and refuses what the head does not compute.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any

from ltd.errors import InputError
from ltd.files import read_json

DEFAULT_ROPE_THETA = 10000.0  # the base of heads whose trainers never passed one
PUBLISHED_DRAFT_VOCABULARY = 32000
# Rotary scalings whose angles depend on the position alone, with the keys that each needs.
ROPE_SCALINGS = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor",),
}
REFUSED = ("attention_bias", "bias")
SIZES = (
    "hidden_size",
    "target_hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "draft_vocab_size",
    "max_position_embeddings",
)
NUMBERS = ("rms_norm_eps", "rope_theta")
OBJECTS = ("rope_parameters", "rope_scaling", "eagle_config")
ACTIVATIONS = ("silu", "swish")  # two names of one function


@dataclass(frozen=True)
class Eagle3Config:
    """Shapes of a head; `tap_layers` are indices into the target's `hidden_states` (0: embedding output).

    norm_before_residual: the residual stream starts from the normalised feature. norm_output: the next draft
    step reads the normalised stream (EAGLE-3.1). feature_norm: a norm before `fc`, over all taps together
    (`input_norm`) or over each (`fc_norm`). rope_scaling: as transformers has it, None for plain rotation.
    """

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
    norm_before_residual: bool = False
    norm_output: bool = False
    feature_norm: str = "none"
    rope_scaling: dict[str, Any] | None = None

    @property
    def plain(self) -> bool:
        """Whether this is the original layer, without later norms."""
        return not (self.norm_before_residual or self.norm_output or self.feature_norm != "none")


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


def check_tap_layers(states: Any, num_layers: int, where: str) -> tuple[int, int, int]:
    """Three ascending hidden-state indices that enter a layer of the target; InputError otherwise."""
    states = tuple(states)
    if len(states) != 3 or list(states) != sorted(set(states)) or states[0] < 0 or states[-1] >= num_layers:
        raise InputError(
            f"{where}: tapped hidden states {list(states)} do not fit a target of {num_layers} layers; "
            f"expected three ascending indices between 0 and {num_layers - 1}"
        )
    return states


def target_like(target: Any, draft_vocab_size: int = PUBLISHED_DRAFT_VOCABULARY) -> Eagle3Config:
    """A head of one layer like those of the target with this transformers text configuration."""
    heads = target.num_attention_heads
    return Eagle3Config(
        hidden_size=target.hidden_size,
        target_hidden_size=target.hidden_size,
        intermediate_size=getattr(target, "intermediate_size", None) or 4 * target.hidden_size,
        num_attention_heads=heads,
        num_key_value_heads=getattr(target, "num_key_value_heads", None) or heads,
        head_dim=getattr(target, "head_dim", None) or target.hidden_size // heads,
        rms_norm_eps=getattr(target, "rms_norm_eps", 1e-6),
        vocab_size=target.vocab_size,
        draft_vocab_size=min(draft_vocab_size, target.vocab_size),
        rope_theta=DEFAULT_ROPE_THETA,
        max_position_embeddings=target.max_position_embeddings,
        tap_layers=default_tap_layers(target.num_hidden_layers),
    )


def shape_of_head(folder: Path, num_layers: int) -> Eagle3Config:
    """The configuration in `folder` alone, for a head without weights."""
    values, path = read_values(folder), folder / "config.json"
    check_types(values, path)
    heads = values.get("num_attention_heads")
    head_dim = values.get("head_dim") or values.get("hidden_size", 0) // (heads or 1)
    vocab_size = values.get("vocab_size")
    return parse_config(
        values,
        num_layers,
        path,
        head_dim=head_dim,
        vocab_size=vocab_size,
        draft_vocab_size=values.get("draft_vocab_size") or vocab_size,
    )


def read_values(folder: Path) -> dict[str, Any]:
    """Keys of config.json, the layer's own block in between; absent and null are the same."""
    path = folder / "config.json"
    values = read_json(path)
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected an object with the head's configuration")
    # The speculators format keeps the layer's shapes in a block of their own.
    layer = values.get("transformer_layer_config") or {}
    if not isinstance(layer, dict):
        raise InputError(f"{path}: transformer_layer_config is not an object")
    return {key: value for block in (layer, values) for key, value in block.items() if value is not None}


def check_types(values: Mapping[str, Any], path: Path) -> None:
    """Raise InputError where a key of the configuration is there with a value of another type."""

    def refuse(keys: Sequence[str], fits: Callable[[Any], bool], kind: str) -> None:
        for key in keys:
            if values.get(key) is not None and not fits(values[key]):
                raise InputError(f"{path}: {key} is {values[key]!r}, not {kind}")

    refuse(SIZES, lambda value: _is_number(value, int) and value > 0, "an integer of at least 1")
    refuse(NUMBERS, lambda value: _is_number(value) and value > 0, "a number above 0")
    refuse(OBJECTS, lambda value: isinstance(value, dict), "an object")
    refuse(("layer_types",), lambda value: isinstance(value, list), "a list")


def _is_number(value: Any, kind: type | UnionType = int | float) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def parse_config(
    values: Mapping[str, Any],
    num_layers: int,
    path: Path,
    *,
    head_dim: int,
    vocab_size: int,
    draft_vocab_size: int,
) -> Eagle3Config:
    """The configuration in `values`; the three sizes come from whoever knows them best."""
    needed = ("hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
    absent = [key for key in needed if not isinstance(values.get(key), int)]
    if absent:
        raise InputError(f"{path}: {', '.join(absent)} missing or not an integer")
    _refuse_variants(values, path)
    heads = values["num_attention_heads"]
    theta, scaling = _rope(values, path)
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
        rope_theta=theta,
        max_position_embeddings=int(values.get("max_position_embeddings", 2048)),
        tap_layers=_tap_layers(values, num_layers, path),
        norm_before_residual=bool(values.get("norm_before_residual")),
        # Elsewhere this key only says that the norm stands before the output head, which it always does.
        norm_output=bool(values.get("speculators_model_type") and values.get("norm_output")),
        feature_norm=_feature_norm(values, path),
        rope_scaling=scaling,
    )


def _refuse_variants(values: Mapping[str, Any], path: Path) -> None:
    switches = [key for key in REFUSED if values.get(key)]
    if switches:
        raise InputError(f"{path}: {', '.join(switches)} is set; Eagle3 layers with biases are not supported")
    if values.get("num_hidden_layers", 1) != 1:
        raise InputError(f"{path}: num_hidden_layers is {values['num_hidden_layers']}; an Eagle3 head has 1")
    activation = values.get("hidden_act", ACTIVATIONS[0])
    if activation not in ACTIVATIONS:
        raise InputError(
            f"{path}: hidden_act is {activation!r}; only {ACTIVATIONS[0]} is supported for heads"
        )
    if _slides(values):
        raise InputError(f"{path}: a sliding window is set; only full attention is supported for heads")


def _slides(values: Mapping[str, Any]) -> bool:
    """Whether the layer sees a window of the context: Qwen's configurations have one that is switched off."""
    if values.get("layer_types"):
        return "sliding_attention" in values["layer_types"]
    return bool(values.get("sliding_window")) and bool(values.get("use_sliding_window", True))


def _feature_norm(values: Mapping[str, Any], path: Path) -> str:
    together, each = bool(values.get("norm_before_fc")), bool(values.get("fc_norm"))
    if together and each:
        raise InputError(f"{path}: norm_before_fc and fc_norm are both set; at most one can be")
    return "together" if together else "each" if each else "none"


def _rope(values: Mapping[str, Any], path: Path) -> tuple[float, dict[str, Any] | None]:
    """Rotary base and scaling, from either place transformers keeps them (`rope_theta` and `rope_scaling`, or
    `rope_parameters` since version 5).
    """
    scaling = dict(values.get("rope_parameters") or values.get("rope_scaling") or {})
    kind = scaling.pop("type", None) or "default"
    kind = scaling.pop("rope_type", kind)
    inner = scaling.pop("rope_theta", None)
    if inner is not None and not _is_number(inner):
        raise InputError(f"{path}: rope_theta is {inner!r}, not a number")
    theta = float(values.get("rope_theta") or inner or DEFAULT_ROPE_THETA)
    if kind == "default":
        return theta, None
    if not isinstance(kind, str) or kind not in ROPE_SCALINGS:
        raise InputError(
            f"{path}: rope scaling {kind!r} is not supported for heads; expected none or one of "
            f"{', '.join(ROPE_SCALINGS)}"
        )
    absent = [key for key in ROPE_SCALINGS[kind] if scaling.get(key) is None]
    wrong = [key for key, value in scaling.items() if not isinstance(value, int | float | None)]
    if absent or wrong:
        raise InputError(
            f"{path}: rope scaling {kind!r}: {', '.join(absent or wrong)} missing or not a number"
        )
    return theta, {"rope_type": kind, **scaling}


def _tap_layers(values: Mapping[str, Any], num_layers: int, path: Path) -> tuple[int, int, int]:
    """Tapped hidden states from either key: the nested one counts layer outputs, the top-level one hidden
    states.
    """
    key = "eagle_aux_hidden_state_layer_ids"
    outputs, states = (values.get("eagle_config") or {}).get(key), values.get(key)
    for ids in (outputs, states):
        if ids is not None and not (isinstance(ids, list) and all(_is_number(index, int) for index in ids)):
            raise InputError(f"{path}: {key} is {ids!r}, not a list of integers")
    if outputs is not None:
        states = [index + 1 for index in outputs]
    if states is None:
        return default_tap_layers(num_layers)
    return check_tap_layers(states, num_layers, str(path))
