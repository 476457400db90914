"""Text nobody wrote for this project: functions of the Python standard library of this machine."""

import ast
import sysconfig
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from ltd.world.conversation import Exchange, split_of

# Tests, packages installed beside the library, vendored copies, and generated or foreign-language tables.
_SKIPPED = {
    "test",
    "tests",
    "site-packages",
    "dist-packages",
    "idlelib",
    "lib2to3",
    "turtledemo",
    "_vendor",
    "encodings",
}
_BODY_CHARACTERS = (60, 520)
_DOC_CHARACTERS = 240
_WIDEST_LINE = 90


@cache
def functions() -> dict[str, tuple[Exchange, ...]]:
    """The functions of each split; a module belongs to one split as a whole.

    A prompt that appears in several modules stays with the first module that has it.
    """
    found: dict[str, list[Exchange]] = {}
    seen: set[str] = set()
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if _SKIPPED & set(relative.parts) or any(part.startswith("test") for part in relative.parts):
            continue
        module = ".".join(relative.with_suffix("").parts)
        for exchange in _functions_of(path, module):
            key = " ".join(exchange.turns[0].split()).lower()
            if key not in seen:
                seen.add(key)
                found.setdefault(split_of(f"module {relative.parts[0]}"), []).append(exchange)
    return {split: tuple(exchanges) for split, exchanges in found.items()}


def _functions_of(path: Path, module: str) -> Iterator[Exchange]:
    try:
        source = path.read_text(encoding="utf-8")
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
    signature = textwrap.dedent("\n".join(lines[node.lineno - 1 : node.body[0].lineno - 1]))
    body = textwrap.dedent("\n".join(lines[node.body[0].end_lineno : node.end_lineno])).strip("\n")
    fits = _BODY_CHARACTERS[0] <= len(body) <= _BODY_CHARACTERS[1] and len(documentation) <= _DOC_CHARACTERS
    if (
        not fits
        or not body.isascii()
        or max(map(len, body.splitlines())) > _WIDEST_LINE
        or '"""' in documentation
    ):
        return None
    body = textwrap.indent(body, "    ")
    prompt = (
        f"Complete this function of the module {module}.\n\n{signature.rstrip()}\n"
        f"{textwrap.indent(f'{chr(34) * 3}{documentation}{chr(34) * 3}', '    ')}\n"
    )
    try:
        compile(prompt.split("\n\n", 1)[1] + body, module, "exec")
    except (SyntaxError, ValueError):
        return None  # a signature on the docstring's line, `nonlocal` of an outer function and the like
    return Exchange(module.split(".")[0], (prompt,), (body,))
