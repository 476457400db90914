"""Code that comes with models and data sets is never run, and nobody is asked whether it may be."""

import ast
import json
import os
import sys
import types
from pathlib import Path

import pytest

import ltd
from ltd.engine.model_loading import load_tokenizer, read_config
from ltd.errors import InputError
from ltd.texts.hub_prompts import hub_prompts

SOURCES = sorted(Path(ltd.__file__).parent.rglob("*.py"))


def loading_calls():
    """File, line and keywords of every call that could load code of a model."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if node.func.attr in ("from_pretrained", "from_config") and ast.unparse(node.func).startswith(
                "Auto"
            ):
                yield f"{path.name}:{node.lineno}", {k.arg: ast.unparse(k.value) for k in node.keywords}


def test_every_loader_says_no():
    calls = dict(loading_calls())
    assert len(calls) >= 5
    assert {where: words.get("trust_remote_code") for where, words in calls.items()} == dict.fromkeys(
        calls, "False"
    )


@pytest.mark.parametrize(
    ("load", "file", "values"),
    [
        (read_config, "config.json", {"model_type": "new-kind", "auto_map": {"AutoConfig": "code.Config"}}),
        (
            load_tokenizer,
            "tokenizer_config.json",
            {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["code.Own", None]}},
        ),
    ],
)
def test_models_with_code_are_refused_without_a_question(tmp_path, monkeypatch, load, file, values):
    asked = []
    monkeypatch.setattr("builtins.input", lambda *question: asked.append(question) or "y")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / file).write_text(json.dumps(values))
    (tmp_path / "code.py").write_text("raise SystemExit('the code of the model has run')")
    with pytest.raises(InputError, match="cannot be loaded") as refusal:
        load(tmp_path)
    assert not asked and "\n" not in str(refusal.value)


def test_data_sets_run_no_code_either(monkeypatch):
    """The package reads its answer from the environment when it is imported."""
    module = types.ModuleType("datasets")
    seen = []

    def load_dataset(*arguments, **settings):
        seen.append((os.environ["HF_DATASETS_TRUST_REMOTE_CODE"], settings))
        raise FileNotFoundError("none here")

    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    monkeypatch.setenv("HF_DATASETS_TRUST_REMOTE_CODE", "1")
    with pytest.raises(InputError):
        hub_prompts(["maths=openai/gsm8k"], ["maths"], {"test": 1})
    assert seen[0][0] == "0" and "trust_remote_code" not in seen[0][1]
