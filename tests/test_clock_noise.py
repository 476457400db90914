"""A/A pairs from hand-made runs: repeats of one method, and methods that are the same static tree."""

import numpy as np
import pandas as pd
import pytest

from ltd.measurement.clock_noise import clock_noise, largest_by_task, same_trees
from ltd.measurement.summary import MEAN_TASK
from synthetic_runs import TASKS, make_runs

SPEEDS = {"autoregressive": 1.0, "eagle3_grid": 1.4, "best_constant": 1.4, "ltd": 1.6}


def measured(grid=(4, 4), constant=(4, 4)):
    """Runs without noise, and cycles of two static methods with a tree each."""
    runs, cycles = make_runs(SPEEDS)
    trees = {"eagle3_grid": grid, "best_constant": constant}
    cycles["size"] = cycles["verified"]
    for method, tree in trees.items():
        cycles.loc[cycles["method"] == method, ["depth", "size"]] = tree
    return runs, cycles


def by_pair(noise, column="measured"):
    return noise.set_index(["pair", "task"])[column]


def test_odd_and_even_repeats_of_a_method_are_a_pair():
    runs, cycles = measured(constant=(3, 4))
    slow = (runs["repeat"] == 1) & (runs["method"] == "ltd") & (runs["task"] == "maths")
    runs.loc[slow, "seconds"] *= 1.1
    noise = clock_noise(runs, cycles)
    found = by_pair(noise)
    assert set(found.index.get_level_values("pair")) == set(SPEEDS)
    assert found["ltd", "maths"] == pytest.approx(1 - 1 / 1.1) and found["ltd", "chat"] == pytest.approx(0)
    # The mean is over the paper's tasks, chat and maths here, as that of a comparison is.
    assert found["ltd", MEAN_TASK] == pytest.approx((1 - 1 / 1.1) / 2)
    assert found["eagle3_grid"].to_numpy() == pytest.approx(0)
    # Halves of a row are means of half as many.
    np.testing.assert_allclose(by_pair(noise, "spread") ** 2, found**2 / 2)


def test_halves_tell_how_far_whole_rows_lie_apart():
    """Of noise alone, the same in every repeat: the spread foretold from halves is that of two methods."""
    rng = np.random.default_rng(0)
    halves, rows = [], []
    for _ in range(40):
        runs, cycles = make_runs({"autoregressive": 1.0, "ltd": 1.5, "svip": 1.5})
        runs["seconds"] *= rng.lognormal(sigma=0.1, size=len(runs))
        noise = clock_noise(runs, cycles.assign(size=4)).set_index(["pair", "task"])
        halves += noise.loc[["ltd", "svip"], "spread"].xs("chat", level="task").tolist()
        sums = runs[runs["task"] == "chat"].groupby("method")[["tokens", "seconds"]].sum()
        rates = sums["tokens"] / sums["seconds"]
        rows.append(rates["ltd"] / rates["svip"] - 1)
    foretold, found = (np.sqrt(np.mean(np.square(values))) for values in (halves, rows))
    assert foretold == pytest.approx(found, rel=0.25)


def test_static_methods_with_the_same_tree_are_a_pair():
    runs, cycles = measured()
    runs.loc[(runs["method"] == "best_constant") & (runs["task"] == "chat"), "seconds"] /= 1.06
    noise = clock_noise(runs, cycles)
    pair = "best_constant and eagle3_grid"
    assert by_pair(noise)[pair, "chat"] == pytest.approx(0.06)
    assert by_pair(noise)[pair, MEAN_TASK] == pytest.approx(0.03)
    assert by_pair(noise, "spread")[pair, "chat"] == pytest.approx(0.06)  # whole rows
    largest = largest_by_task(noise, runs["task"])
    assert largest[[*TASKS, MEAN_TASK]].to_numpy() == pytest.approx([0.06, 0, 0, 0.03])


def test_other_trees_and_changing_choices_are_no_pair():
    assert same_trees(measured()[1]) == [("best_constant", "eagle3_grid")]
    assert same_trees(measured(constant=(4, 3))[1]) == []
    changing = make_runs(SPEEDS)[1].assign(size=4)  # depth 1, then 2
    assert same_trees(changing) == []


def test_without_pairs_there_is_no_noise_to_speak_of():
    runs, cycles = measured(constant=(3, 4))
    noise = clock_noise(runs[runs["repeat"] == 0], cycles)
    assert noise.empty
    assert largest_by_task(noise, pd.Series(TASKS)).to_dict() == dict.fromkeys([*TASKS, MEAN_TASK], 0.0)
