"""Files are either whole or absent."""

import fcntl
import os
from pathlib import Path

import pytest

from ltd.errors import InputError
from ltd.files import (
    alone,
    atomic_path,
    discard,
    file_hash,
    own_files,
    read_json,
    read_jsonl,
    write_json,
    write_jsonl,
)


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "value.json"
    write_json(path, {"old": 1})
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("killed")
    assert read_json(path) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["value.json"]


def test_who_reads_a_file_that_is_replaced_goes_on_with_the_old_one(tmp_path):
    path = tmp_path / "value.json"
    write_json(path, 1)
    with path.open() as reader:
        write_json(path, 2)
        assert reader.read().strip() == "1"
    assert read_json(path) == 2


def test_a_lock_is_held_by_one_alone(tmp_path):
    path = tmp_path / "lock"
    with alone(path), path.open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with path.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_folder_replaces_folder(tmp_path):
    for content in ("first", "second"):
        with atomic_path(tmp_path / "folder") as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content)
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["second"]


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    """Killed between the two renames, neither half of the old one nor of the new one has its name."""
    with atomic_path(tmp_path / "folder") as temporary:
        temporary.mkdir()
        (temporary / "first").write_text("")
    rename = os.replace

    def killed(source, target):
        if Path(target) == tmp_path / "folder":
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "folder") as temporary:
        temporary.mkdir()
    assert not (tmp_path / "folder").exists()
    monkeypatch.undo()
    with atomic_path(tmp_path / "folder") as temporary:
        temporary.mkdir()
        (temporary / "second").write_text("")
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["second"]


def test_jsonl_error_names_file_and_line(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text('{"turns": ["a"]}\n{"turns": \n')
    with pytest.raises(InputError, match=r"questions\.jsonl, line 2"):
        read_jsonl(path)


def test_another_encoding_is_named(tmp_path):
    (tmp_path / "latin.jsonl").write_bytes('{"turns": ["caf\u00e9"]}\n'.encode("latin-1"))
    with pytest.raises(
        InputError, match=r"latin\.jsonl: byte 15 is not UTF-8; save the file in that encoding"
    ):
        read_jsonl(tmp_path / "latin.jsonl")


def test_jsonl_round_trip(tmp_path):
    rows = [{"turns": ["ä", "b\nc\u2028d"]}, {"turns": []}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert read_jsonl(tmp_path / "rows.jsonl") == rows


def test_hash_sees_contents_and_names_but_no_hidden_files(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_text("1")
    before = file_hash(folder)
    (folder / ".mark").write_text("x")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "a.metadata").write_text("when it was fetched")
    assert file_hash(folder) == before
    (folder / "a").write_text("2")
    changed = file_hash(folder)
    (folder / "a").rename(folder / "b")
    assert len({before, changed, file_hash(folder)}) == 3


def test_hash_does_not_depend_on_the_order_in_which_files_are_found(tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
    found, expected = sorted(tmp_path.iterdir()), file_hash(tmp_path)
    for order in (found, found[::-1]):
        monkeypatch.setattr(Path, "rglob", lambda self, pattern, order=order: order)
        assert file_hash(tmp_path) == expected


def test_own_files_are_those_of_a_folder_that_is_there(tmp_path):
    for name in ("b.json", "a.json", ".cache/c.json", "below/d.json", ".hidden.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    assert own_files(str(tmp_path), "*") == [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    assert own_files(str(tmp_path), "**/*.json")[-1] == str(tmp_path / "below/d.json")
    assert own_files("owner/name", "*") == own_files(None, "*") == []


def test_a_discarded_folder_is_gone_as_a_whole(tmp_path, monkeypatch):
    """Killed while it deletes, its name is free already."""
    folder = tmp_path / "state"
    (folder / "best").mkdir(parents=True)
    seen = []
    monkeypatch.setattr("shutil.rmtree", lambda path: seen.append((path.name, folder.exists())))
    discard(folder)
    assert seen == [(".state.discarded", False)]
    discard(tmp_path / "never was")
