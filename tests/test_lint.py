"""The code is as `make lint` wants it, Snakemake warns of nothing, and packages stand one on the other."""

import ast
import re
import subprocess
import sys

import pytest

from pipeline import ROOT, snakemake

RULES = ("Snakefile", "workflow/experiment.smk", "workflow/experiments.smk", "workflow/rules")


@pytest.mark.parametrize(
    "command",
    [("ruff", "check", "."), ("ruff", "format", "--check", "."), ("snakefmt", "--check", *RULES)],
    ids=" ".join,
)
def test_code_is_formatted_and_free_of_warnings(command):
    result = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_snakemake_finds_nothing_to_warn_of(tmp_path):
    result = snakemake(tmp_path, "--lint", config=(ROOT / "config.yaml",))
    assert result.returncode == 0, result.stderr


def test_packages_import_what_comes_before_them():
    """In the order of docs/code.md, which names them all."""
    packages = {path.parent.name: path.parent for path in (ROOT / "workflow/ltd").glob("*/__init__.py")}
    table = (ROOT / "docs/code.md").read_text().partition("The packages")[2]
    order = list(dict.fromkeys(re.findall(r"`(\w+)/`", "".join(re.findall(r"(?m)^\| `.*?\|", table)))))
    assert sorted(order) == sorted(packages)
    for package in order:
        for file in packages[package].rglob("*.py"):
            beyond = imported(ast.parse(file.read_text())) & set(order[order.index(package) + 1 :])
            assert not beyond, f"{file.relative_to(ROOT)} imports {', '.join(beyond)}"


def imported(module):
    """Names below `ltd` that a module imports, in whichever form."""
    names = []
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports are not looked into"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("ltd.")}
