"""A look at the config.json of target and head before the first stage: what else would fail hours later."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ltd.draft_head.head_config import read_values
from ltd.errors import InputError
from ltd.hub import explain, is_hub_id, split_revision
from ltd.option_checks import check_draft_of_target


def check_models(config: dict[str, Any]) -> None:
    """Raise InputError for a model that cannot be had, and for a head that does not fit the target.

    Needs the network only for models of the hub whose config.json is not in the cache yet.
    """
    paths = {f"{block}.path": config[block]["path"] for block in ("target", "draft")}
    found = {key: read_values(_folder(key, path)) for key, path in paths.items() if path is not None}
    if "target.path" not in found:
        return
    target = found["target.path"].get("text_config", found["target.path"])
    if "draft.path" not in found:
        _check_head_to_train(SimpleNamespace(**config["draft"]), target)
        return
    head = found["draft.path"]
    width = target.get("hidden_size")
    reads = head.get("target_hidden_size") or head.get("hidden_size")
    if width is not None and reads is not None and width != reads:
        raise InputError(
            f"draft.path: {paths['draft.path']} reads features of width {reads}, the target has {width}; "
            "use a head trained for this target, or none to train one"
        )


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
