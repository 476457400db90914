"""Predicted speedups of static Eagle3: the paper's acceptance lengths on a profile's times."""

from pathlib import Path

import pytest

from ltd import what_if
from ltd.errors import InputError
from synthetic import synthetic_profile


def table(path, **changes):
    settings = {"profiles": (f"llama31-8b={path}",), "depth": 4, "size": 16, "context": 64}
    return what_if.predictions(what_if.WhatIfOptions(**settings | changes))


def test_prediction_is_tokens_over_time_against_a_plain_step(tmp_path):
    profile = synthetic_profile()
    profile.save(tmp_path / "p.json")
    rows = table(tmp_path / "p.json").set_index("task")
    assert rows.loc["chat", ["acceptance length", "published"]].tolist() == [6.39, 3.70]
    # Milliseconds of the synthetic machine at 64 tokens, by hand; the prefix pass is linear in its rows.
    draft = 0.08 + 0.01 * 6.39 + 3 * 0.1
    cycle = draft + 1.0 + 0.12 * 16 + 0.1 + 0.02 + 0.0005 * 16
    assert rows.loc["chat", "predicted"] == pytest.approx(6.39 * 1.0 / cycle)
    assert (table(tmp_path / "p.json", depth=6)["predicted"] < rows["predicted"].to_numpy()).all()


def test_command_prints_the_table(tmp_path, capsys):
    synthetic_profile().save(tmp_path / "p.json")
    what_if.main(["--profiles", f"vicuna-13b={tmp_path}/p.json", "--depth", "3", "--context", "32"])
    printed = capsys.readouterr().out
    assert "on synthetic; published: Zhang" in printed and "| vicuna-13b | maths | 6.58 |" in printed


@pytest.mark.parametrize(
    ("model", "shape", "error"),
    [
        ("llama31-8b", "llama31-8b", 0.08),
        ("deepseek-r1-llama-8b", "llama31-8b", 0.18),
        ("vicuna-13b", "vicuna-13b", 0.1),
    ],
)
def test_measured_shapes_are_in_the_papers_reach(model, shape, error):
    path = Path(what_if.__file__).parents[1] / f"profiles/{shape}-h200.json"
    rows = what_if.predictions(what_if.WhatIfOptions(profiles=(f"{model}={path}",)))
    assert rows["predicted"].to_numpy() == pytest.approx(rows["published"].to_numpy(), rel=error)


@pytest.mark.parametrize("entry", ["gpt=p.json", "llama31-8b"])
def test_unknown_model_is_named(entry):
    with pytest.raises(InputError, match="expected <model>=<file>, the model one of llama31-8b"):
        what_if.predictions(what_if.WhatIfOptions(profiles=(entry,)))
