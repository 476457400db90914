"""A look at the config.json of target and head, and at a chat template, before the first stage: what else
would fail hours later.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

from ltd.draft_head.head_config import read_values, shape_of_head
from ltd.engine.context_limits import longest_context
from ltd.errors import InputError
from ltd.hub import explain, is_hub_id, split_revision
from ltd.measurement.visits import check_room
from ltd.option_checks import check_draft_of_target
from ltd.target_training import MAX_POSITIONS

SPECIAL_TOKENS = tuple(f"{name}_token" for name in ("bos", "eos", "pad", "unk", "cls", "sep", "mask"))


def check(config: dict[str, Any]) -> None:
    """Raise InputError for models as of `check_models`, and a chat template that no prompt can go through."""
    check_models(config)
    responses = config["responses"]
    if responses["chat_template"] is not None:
        check_template(responses["chat_template"], responses["system"], responses["thinking"])


def check_template(file: str, system: str | None, thinking: str) -> None:
    """Raise InputError where a file with a chat template does not render a question."""
    from transformers.utils.chat_template_utils import render_jinja_template

    from ltd.texts.prompts import chat_format, messages_of, switches_of

    form = chat_format(system, file, thinking)
    try:
        render_jinja_template(
            conversations=[messages_of(["How are you?"], [], form)],
            chat_template=form.template,
            add_generation_prompt=True,
            **dict.fromkeys(SPECIAL_TOKENS, ""),
            **switches_of(form),
        )
    except Exception as error:  # a template may do anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"responses.chat_template: {file}: {reason}; correct the template") from error


def check_models(config: dict[str, Any]) -> None:
    """Raise InputError for a model that cannot be had, a head that does not fit the target, and contexts to
    profile that the target has no room for.

    Needs the network only for models of the hub whose config.json is not in the cache yet.
    """
    paths = {f"{block}.path": config[block]["path"] for block in ("target", "draft")}
    folders = {key: _folder(key, path) for key, path in paths.items() if path is not None}
    values = {key: read_values(folder) for key, folder in folders.items()}
    if "target.path" not in values:
        if not config["reuse"]:
            _check_contexts(config, {"max_position_embeddings": MAX_POSITIONS})
        return
    target = values["target.path"]
    target = target.get("text_config", target)
    _check_contexts(config, target)
    if "draft.path" in folders:
        _check_fit(paths["draft.path"], folders["draft.path"], target)
    else:
        _check_head_to_train(SimpleNamespace(**config["draft"]), target)


def _check_contexts(config: dict[str, Any], target: dict[str, Any]) -> None:
    latency = config["latency"]
    longest = longest_context(target, latency["sizes"][-1])
    if longest is None:
        return
    check_room(latency["context_lengths"], latency["sizes"], config["tree"]["max_depth"], longest)
    if (wanted := config["responses"]["max_new_tokens"]) >= longest:
        raise InputError(
            f"responses.max_new_tokens: {wanted} leaves no room for a prompt in the target's {longest} "
            "tokens; lower it"
        )


def _check_fit(name: str, folder: Path, target: dict[str, Any]) -> None:
    """Refuse a head that this project does not compute, or whose files speak of another target."""
    width, tokens, layers = (target.get(k) for k in ("hidden_size", "vocab_size", "num_hidden_layers"))
    if None in (width, tokens, layers):
        return  # configurations that have other words for these are looked at when the target is loaded
    head = shape_of_head(folder, layers)
    if head.target_hidden_size != width:
        _refuse(name, f"reads features of width {head.target_hidden_size}, the target has {width}")
    if head.vocab_size != tokens:
        _refuse(name, f"drafts from a vocabulary of {head.vocab_size} tokens, the target has {tokens}")
    if head.draft_vocab_size > tokens:
        _refuse(name, f"drafts {head.draft_vocab_size} tokens, more than the target's {tokens}")


def _refuse(name: str, what: str) -> NoReturn:
    raise InputError(f"draft.path: {name} {what}; use a head trained for this target, or none to train one")


def _check_head_to_train(draft: SimpleNamespace, target: dict[str, Any]) -> None:
    """A configuration that leaves out its sizes has those of its architecture, which the stage asks for."""
    vocab_size, layers = target.get("vocab_size"), target.get("num_hidden_layers")
    if vocab_size is not None and layers is not None:
        check_draft_of_target(draft, vocab_size, layers)


def _folder(key: str, path: str) -> Path:
    """The folder that holds the model's config.json."""
    if not is_hub_id(path):
        return Path(path)
    from huggingface_hub import hf_hub_download

    name, revision = split_revision(path)
    try:
        return Path(hf_hub_download(name, "config.json", revision=revision)).parent
    except Exception as error:  # whatever the network and its libraries raise
        raise InputError(f"{key}: {path}: {explain(error, path)}") from error
