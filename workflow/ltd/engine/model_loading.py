"""A causal language model of transformers on its device: from a folder, from the hub, or with random
weights.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig

from ltd.bfloat16 import held_in_float32, to_bfloat16
from ltd.devices import multiplies_bfloat16, resolve_device
from ltd.engine.memory import check_memory, check_spread, free_bytes, plan_memory
from ltd.errors import InputError
from ltd.hub import NO_TOKENIZER, check_name, explain, split_revision
from ltd.options import DTYPES

WEIGHTS = ("checkpoint", "random")


def read_config(name: str | Path) -> PretrainedConfig:
    """Configuration of a model folder or hub id; raises InputError, with the remedy, when there is none."""
    check_name("target", name)
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise InputError(f"{name}: no config.json; expected a Hugging Face model folder")
    plain, revision = split_revision(name)
    try:
        return AutoConfig.from_pretrained(plain, revision=revision, trust_remote_code=False)
    except Exception as error:  # whatever the hub, the file or an unknown model type raises
        raise _refusal(name, error) from error


def number_type(dtype: str | torch.dtype, config: PretrainedConfig, device: torch.device) -> torch.dtype:
    """`auto`: the type that the weights are stored in; on a CPU float32, which holds all of them exactly,
    unless they are of bfloat16 and the processor multiplies it. Raises InputError for names of no type.
    """
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise InputError(f"dtype: {dtype!r} is not one of {', '.join(DTYPES)}")
    if dtype != "auto":
        return getattr(torch, dtype)
    stored = config.get_text_config().dtype or config.dtype or torch.float32
    stored = getattr(torch, stored) if isinstance(stored, str) else stored
    if device.type == "cpu" and not (stored == torch.bfloat16 and multiplies_bfloat16(device)):
        return torch.float32
    return stored


def load_model(
    name: str | Path,
    *,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    quantisation: str = "none",
    weights: str = "checkpoint",
    context: int = 0,
    tree: int = 0,
    draft_vocab_size: int = 0,
    gpus: Sequence[int] = (),
    reserve: int = 0,
) -> nn.Module:
    """Load a model without gradients; `weights` random needs its config.json alone. For bfloat16 on a CPU
    see `ltd.bfloat16`.

    `context`, `tree` and `draft_vocab_size` say what else must fit (see `plan_memory`). A model that does not
    fit one GPU is spread over `gpus` (none: all there are), with `reserve` bytes of the first, the current
    one, left for other work. Raises InputError for a missing, gated, damaged or too large model.
    """
    where, config = resolve_device(device), read_config(name)
    chosen = number_type(dtype, config, where)
    rounded = held_in_float32(chosen, where)
    held = torch.float32 if rounded else chosen
    try:
        plan = plan_memory(
            config,
            dtype=held,
            quantisation=quantisation,
            context=context,
            tree=tree,
            draft_vocab_size=draft_vocab_size,
            engine=_engines_share(where, rounded),
        )
    except (ValueError, AttributeError) as error:  # no causal language model, or sizes under other names
        raise _refusal(name, error) from error
    if where.type == "cpu" or weights == "random":
        check_memory(plan, where, str(name))
    if weights == "random":
        if quantisation != "none":
            raise InputError("quantisation: weights that are random have none; use quantisation none")
        model = random_model(config, held, where)
        return to_bfloat16(model) if rounded else model
    settings = _quantisation(quantisation, chosen, where)
    if where.type == "cuda":
        limits = check_spread(plan, free_memory(where, gpus), str(name), reserve)
        settings |= _placement(limits, quantised=quantisation != "none")
    plain, revision = split_revision(name)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            plain, revision=revision, dtype=held, trust_remote_code=False, **settings
        )
    except Exception as error:  # transformers raises whatever its many readers raise
        raise _refusal(name, error) from error
    if "device_map" not in settings:
        model = model.to(where)
    elif not {"cpu", "disk"}.isdisjoint(map(str, model.hf_device_map.values())):
        raise InputError(f"memory: {name} does not fit the GPUs layer by layer; use more GPU memory")
    model = model.eval().requires_grad_(False)
    return to_bfloat16(model) if rounded else model


def _engines_share(device: torch.device, rounded: bool) -> float:
    """What the compiled engine holds beside a model of float32 on a CPU, in 16 bits where it rounds."""
    return 0.0 if device.type != "cpu" else 0.5 if rounded else 1.0


def load_tokenizer(name: str | Path):
    """The tokenizer of a model folder or hub id; raises InputError when it cannot be read."""
    check_name("target", name)
    plain, revision = split_revision(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(plain, revision=revision, trust_remote_code=False)
    except Exception as error:  # as above
        raise InputError(f"{name}: its tokenizer cannot be loaded: {explain(error, name)}") from error
    # Of some architectures transformers makes one that is empty where there are no files.
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise InputError(f"{name}: its tokenizer is empty: {NO_TOKENIZER}")
    return tokenizer


@torch.no_grad()
def random_model(config: PretrainedConfig, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """A model with random weights, made on its device: as fast as a trained one."""
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    return half_values(model)


@torch.no_grad()
def half_values(module: nn.Module) -> nn.Module:
    """Round float32 weights to values that half precision holds, as saved models have them: the engine packs
    such layers on a CPU. Frozen ones stay as they are: another module shares them.
    """
    for weight in module.parameters():
        if weight.dtype == torch.float32 and weight.requires_grad:
            weight.copy_(weight.half())
    return module.eval().requires_grad_(False)


def all_gpus() -> Sequence[int]:
    """The GPUs that this process sees, the current one first."""
    first = torch.cuda.current_device()
    return [first, *(gpu for gpu in range(torch.cuda.device_count()) if gpu != first)]


def free_memory(device: torch.device, gpus: Sequence[int] = ()) -> dict[int, int]:
    """Free bytes by GPU, of these or of all; a CPU's stand under 0."""
    if device.type == "cpu":
        return {0: free_bytes(device)}
    return {gpu: free_bytes(torch.device("cuda", gpu)) for gpu in gpus or all_gpus()}


def _placement(limits: dict[int, int], quantised: bool) -> dict[str, Any]:
    """Settings that keep a model within these bytes by GPU, filled in this order; others stay free."""
    if len(limits) == 1:
        return {"device_map": {"": next(iter(limits))}} if quantised else {}
    _need("accelerate", "a model larger than one GPU")
    return {"device_map": "sequential", "max_memory": limits}


def _quantisation(quantisation: str, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    if quantisation == "none":
        return {}
    if device.type != "cuda":
        raise InputError(f"quantisation: {quantisation} needs a GPU; use none on a {device.type}")
    for package in ("bitsandbytes", "accelerate"):
        _need(package, f"quantisation {quantisation}")
    from transformers import BitsAndBytesConfig

    chosen = BitsAndBytesConfig(
        load_in_8bit=quantisation == "8bit",
        load_in_4bit=quantisation == "4bit",
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": chosen}


def _need(package: str, purpose: str) -> None:
    if find_spec(package) is None:
        raise InputError(f"target: {purpose} needs the package {package}; `pip install {package}`")


def _refusal(name: str | Path, error: Exception) -> InputError:
    return InputError(f"{name}: cannot be loaded as a causal language model: {explain(error, name)}")
