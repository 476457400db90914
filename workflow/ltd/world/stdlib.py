"""Text nobody wrote for this project: functions of the Python standard library of this machine."""

import ast
import sysconfig
import textwrap
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from ltd.world.conversation import Exchange, split_of
from ltd.world.lexicon import words

# Tests, packages installed beside the library, vendored copies, and generated or foreign-language tables.
_SKIPPED = set(
    words("test tests site-packages dist-packages idlelib lib2to3 turtledemo _vendor encodings __pycache__")
)
_BODY_CHARACTERS = (60, 520)
_DOC_CHARACTERS = 240
_WIDEST_LINE = 90


@cache
def functions() -> dict[str, tuple[Exchange, ...]]:
    """The functions of each split; a module belongs to one split as a whole.

    A function that several modules have stays with the first of them.
    """
    found: dict[str, list[Exchange]] = {}
    seen: set[str] = set()
    for path, module in _modules(Path(sysconfig.get_path("stdlib"))):
        for exchange in _functions_of(path, module):
            key = " ".join(exchange.turns[0].split("\n", 1)[1].split()).lower()
            if key not in seen:
                seen.add(key)
                found.setdefault(split_of(f"import {module.split('.')[0]}"), []).append(exchange)
    return {split: tuple(exchanges) for split, exchanges in found.items()}


def _modules(folder: Path, package: str = "") -> Iterator[tuple[Path, str]]:
    """Files and dotted names of the modules below `folder`, in alphabetical order."""
    for path in sorted(folder.iterdir()):
        if path.name in _SKIPPED or path.name.startswith("test_"):
            continue
        if path.is_dir():
            yield from _modules(path, f"{package}{path.name}.")
        elif path.suffix == ".py":
            yield path, f"{package}{path.stem}"


def _functions_of(path: Path, module: str) -> Iterator[Exchange]:
    try:
        source = path.read_text(encoding="utf-8")
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(source)
    except (OSError, UnicodeDecodeError, SyntaxError):
        return  # a platform's odd file is not worth failing for
    lines = source.splitlines()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and not node.decorator_list:
            exchange = _exchange(node, lines, module)
            if exchange is not None:
                yield exchange


def _exchange(node: ast.FunctionDef, lines: list[str], module: str) -> Exchange | None:
    """Signature and docstring as prompt, body as answer; None if it does not fit."""
    documentation = ast.get_docstring(node)
    if documentation is None or len(node.body) < 2:
        return None
    documentation = documentation.split("\n\n")[0]
    signature = textwrap.dedent("\n".join(lines[node.lineno - 1 : node.body[0].lineno - 1])).rstrip()
    body = textwrap.dedent("\n".join(lines[node.body[0].end_lineno : node.end_lineno])).strip("\n")
    if not _fits(documentation, body):
        return None
    body = textwrap.indent(body, "    ")
    function = f"{signature}\n" + textwrap.indent(f'"""{documentation}"""', "    ") + "\n"
    try:
        with warnings.catch_warnings(action="ignore"):
            compile(function + body, module, "exec")
    except (SyntaxError, ValueError):
        return None  # a docstring on the signature's line, `nonlocal` of an outer function and the like
    prompt = f"Complete this function of the module {module}.\n\n{function}"
    return Exchange(module.split(".")[0], (prompt,), (body,))


def _fits(documentation: str, body: str) -> bool:
    shortest, longest = _BODY_CHARACTERS
    return (
        shortest <= len(body) <= longest
        and len(documentation) <= _DOC_CHARACTERS
        and not set('"\\') & set(documentation)
        and (documentation + body).isascii()
        and max(map(len, body.splitlines())) <= _WIDEST_LINE
    )
