"""The grid search stage: winners and bounds in one file, several beam widths, wrong input in one line."""

from dataclasses import replace

import numpy as np
import pytest

from ltd.errors import InputError
from ltd.files import read_json, write_json
from ltd.grid_search import GridSearchOptions, grid_search
from ltd.replay.static_grid import in_hindsight, read_best, static_grid
from ltd.tracking import StageRun
from synthetic import synthetic_profile, synthetic_traces


@pytest.fixture
def files(tmp_path):
    """Traces and profile of beam 4 and of beam 2."""
    for beam in (4, 2):
        synthetic_traces(seed=beam, beam=beam).save(tmp_path / f"traces-{beam}")
        synthetic_profile(beam=beam, max_size=24).save(tmp_path / f"profile-{beam}.json")
    return tmp_path


def make_options(folder, traces, profiles, max_size=24):
    return GridSearchOptions(
        traces=tuple(folder / f"traces-{beam}" for beam in traces),
        profiles=tuple(folder / f"profile-{beam}.json" for beam in profiles),
        output=folder / "grid.json",
        max_size=max_size,
    )


def test_in_hindsight_another_setting_may_have_been_better():
    """With times in which verification grows faster than in those that the setting was chosen with."""
    traces = synthetic_traces()
    before, after = (synthetic_profile(max_size=24, verify_slope=slope) for slope in (0.12, 0.5))
    depth, size, _ = static_grid(traces, before, range(7), range(1, 25)).best()
    assert in_hindsight(traces, before, depth, size) == {"depth": depth, "size": size, "gain": 0}
    found = in_hindsight(traces, after, depth, size)
    grid = static_grid(traces, after, range(7), range(1, 25))
    assert (found["depth"], found["size"]) == grid.best()[:2] != (depth, size)
    chosen, best = (grid.setting(*setting).throughput() for setting in ((depth, size), grid.best()[:2]))
    assert found["gain"] == pytest.approx(best / chosen - 1) and found["gain"] > 0.01


def test_winners_and_bounds(files, capsys):
    grid_search(make_options(files, [2, 4], [2, 4]), StageRun())
    result = read_json(files / "grid.json")
    assert {grid["beam"] for grid in result["grids"]} == {2, 4}
    first, second = result["grids"]
    assert first["overall"]["tokens_per_second"] >= second["overall"]["tokens_per_second"]
    assert result["best"] == first["overall"] | {"beam": first["beam"]}
    for grid in result["grids"]:
        beam = grid["beam"]
        table = static_grid(
            synthetic_traces(seed=beam, beam=beam), synthetic_profile(beam=beam), range(7), range(1, 25)
        )
        depth, size, throughput = table.best()
        assert (grid["overall"]["depth"], grid["overall"]["size"]) == (depth, size)
        assert grid["overall"]["tokens_per_second"] == pytest.approx(throughput)
        assert grid["overall"]["speedup"] == pytest.approx(throughput / table.setting(0, 1).throughput())
        bounds = grid["bounds"]
        for task in ("overall", "chat", "code"):
            assert bounds["oracle"][task] >= bounds["one_choice_per_task"][task] >= bounds["overall"][task]
        assert grid["tasks"]["code"]["tokens_per_second"] == pytest.approx(
            bounds["one_choice_per_task"]["code"]
        )
        lengths = np.array(grid["acceptance_length"])
        assert lengths.shape == (7, 24) and (lengths[0] == 1).all() and (lengths >= 1).all()
        place = table.depths.index(depth), table.sizes.index(size)
        assert grid["overall"]["acceptance_length"] == pytest.approx(lengths[place], abs=1e-4)
        assert len(grid["tokens_per_second"]) == 7 and len(grid["tokens_per_second"][0]) == 24
    assert capsys.readouterr().out.count("overall") >= 2


def test_it_is_chosen_for_the_tasks_that_policies_see(files):
    grid_search(replace(make_options(files, [4], [4]), train_tasks=("code",)), StageRun())
    chosen = read_json(files / "grid.json")["grids"][0]
    assert list(chosen["tasks"]) == ["code"] and chosen["overall"] == chosen["tasks"]["code"]
    with pytest.raises(InputError, match=r"rl\.train_tasks: 'maths' has no answers"):
        grid_search(replace(make_options(files, [4], [4]), train_tasks=("maths",)), StageRun())


@pytest.mark.parametrize(
    ("traces", "profiles", "max_size", "message"),
    [
        ([4], [2], 24, "beam: 2, but the traces have beam 4"),
        ([4], [4], 25, "tables.verify: 25"),
        ([4], [4], 0, "max_size: 0"),
        ([4], [], 24, "profiles: 0 given for 1"),
        ([3], [4], 24, "no such trace file"),
    ],
)
def test_mixed_up_files_are_refused(files, traces, profiles, max_size, message):
    with pytest.raises(InputError, match=message) as error:
        grid_search(make_options(files, traces, profiles, max_size), StageRun())
    assert "\n" not in str(error.value) and not (files / "grid.json").exists()


def test_the_best_setting_is_one_for_the_trees_that_are_drafted(tmp_path):
    best = {"depth": 2, "size": 4, "beam": 3}
    write_json(tmp_path / "grid.json", {"best": best})
    assert read_best(tmp_path / "grid.json", 3) == best
    with pytest.raises(InputError, match=r"grid\.json: the best static setting is one of beam 3, .* with 4"):
        read_best(tmp_path / "grid.json", 4)
