"""Options of a stage: flags from a dataclass, and a config block rendered as flags."""

import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

from ltd.errors import InputError
from ltd.options import StageOptions, command_line, option, parse_options, run_stage


@dataclass(frozen=True, kw_only=True)
class Example(StageOptions):
    """Every kind of field a stage may have."""

    output: Path = option(help="where to")
    learning_rate: float = option(1e-3, "peak learning rate")
    sizes: tuple[int, ...] = option((1, 2), "sizes")
    packed: bool = option(True, "packed kernels")
    path: str | None = option(None, "a folder")


def test_block_survives_the_command_line():
    block = {
        "learning_rate": 0.5,
        "sizes": [3, 5],
        "packed": False,
        "path": "a folder/with 'quotes'",
        "seed": 7,
    }
    options = parse_options(Example, "", shlex.split("--output there " + command_line(block)))
    assert options == Example(
        output=Path("there"),
        learning_rate=0.5,
        sizes=(3, 5),
        packed=False,
        path="a folder/with 'quotes'",
        seed=7,
    )


def test_none_and_defaults():
    options = parse_options(Example, "", shlex.split("--output there " + command_line({"path": None})))
    assert options == Example(output=Path("there"))


def test_required_flag_is_required(capsys):
    with pytest.raises(SystemExit):
        parse_options(Example, "", [])
    assert "--output" in capsys.readouterr().err


def test_input_error_is_one_line_and_status_2(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")

    def stage(options, run):
        raise InputError("rl.sizes: empty; give at least one")

    arguments = ["--output", str(tmp_path / "out"), "--experiment", str(tmp_path / "experiment")]
    with pytest.raises(SystemExit) as stop:
        run_stage("example", Example, stage, "", arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err.strip().splitlines()[-1] == "example: rl.sizes: empty; give at least one"


@dataclass(frozen=True, kw_only=True)
class Refusing(StageOptions):
    """Options that check themselves."""

    def __post_init__(self):
        raise InputError("rl.rollout: 3")


def test_options_that_check_themselves_are_refused_in_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        run_stage("example", Refusing, None, "", [])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "example: rl.rollout: 3\n"
