"""Checkpoint folders on this disk, before anything is loaded: what is absent, cut short or damaged."""

import json
import struct
from collections.abc import Sequence
from pathlib import Path

from ltd.errors import InputError
from ltd.files import read_json
from ltd.hub import check_name


def check_model_folder(key: str, path: str, weights: Sequence[str]) -> None:
    """Check a local checkpoint folder: configuration and weights present, safetensors files whole.

    A name that is no local path is taken for a hub id and left to the loader. Weights are one of the files
    named, where an index stands for the shards that it lists; none are looked for when none is named.
    """
    folder = Path(path)
    if not folder.is_dir():
        check_name(key, path)
        return
    if not (folder / "config.json").is_file():
        raise InputError(f"{key}: {path} has no config.json; give the folder of a saved model")
    found = next((folder / name for name in weights if (folder / name).is_file()), None)
    if weights and found is None:
        raise InputError(
            f"{key}: {path} has no weights ({', '.join(weights)}); give the whole folder of a saved model"
        )
    if found is not None and found.suffix == ".json":
        check_shards(found)
    for file in folder.glob("*.safetensors"):
        check_safetensors(file)


def check_shards(index: Path) -> None:
    """Raise InputError when a file that an index of shards names is not beside it."""
    content = read_json(index)
    files = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(files, dict):
        raise InputError(f"{index}: no weight_map; copy the file again")
    absent = sorted(name for name in set(files.values()) if not (index.parent / name).is_file())
    if absent:
        raise InputError(f"{index}: {absent[0]} is not beside it; copy the missing shard into the folder")


def check_safetensors(file: Path) -> set[str]:
    """Return the names of a file's tensors; InputError for a header that cannot be read, and for a file of
    another size than it says.
    """
    size = file.stat().st_size
    remedy = "the file is truncated or damaged; copy it again"
    with file.open("rb") as stream:
        start = stream.read(8)
        if len(start) < 8 or (length := struct.unpack("<Q", start)[0]) > size - 8:
            raise InputError(f"{file}: {remedy}")
        header = stream.read(length)
    try:
        tensors = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
        end = max((int(entry["data_offsets"][1]) for entry in tensors.values()), default=0)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):  # no JSON, or not of this form
        raise InputError(f"{file}: its header cannot be read; {remedy}") from None
    if 8 + length + end != size:
        raise InputError(f"{file}: {size} bytes, its header says {8 + length + end}; {remedy}")
    return set(tensors)


def check_chat_template(path: str) -> None:
    """Raise InputError when a local target's tokenizer has no chat template, which every task needs."""
    folder = Path(path)
    if not folder.is_dir():
        return
    settings = folder / "tokenizer_config.json"
    inside = settings.is_file() and bool(read_json(settings).get("chat_template"))
    if not inside and not (folder / "chat_template.jinja").is_file():
        raise InputError(
            f"target.path: the tokenizer in {path} has no chat template; give responses.chat_template, or "
            "add a chat_template.jinja"
        )
