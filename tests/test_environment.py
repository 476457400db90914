"""The pins of pyproject.toml, which the conda environment mirrors."""

import re
import tomllib
from itertools import chain
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def test_conda_environment_has_the_pins_of_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = project["dependencies"] + project["optional-dependencies"]["pipeline"]
    environment = yaml.safe_load((ROOT / "envs/ltd.yaml").read_text())
    assert sorted(environment["dependencies"][-1]["pip"]) == sorted(pins)


def test_every_package_has_one_version():
    """Those of all extras, too: who installs later gets the same."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for package in chain(project["dependencies"], *project["optional-dependencies"].values()):
        assert re.fullmatch(r"[\w.-]+==[\w.]+", package), package
