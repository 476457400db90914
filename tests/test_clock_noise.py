"""A/A pairs from hand-made runs: repeats of one method, and methods that are the same static tree."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from ltd.measurement.clock_noise import clock_noise, repeatability_limits, same_trees
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


def by_pair(noise):
    return noise.set_index(["pair", "task"])["spread"]


def test_odd_and_even_repeats_of_a_method_are_a_pair():
    runs, cycles = measured(constant=(3, 4))
    slow = (runs["repeat"] == 1) & (runs["method"] == "ltd") & (runs["task"] == "maths")
    runs.loc[slow, "seconds"] *= 1.1
    found = by_pair(clock_noise(runs, cycles))
    assert set(found.index.get_level_values("pair")) == set(SPEEDS)
    # Halves of a row are means of half as many.
    apart = (1 - 1 / 1.1) / np.sqrt(2)
    assert found["ltd", "maths"] == pytest.approx(apart) and found["ltd", "chat"] == pytest.approx(0)
    # The mean is over the paper's tasks, chat and maths here, as that of a comparison is.
    assert found["ltd", MEAN_TASK] == pytest.approx(apart / 2)
    assert found["eagle3_grid"].to_numpy() == pytest.approx(0)


def noisy(rng, methods):
    """Equally fast methods, every run with noise of its own: their A/A pairs, and throughputs on `chat`."""
    runs, cycles = make_runs(dict.fromkeys(["autoregressive", *methods], 1.0))
    runs["seconds"] *= rng.lognormal(sigma=0.1, size=len(runs))
    sums = runs[runs["task"] == "chat"].groupby("method")[["tokens", "seconds"]].sum()
    return clock_noise(runs, cycles.assign(size=4)), sums["tokens"] / sums["seconds"]


def test_limits_hold_95_of_100_differences_between_rows_that_differ_in_nothing():
    rng = np.random.default_rng(0)
    within = []
    for _ in range(30):
        noise, rates = noisy(rng, "abcdefgh")
        limit = repeatability_limits(noise, TASKS)["chat"]
        within += [abs(rates[a] / rates[b] - 1) < limit for a, b in combinations("abcdefgh", 2)]
    assert np.mean(within) == pytest.approx(0.95, abs=0.03)


def test_limits_do_not_grow_with_the_number_of_methods():
    rng = np.random.default_rng(1)
    few, many = [], []
    for _ in range(30):
        noise, _ = noisy(rng, "abcdefghijklmno")
        few.append(repeatability_limits(noise[noise["pair"].isin([*"abc"])], TASKS))
        many.append(repeatability_limits(noise, TASKS))
    few, many = (np.sqrt((pd.DataFrame(limits) ** 2).mean()) for limits in (few, many))
    np.testing.assert_allclose(few, many, rtol=0.15)


def test_static_methods_with_the_same_tree_are_a_pair():
    runs, cycles = measured()
    runs.loc[(runs["method"] == "best_constant") & (runs["task"] == "chat"), "seconds"] /= 1.06
    noise = clock_noise(runs, cycles)
    pair = "best_constant and eagle3_grid"
    # Whole rows; the halves of every method are alike.
    assert by_pair(noise)[pair, "chat"] == pytest.approx(0.06)
    assert by_pair(noise)[pair, MEAN_TASK] == pytest.approx(0.03)
    pooled = 1.96 * 0.06 / np.sqrt(len(SPEEDS) + 1)
    limits = repeatability_limits(noise, runs["task"])
    assert limits[[*TASKS, MEAN_TASK]].to_numpy() == pytest.approx([pooled, 0, 0, pooled / 2])


def test_other_trees_and_changing_choices_are_no_pair():
    assert same_trees(measured()[1]) == [("best_constant", "eagle3_grid")]
    assert same_trees(measured(constant=(4, 3))[1]) == []
    changing = make_runs(SPEEDS)[1].assign(size=4)  # depth 1, then 2
    assert same_trees(changing) == []


def test_without_pairs_there_is_no_noise_to_speak_of():
    runs, cycles = measured(constant=(3, 4))
    noise = clock_noise(runs[runs["repeat"] == 0], cycles)
    assert noise.empty
    assert repeatability_limits(noise, TASKS).to_dict() == dict.fromkeys([*TASKS, MEAN_TASK], 0.0)
