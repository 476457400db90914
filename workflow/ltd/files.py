"""Files that are either whole or absent: atomic writes, locks, JSON, JSON lines, content hashes."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ltd.errors import InputError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` for a file or a folder; rename it to `path` on success.

    A reader therefore never sees a half-written result, also after SIGKILL: the temporary name stays behind
    and the next attempt replaces it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    _remove(temporary)
    try:
        yield temporary
    except BaseException:
        _remove(temporary)
        raise
    replaced = path.with_name(f".{path.name}.replaced")
    _remove(replaced)
    if path.is_dir():
        # A folder cannot be renamed over a full one: between these lines there is none, never half of one.
        os.replace(path, replaced)
    os.replace(temporary, path)
    _remove(replaced)


@contextmanager
def alone(path: str | Path) -> Iterator[None]:
    """Hold the lock file `path`: one process of this machine at a time, and none for ever if it is killed."""
    with Path(path).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def discard(folder: Path) -> None:
    """Delete a folder as a whole: killed meanwhile, nobody finds a part of it under its name."""
    if folder.is_dir():
        hidden = folder.with_name(f".{folder.name}.discarded")
        _remove(hidden)
        os.replace(folder, hidden)
        _remove(hidden)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read_json(path: str | Path) -> Any:
    """Parse a JSON file; raises InputError naming the file and line when absent or malformed."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: not valid JSON ({error.msg})") from error


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """Parse a file of one JSON object a line; raises InputError naming the file and line."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: byte {error.start} is not UTF-8; save the file in that encoding"
        ) from error
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {number}: not valid JSON ({error.msg})") from error
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number}: expected a JSON object, found {type(row).__name__}")
        rows.append(row)
    return rows


def write_jsonl(path: str | Path, rows: list[dict[str, Any]]) -> None:
    """Write one JSON object a line, atomically."""
    with atomic_path(path) as temporary:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        temporary.write_text(text, encoding="utf-8")


def own_files(folder: str | None, pattern: str) -> list[str]:
    """Files of a folder of the user's own, sorted, hidden ones left out; none where it is no folder: an id of
    the hub, or nothing. As inputs of a rule they make again what is made from them when they change.
    """
    found = Path(folder).glob(pattern) if folder and Path(folder).is_dir() else ()
    return sorted(str(file) for file in found if file.is_file() and not _hidden(file.relative_to(folder)))


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def file_hash(*paths: str | Path) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of the contents of files and folders, names included.

    Hidden files and folders do not count: workflow manager, download and git leave their own marks there.
    """
    digest = hashlib.sha256()
    for path in map(Path, paths):
        files = (
            sorted(p for p in path.rglob("*") if p.is_file() and not _hidden(p.relative_to(path)))
            if path.is_dir()
            else [path]
        )
        if not path.exists():
            raise InputError(f"{path}: no such file or folder")
        for file in filter(Path.is_file, files):
            name = file.relative_to(path).as_posix() if path.is_dir() else file.name
            digest.update(name.encode())
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()[:16]
