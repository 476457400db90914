"""Names of models and data sets: local folders, or ids of the Hugging Face hub, `owner/name[@revision]`.

Hub files come through transformers, datasets and huggingface_hub, which keep a cache and honour
`HF_HUB_OFFLINE`; what goes wrong there is said in one line, with the remedy.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from ltd.errors import InputError
from ltd.files import file_hash

_ID = re.compile(r"\w[\w.-]*/[\w.-]+(@[\w./-]+)?")
# By class name: huggingface_hub and what wraps it raise these under several types.
_REMEDIES = {
    "GatedRepoError": "access is restricted; accept its licence at https://huggingface.co/{page}, then "
    "`hf auth login` or set HF_TOKEN",
    "RevisionNotFoundError": "there is no revision {revision}; take a commit from its page on the hub",
    "RepositoryNotFoundError": "the hub has none of this name; check the spelling, and `hf auth login` if it "
    "is private",
    "OfflineModeIsEnabled": "it is not in the local cache and HF_HUB_OFFLINE is set; `hf download {files}` "
    "where there is a network",
    "LocalEntryNotFoundError": "it is not in the local cache and the hub cannot be reached; `hf download "
    "{files}` where there is a network, or give a folder",
}
NO_TOKENIZER = (
    "there is no tokenizer.json and nothing to make it from; copy the files of the model's tokenizer there, "
    "and for a tokenizer.model `pip install sentencepiece`"
)

# The cache that is looked into without a network is that of prepared data sets, not of downloaded files.
_PREPARED = (
    "it has not been prepared here and {why}; load it once where there is a network, by `snakemake "
    "prepare_prompts` say, and take HF_DATASETS_CACHE along"
)
_OF_DATASETS = {
    "OfflineModeIsEnabled": _PREPARED.replace("{why}", "HF_HUB_OFFLINE is set"),
    "LocalEntryNotFoundError": _PREPARED.replace("{why}", "the hub cannot be reached"),
}


def split_revision(name: str | Path) -> tuple[str, str | None]:
    """Split `owner/name@revision` into id and revision; a local folder has none."""
    text = str(name)
    if Path(text).exists() or "@" not in text:
        return text, None
    plain, _, revision = text.rpartition("@")
    return plain, revision


def is_hub_id(name: str | Path) -> bool:
    """Whether this is an id of the hub rather than a folder."""
    return not Path(name).exists() and _ID.fullmatch(str(name)) is not None


def check_name(key: str, name: str | Path) -> None:
    """Raise InputError unless `name` is an existing folder or looks like an id of the hub."""
    if not Path(name).is_dir() and not is_hub_id(name):
        raise InputError(f"{key}: {name} is neither a folder nor a hub id (owner/name)")


def explain(error: BaseException, name: str | Path, kind: str = "model") -> str:
    """One line that says why the model or data set (`kind`: model, dataset) `name` could not be fetched, and
    what to do about it.
    """
    plain, revision = split_revision(name)
    folder = {"model": "", "dataset": "datasets/"}[kind]
    files = plain + (f" --revision {revision}" if revision else "")
    causes = {type(cause).__name__ for cause in _causes(error)}
    for cause, remedy in (_REMEDIES | (_OF_DATASETS if kind == "dataset" else {})).items():
        if cause in causes:
            return remedy.format(page=folder + plain, files=files, revision=revision)
    # Transformers lists over several lines what it looked for.
    if str(error).startswith("Couldn't instantiate the backend tokenizer"):
        return NO_TOKENIZER
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def local_folder(name: str | Path) -> Path:
    """The folder itself, or the folder in the local cache with a hub repository's configuration and weights.

    Raises InputError, with the remedy, for what is neither and for what cannot be fetched.
    """
    if Path(name).is_dir():
        return Path(name)
    check_name("draft", name)
    from huggingface_hub import snapshot_download

    plain, revision = split_revision(name)
    try:
        return Path(
            snapshot_download(
                plain,
                revision=revision,
                allow_patterns=["config.json", "*.safetensors", "pytorch_model*.bin"],
            )
        )
    except Exception as error:  # whatever the network and its libraries raise
        raise InputError(f"{name}: {explain(error, name)}") from error


def identity(name: str | Path) -> str:
    """What tells one model from another in results: the hash of a folder, else id and commit of what the
    local cache holds, or, where it holds nothing, the revision asked for.
    """
    if Path(name).exists():
        return file_hash(name)
    from huggingface_hub import try_to_load_from_cache

    plain, revision = split_revision(name)
    cached = try_to_load_from_cache(plain, "config.json", revision=revision)
    commit = Path(cached).parent.name if isinstance(cached, str) else revision or "main"
    return f"{plain}@{commit}"
