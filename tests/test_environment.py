"""The conda environment mirrors the pins of pyproject.toml."""

import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def test_conda_environment_has_the_pins_of_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = project["dependencies"] + project["optional-dependencies"]["pipeline"]
    environment = yaml.safe_load((ROOT / "envs/ltd.yaml").read_text())
    assert sorted(environment["dependencies"][-1]["pip"]) == sorted(pins)
