"""The stage that fits published baselines."""

import dataclasses

import pytest

from baseline_data import SIZES
from ltd import fit_baselines as stage
from ltd.baselines import CLASSIFIERS, NAMES
from ltd.baselines.catalogue import BASELINES
from ltd.benchmark import BenchmarkOptions, make_controllers
from ltd.errors import InputError
from ltd.tracking import StageRun
from synthetic import save_inputs, synthetic_traces


@pytest.fixture
def options(tmp_path):
    traces = synthetic_traces(with_optional=True)
    return stage.FitBaselinesOptions(
        baseline="svip",
        **save_inputs(tmp_path, traces, traces),
        output=tmp_path / "baselines" / "svip",
        sizes=SIZES,
        published_size=16,
        thresholds=5,
    )


def test_stage_writes_what_the_benchmark_reads(options, tmp_path, capsys):
    stage.fit_baselines(options, StageRun())
    assert "svip fitted: validation speedup" in capsys.readouterr().out
    folders = ("draft", "policies", "opponents", "lookup", "responses", "output", "state")
    paths = dict.fromkeys(folders, tmp_path)
    benchmark = BenchmarkOptions(
        **paths, target="", profile=options.profile, grid=tmp_path / "grid.json", traces=options.traces,
        baselines=tmp_path / "baselines", methods=("autoregressive", "svip", "svip:published"),
    )  # fmt: skip
    grid = {"depth": 2, "size": 3}
    controllers = make_controllers(benchmark, grid)
    assert controllers["svip:published"].size == 16 and controllers["svip"].size in range(1, 9)
    assert tuple(BASELINES) == NAMES
    with pytest.raises(InputError, match=r"disco/baseline\.json: no such file"):
        make_controllers(dataclasses.replace(benchmark, methods=("autoregressive", "disco")), grid)


@pytest.mark.parametrize("name", NAMES)
def test_a_classifier_is_trained_as_its_own_options_say_and_nothing_else_is(options, name):
    training = stage.training_settings(dataclasses.replace(options, baseline=name))
    assert (training is None) == (name not in CLASSIFIERS)
    if training:
        named = getattr(options, f"{name}_hidden"), getattr(options, f"{name}_epochs")
        assert (training.hidden, training.epochs) == named and min(named) > 0


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"sizes": (4, 2)}, r"baselines.sizes: \[4, 2\] is not ascending"),
        ({"thresholds": 2}, "baselines.thresholds: 2 is not at least 3"),
        ({"samples": 0}, "baselines.samples: 0 is not at least 1"),
        ({"disco_hidden": 0}, "baselines.disco_hidden: 0 is not at least 1"),
        ({"disco_epochs": -1}, "baselines.disco_epochs: -1 is not at least 1"),
        ({"specdecpp_hidden": -8}, "baselines.specdecpp_hidden: -8 is not at least 1"),
        ({"c2t_epochs": 0}, "baselines.c2t_epochs: 0 is not at least 1"),
        ({"learning_rate": 0.0}, "baselines.learning_rate: 0.0 is not above 0"),
        ({"train_tasks": ("poems",)}, "'poems' has no answers"),
        ({"published_size": 90}, "tables.verify: 84 lies outside the measured 1 to 60"),
    ],
)
def test_wrong_options_stop_with_one_line(options, change, complaint):
    with pytest.raises(InputError, match=complaint) as refusal:
        stage.fit_baselines(dataclasses.replace(options, **change), StageRun())
    assert "\n" not in str(refusal.value)
