"""Several experiments at once: the configuration of each, from what all share and a file of its own."""

import copy
from pathlib import Path
from typing import Any

import yaml

from ltd import configuration
from ltd.configuration import Config
from ltd.errors import InputError


def configurations(config: Config, folder: Path) -> dict[str, Config]:
    """Return every experiment's configuration by name, checked.

    An entry of `experiments` is a file, or the name of one in `folder`/experiments; several of them joined by
    `+` are laid over each other. The files' keys stand over those of `config`. An experiment is called what
    its file says, otherwise after its files. Raises InputError on the first entry that is wrong.

    Args:
        config: the configuration of the whole call, with the list `experiments`.
        folder: the workflow's folder, which holds experiments/ and schemas/.
    """
    entries = config["experiments"]
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise InputError(f"experiments: {entries!r} is not a list of names or files")
    found: dict[str, Config] = {}
    for entry in entries:
        merged = copy.deepcopy(config) | {"experiments": []}
        files = [_file(part.strip(), folder / "experiments") for part in entry.split("+")]
        name = "-".join(file.stem for file in files)
        for file in files:
            own = _read(file)
            if len(files) == 1:
                name = own.get("experiment", name)
            merge(merged, own)
        merged["experiment"] = name
        if name in found:
            raise InputError(f"experiments: {entry}: {name} is there already; give it another `experiment`")
        try:
            configuration.check(merged, folder / "schemas/config.schema.yaml")
        except InputError as error:
            raise InputError(f"experiments: {entry}: {error}") from error
        found[name] = merged
    return found


def merge(config: Config, over: dict[str, Any]) -> None:
    """Lay one configuration over another, in place: blocks key by key, as Snakemake does, lists whole."""
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(config.get(key), dict):
            merge(config[key], value)
        else:
            config[key] = value


def target_label(config: Config) -> str:
    """What a table calls the target."""
    return config["target"]["path"] or "trained here"


def head_label(config: Config) -> str:
    """What a table calls the draft head."""
    return config["draft"]["path"] or "trained here"


def _file(entry: str, folder: Path) -> Path:
    """The file that an entry means."""
    if Path(entry).is_file():
        return Path(entry)
    named = folder / f"{entry}.yaml"
    if named.is_file():
        return named
    known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
    raise InputError(f"experiments: {entry!r} is neither a file nor one of {known}")


def _read(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise InputError(f"experiments: {file}: not valid YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict):
        raise InputError(f"experiments: {file}: expected keys of config.yaml, found {type(content).__name__}")
    return content
