"""What an experiment was made with: its whole configuration, kept beside its results for those that reuse it.

results/<experiment>/config.json is the merged configuration of the newest run that came to its report. That
of a run which has begun since, or which was asked for single stages alone, is config-unfinished.json: some
of the results may be made with it, and whoever reuses them is told where the two differ. An experiment that
was made before there was such a file is taken over unchecked.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from ltd import effort
from ltd.errors import InputError
from ltd.files import read_json, write_json

FILE, UNFINISHED = "config.json", "config-unfinished.json"
# What a published head is read with; the rest of its block trains one.
OF_A_PUBLISHED_HEAD = ("draft.rope_theta", "draft.probe_answers")
TEMPLATE = "responses.chat_template"

Config = dict[str, Any]


def begin(experiment: Path, config: Config) -> None:
    """Write the configuration of a run that begins into the folder of its experiment, atomically."""
    write_json(experiment / UNFINISHED, config)


def finish(experiment: Path) -> None:
    """Keep the configuration of the run that ends, whose report is up to date."""
    if (experiment / UNFINISHED).is_file():
        (experiment / UNFINISHED).replace(experiment / FILE)


def kept(experiment: Path) -> Config:
    """The configuration that an experiment was made with, as far as it is; empty where none was kept."""
    return _read(experiment / FILE) or _read(experiment / UNFINISHED)


def _read(file: Path) -> Config:
    return read_json(file) if file.is_file() else {}


def has_prompts_of(config: Config, finished: Path) -> bool:
    """Whether a configuration names the very prompts that a finished experiment was made with."""
    ours, theirs = config["prompts"], kept(finished).get("prompts", {})
    return all(key in theirs and ours[key] == theirs[key] for key in ("path", "hub", "tasks"))


def check_models(config: Config, finished: Path) -> None:
    """Check what shapes the models of a finished experiment and their answers.

    Raises InputError that names the first key that differs.
    """
    # Which models these are comes first: of others, most keys differ.
    keys = ["target.path", "draft.path", "seed", "dtype", "quantisation"]
    if config["target"]["path"] is None:
        keys += keys_of(config, "target")
    if config["draft"]["path"] is None:
        keys += [key for key in keys_of(config, "draft") if key not in OF_A_PUBLISHED_HEAD]
    else:
        keys += OF_A_PUBLISHED_HEAD
    for key in differing([*keys, *keys_of(config, "responses")], config, finished):
        _refuse(key, config, finished)


def differing(keys: Iterable[str], config: Config, finished: Path) -> list[str]:
    """Those of `keys` whose value is not the kept one, or that an unfinished run has changed since; one that
    was not kept is passed over.
    """
    theirs = _values(kept(finished))
    later = [_values(config), theirs | _values(_read(finished / UNFINISHED))]
    return [
        key for key in keys if key in theirs and any(_differs(key, each[key], theirs[key]) for each in later)
    ]


def _differs(key: str, value: Any, other: Any) -> bool:
    """Whether two values of a key mean different things: of templates the text counts, wherever they are."""
    if key == TEMPLATE and value and other and all(Path(file).is_file() for file in (value, other)):
        return Path(value).read_bytes() != Path(other).read_bytes()
    return value != other


def _refuse(key: str, config: Config, finished: Path) -> NoReturn:
    """Say of a key that differs from what, and what helps."""
    theirs = _values(kept(finished))
    begun = theirs | _values(_read(finished / UNFINISHED))
    made = json.dumps(theirs[key])
    if _differs(key, begun[key], theirs[key]):
        raise InputError(
            f"{key}: {finished} was made with {made}, and since then a run with {json.dumps(begun[key])} has "
            "begun; run it with one of them first, with `-R all`"
        )
    wanted = json.dumps(_values(config)[key])
    raise InputError(
        f"{key}: {wanted}, but {finished} was made with {made}; use the same, or leave `reuse` out"
    )


def keys_of(config: Config, block: str) -> list[str]:
    """Keys of a block that shape something, as `block.key`."""
    return [name for key in config[block] if (name := f"{block}.{key}") not in effort.KEYS]


def _values(config: Config) -> Config:
    """A configuration by `block.key`, and by `key` where that is no block."""
    flat: Config = {}
    for name, value in config.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": each for key, each in value.items()}
        else:
            flat[name] = value
    return flat
