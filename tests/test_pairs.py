"""Paired comparisons of all decoded methods, from runs whose speeds are known."""

import pandas as pd
import pytest

from ltd.measurement.summary import MEAN_TASK
from ltd.reporting.pairs import judge_pairs, pair_rows, pair_sentences
from synthetic_runs import TASKS, make_runs

SPEEDS = {
    "autoregressive": 1.0,
    "eagle3_grid": 1.4,
    "ddd": 1.5,
    "svip": 1.3,
    "ltd:iteration-0": 1.6,
    "ltd": 1.6,
}
LIMITS = pd.Series(dict.fromkeys((*TASKS, MEAN_TASK), 0.01))


@pytest.fixture(scope="module")
def runs():
    return make_runs(SPEEDS, noise=0.02)[0]


def test_every_method_is_compared_with_the_policies_and_the_grid(runs):
    pairs = judge_pairs(runs, LIMITS, 0)
    others = {"eagle3_grid", "ddd", "svip", "ltd:iteration-0"}
    assert set(pairs) == {("ltd", name) for name in others} | {
        (name, "eagle3_grid") for name in {*others, "ltd"} - {"eagle3_grid"}
    }
    assert pairs["ltd", "ddd"].loc[MEAN_TASK, "ratio"] == pytest.approx(1.6 / 1.5, rel=0.01)
    assert pairs["svip", "eagle3_grid"]["word"].eq("slower").all()
    assert pairs["ltd", "ltd:iteration-0"].loc[MEAN_TASK, "word"] == "a tie"


def test_sentences_group_the_methods_by_verdict(runs):
    ours, static = pair_sentences(judge_pairs(runs, LIMITS, 0))
    faster, tie = ours.split("; a tie: ")
    assert faster.startswith("ltd over each other method: significantly faster: ")
    assert all(f"{name} (" in faster for name in ("eagle3_grid", "ddd", "svip"))
    assert tie.startswith("ltd:iteration-0 (1.0") or tie.startswith("ltd:iteration-0 (0.99")
    assert static.split("significantly slower: ")[1].startswith("svip (0.9")
    # Where timing is noisier than the difference, interval or not, nothing is significant.
    noisy = pair_sentences(judge_pairs(runs, LIMITS + 0.5, 0))
    assert not any("significantly" in sentence for sentence in noisy)


def test_table_has_a_row_a_method_with_its_interval(runs):
    pairs = judge_pairs(runs, LIMITS, 0)
    table = pair_rows(pairs).set_index("method")
    assert list(table.index) == ["eagle3_grid", "ddd", "svip", "ltd:iteration-0"]
    row = pairs["ltd", "ddd"].loc[MEAN_TASK]
    shown = f"{row['ratio']:.3f} ({row['low']:.3f} to {row['high']:.3f}), faster"
    assert table.loc["ddd", "ltd over it"] == shown
    assert table.loc["ddd", "ltd, by task"] == "faster: chat, maths, stdlib"
    assert table.loc["svip", "it, by task"] == "slower: chat, maths, stdlib"
    assert table.loc["eagle3_grid", "it over eagle3_grid"] == ""


def test_without_policies_the_grid_remains(runs):
    pairs = judge_pairs(runs[~runs["method"].str.startswith("ltd")], LIMITS, 0)
    assert set(pairs) == {("ddd", "eagle3_grid"), ("svip", "eagle3_grid")}
    assert len(pair_sentences(pairs)) == 1
    # Nothing is compared with the grid itself, so that its row would be blank.
    assert list(pair_rows(pairs)["method"]) == ["ddd", "svip"]


def test_a_grid_that_was_not_decoded_has_no_row(runs):
    pairs = judge_pairs(runs[runs["method"] != "eagle3_grid"], LIMITS, 0)
    assert list(pair_rows(pairs)["method"]) == ["ddd", "svip", "ltd:iteration-0"]
