"""The modules of `ltd.engine.gpu` can be read where Triton is missing, too: what they name is there."""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import MagicMock

import pytest

import ltd.engine.bucketed_drafting  # noqa: F401 (torch must not meet what stands for Triton)
from ltd.engine import gpu

MODULES = sorted(file.stem for file in Path(gpu.__file__).parent.glob("[a-z]*.py"))


@pytest.mark.parametrize("module", MODULES)
def test_every_module_is_imported(module, monkeypatch):
    if find_spec("triton") is None:
        for name in ("triton", "triton.language"):
            monkeypatch.setitem(sys.modules, name, MagicMock())
    assert import_module(f"{gpu.__name__}.{module}").__doc__
