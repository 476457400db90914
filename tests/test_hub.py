"""Names of models, and what is said when the hub does not give them."""

import sys
import types

import huggingface_hub
import pytest

from engine_models import random_model
from ltd.engine.model_loading import load_tokenizer
from ltd.errors import InputError
from ltd.hub import check_name, explain, identity, is_hub_id, local_folder, split_revision


class GatedRepoError(OSError):
    """Stands for huggingface_hub's error of this name."""


class LocalEntryNotFoundError(OSError):
    """Likewise."""


class OfflineModeIsEnabled(ConnectionError):
    """Likewise."""


def test_revisions(tmp_path):
    assert split_revision("owner/name@abc") == ("owner/name", "abc")
    assert split_revision("owner/name") == ("owner/name", None)
    folder = tmp_path / "a@b"
    folder.mkdir()
    assert split_revision(folder) == (str(folder), None)
    assert is_hub_id("owner/name@0e9e39f") and not is_hub_id("/a/b") and not is_hub_id("a/b/c")
    with pytest.raises(InputError, match=r"target: \./x is neither a folder nor a hub id"):
        check_name("target", "./x")


@pytest.mark.parametrize(
    "kind, model, data_set",
    [
        (
            GatedRepoError,
            "accept its licence at https://huggingface.co/o/n,",
            "accept its licence at https://huggingface.co/datasets/o/n,",
        ),
        (
            LocalEntryNotFoundError,
            "`hf download o/n --revision main`",
            "the hub cannot be reached; load it once where there is a network",
        ),
        (
            OfflineModeIsEnabled,
            "HF_HUB_OFFLINE is set; `hf download o/n --revision main`",
            "HF_HUB_OFFLINE is set; load it once where there is a network",
        ),
    ],
)
def test_remedies_are_found_through_wrapped_errors(kind, model, data_set):
    try:
        try:
            raise kind("long\ntext")
        except kind as inner:
            raise OSError("We could not connect\nand more") from inner
    except OSError as error:
        lines = explain(error, "o/n@main"), explain(error, "o/n@main", "dataset")
    assert model in lines[0] and data_set in lines[1] and "\n" not in "".join(lines)
    assert explain(ValueError("first\nsecond"), "o/n") == "first"


def test_a_tokenizer_that_is_not_there_is_told_in_one_line(tmp_path):
    """Transformers says so in several lines of a Llama, and of a Qwen3 nothing: it makes an empty one."""
    for architecture in ("llama", "qwen3"):
        random_model(architecture).config.save_pretrained(tmp_path / architecture)
        with pytest.raises(
            InputError, match=r"its tokenizer .*: there is no tokenizer\.json .*; copy the files of"
        ):
            load_tokenizer(tmp_path / architecture)
    with pytest.raises(InputError, match=r"target: /tmp/nowhere is neither a folder nor a hub id"):
        load_tokenizer("/tmp/nowhere")


def test_heads_of_the_hub_come_as_a_folder(monkeypatch, tmp_path):
    asked = []

    def snapshot_download(name, revision, allow_patterns):
        asked.append((name, revision, "config.json" in allow_patterns))
        if name == "no/such":
            raise GatedRepoError("403")
        return str(tmp_path)

    module = types.ModuleType("huggingface_hub")
    module.snapshot_download = snapshot_download
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    assert local_folder("owner/head@abc") == tmp_path and asked == [("owner/head", "abc", True)]
    assert local_folder(tmp_path) == tmp_path
    with pytest.raises(InputError, match=r"no/such: access is restricted; .*huggingface\.co/no/such"):
        local_folder("no/such")


def test_identity_of_models(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    before = identity(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"weightz")
    assert len(before) == 16 and identity(tmp_path) != before
    assert identity("owner/name") == "owner/name@main" and identity("owner/name@abc") == "owner/name@abc"


def test_identity_names_the_commit_that_the_cache_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repository, commit = tmp_path / "models--owner--name", "c" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "snapshots" / commit / "config.json").write_text("{}")
    assert identity("owner/name") == f"owner/name@{commit}"
