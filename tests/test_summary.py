"""The benchmark's table from hand-made runs whose every number is known."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from ltd.measurement.summary import (
    MEAN_TASK,
    SUMMARY_COLUMNS,
    _draws,
    clock_gap,
    compare,
    gap_shares,
    headline_tasks,
    mark_lossless,
    metric_label,
    simulation_error,
    speedup_samples,
    summarise,
)
from ltd.methods import BASELINE
from synthetic_runs import TASKS, make_runs


def test_table_has_the_contract_columns_and_known_speedups():
    runs, cycles = make_runs({"autoregressive": 1.0, "ltd": 2.0})
    table = summarise(mark_lossless(runs), cycles)
    assert list(table.columns) == SUMMARY_COLUMNS
    assert set(table["task"]) == {*TASKS, MEAN_TASK}
    ltd = table[table["method"] == "ltd"]
    assert ltd[
        ["speedup", "speedup_low", "speedup_high", "speedup_mean_of_ratios"]
    ].to_numpy() == pytest.approx(2)
    assert table.loc[table["method"] == "autoregressive", "speedup"].to_numpy() == pytest.approx(1)
    assert (ltd["lossless"]).all() and (ltd["mean_depth"] == 1.5).all() and (ltd["mean_size"] == 4).all()
    by_task = table.set_index(["method", "task"])
    for (method, task), mine in runs.groupby(["method", "task"]):
        row = by_task.loc[(method, task)]
        of_task = cycles[(cycles["method"] == method) & (cycles["task"] == task)]
        assert row["acceptance_length"] == pytest.approx(of_task["tokens"].mean())
        assert row["tokens_per_second"] == pytest.approx(mine["tokens"].sum() / mine["seconds"].sum())
        phases = [row[f"{name}_ms"] for name in ("draft", "verify", "policy", "rest")]
        assert phases == pytest.approx(
            [of_task[f"{n}_ms"].mean() for n in ("draft", "verify", "policy", "rest")]
        )
        assert [ms / phases[2] for ms in phases] == pytest.approx([2, 5, 1, 2])
        # Prefill weighs the end-to-end ratio down.
        plain = runs.loc[(runs["method"] == "autoregressive") & (runs["task"] == task), "seconds"].sum()
        prefill = 0.01 * len(mine)
        expected = (plain + prefill) / (mine["seconds"].sum() + prefill)
        assert row["end_to_end_speedup"] == pytest.approx(expected)


def test_speedup_is_a_ratio_of_sums_not_a_mean_of_ratios():
    runs, cycles = make_runs({"autoregressive": 1.0, "ltd": 1.0}, prompts=2)
    mine = (runs["method"] == "ltd") & (runs["prompt"] == "0")
    runs.loc[mine, "seconds"] /= 4
    table = summarise(mark_lossless(runs), cycles).set_index(["method", "task"])
    chat = runs[runs["task"] == "chat"]
    sums = chat.groupby("method")["seconds"].sum()
    row = table.loc[("ltd", "chat")]
    assert row["speedup"] == pytest.approx(sums["autoregressive"] / sums["ltd"])
    assert row["speedup_mean_of_ratios"] == pytest.approx(2.5)
    assert row["speedup"] != pytest.approx(2.5, rel=0.05)


def test_mean_is_over_the_four_headline_tasks_that_are_present():
    runs, cycles = make_runs({"autoregressive": 1.0, "ltd": 2.0})
    runs.loc[(runs["task"] == "stdlib") & (runs["method"] == "ltd"), "seconds"] *= 10
    table = summarise(mark_lossless(runs), cycles).set_index(["method", "task"])
    assert table.loc[("ltd", "stdlib"), "speedup"] == pytest.approx(0.2)
    assert table.loc[("ltd", MEAN_TASK), "speedup"] == pytest.approx(2)
    assert table.loc[("ltd", MEAN_TASK), ["speedup_low", "speedup_high"]].tolist() == pytest.approx([2, 2])
    both = table.loc[("ltd", "chat"), "tokens"] + table.loc[("ltd", "maths"), "tokens"]
    assert table.loc[("ltd", MEAN_TASK), "tokens"] == both
    assert headline_tasks(["mine", "other"]) == ["mine", "other"]
    # A task of one's own may have a built-in one's name.
    assert headline_tasks(["qa", "gsm8k"]) == ["gsm8k", "qa"]


def test_one_different_token_is_not_lossless():
    for task in ("maths", "stdlib"):  # in the mean, and beside it
        runs, cycles = make_runs({"autoregressive": 1.0, "ltd": 2.0})
        index = runs[(runs["method"] == "ltd") & (runs["task"] == task)].index[3]
        runs.at[index, "token_ids"] = [*runs.at[index, "token_ids"][:-1], -7]
        table = summarise(mark_lossless(runs), cycles).set_index(["method", "task"])
        assert not table.loc[("ltd", task), "lossless"] and not table.loc[("ltd", MEAN_TASK), "lossless"]
        assert table.loc[("ltd", "chat"), "lossless"] and table.loc[("autoregressive", task), "lossless"]


def test_lossless_is_said_of_every_turn_and_by_the_first_repeat():
    """A second turn has an answer of its own; of a baseline that differs the later repeat is wrong."""
    first, _ = make_runs({BASELINE: 1.0, "ltd": 2.0}, prompts=2)
    second = first.assign(turn=1, token_ids=[ids[::-1] for ids in first["token_ids"]])
    runs = pd.concat([first, second], ignore_index=True)
    assert mark_lossless(runs)["lossless"].all()
    index = runs[(runs["method"] == BASELINE) & (runs["repeat"] == 1)].index[0]
    runs.at[index, "token_ids"] = [*runs.at[index, "token_ids"][:-1], -7]
    lossless = mark_lossless(runs)["lossless"]
    assert lossless[~lossless].index.tolist() == [index]


def test_interval_is_paired_over_prompts():
    """Prompts differ tenfold in length and speed, both methods alike: the paired interval stays narrow."""
    runs, _ = make_runs({"autoregressive": 1.0, "eagle3_grid": 1.5, "ltd": 1.5}, prompts=24, noise=0.01)
    hardness = runs["prompt"].astype(int) % 10 + 1
    runs["seconds"] *= hardness
    table = compare(mark_lossless(runs), "ltd", "eagle3_grid").set_index("task")
    assert ((table["low"] < 1) & (table["high"] > 1)).all()
    assert (table["high"] - table["low"]).max() < 0.03
    slower = runs.assign(seconds=runs["seconds"].where(runs["method"] != "ltd", runs["seconds"] * 1.1))
    assert (compare(mark_lossless(slower), "ltd", "eagle3_grid")["high"] < 1).all()


def test_the_interval_of_a_mean_is_that_of_means():
    """Tasks of unlike ratios: the mean of both is sure, though a resample of either is far from it."""
    runs, _ = make_runs({BASELINE: 1.0, "ltd": 1.2}, noise=0.01)
    runs = runs[runs["task"] != "stdlib"]
    maths = (runs["task"] == "maths") & (runs["method"] == "ltd")
    runs = runs.assign(seconds=runs["seconds"].where(~maths, runs["seconds"] * 1.2 / 1.6))
    mean = compare(mark_lossless(runs), "ltd", BASELINE).set_index("task").loc[MEAN_TASK]
    assert 1.3 < mean["low"] < mean["ratio"] < mean["high"] < 1.5


def test_the_table_bounds_95_percent_of_the_resamples():
    runs, cycles = make_runs({BASELINE: 1.0, "ltd": 1.5}, noise=0.2)
    table = summarise(mark_lossless(runs), cycles).set_index(["method", "task"])
    prompts = runs.groupby(["method", "task", "prompt"])[["tokens", "seconds"]].sum().reset_index()
    samples = {task: speedup_samples(prompts, "ltd", BASELINE, task, 0)[1] for task in TASKS}
    samples[MEAN_TASK] = (samples["chat"] + samples["maths"]) / 2
    for task, draws in samples.items():
        bounds = table.loc[("ltd", task), ["speedup_low", "speedup_high"]].tolist()
        assert bounds == pytest.approx(np.percentile(draws, [2.5, 97.5]))


def test_every_task_has_resamples_of_its_own():
    assert not np.array_equal(_draws(0, "chat", 12), _draws(0, "maths", 12))


def test_an_answer_that_prefill_finished_has_no_part_in_the_ratios():
    runs, cycles = make_runs({BASELINE: 1.0, "ltd": 2.0})
    runs.loc[runs["prompt"] == "3", ["tokens", "seconds"]] = 0
    table = summarise(mark_lossless(runs), cycles)
    ltd = table[table["method"] == "ltd"]
    assert ltd["speedup_mean_of_ratios"].to_numpy() == pytest.approx(2)


def test_sizes_are_of_drafted_cycles_and_repeats_the_largest():
    runs, cycles = make_runs({BASELINE: 1.0, "ltd": 2.0})
    plain = cycles.assign(depth=0, verified=0)
    runs = runs[(runs["task"] != "chat") | (runs["repeat"] == 0)]
    table = summarise(mark_lossless(runs), pd.concat([cycles, plain])).set_index(["method", "task"])
    assert (table.loc["ltd", "mean_size"] == 4).all() and (table.loc["ltd", "mean_depth"] == 0.75).all()
    assert table.loc["ltd", "repeats"].to_dict() == {"chat": 1, "maths": 2, "stdlib": 2, MEAN_TASK: 2}


def test_a_task_whose_answers_end_with_their_first_token_has_no_cycles():
    runs, cycles = make_runs({BASELINE: 1.0, "ltd": 2.0})
    none = runs["task"] == "chat"
    runs.loc[none, ["tokens", "seconds"]] = 0
    table = summarise(mark_lossless(runs), cycles[cycles["task"] != "chat"]).set_index(["method", "task"])
    assert np.isnan(table.loc[("ltd", "chat"), "speedup"]) and table.loc[("ltd", "chat"), "prompts"] > 0


def test_clock_gap():
    runs, cycles = make_runs({"autoregressive": 1.0, "ltd": 2.0})
    assert clock_gap(runs, cycles) == pytest.approx(0, abs=1e-12)
    cycles["rest_ms"] = 0.0
    assert clock_gap(runs, cycles) == pytest.approx(0.2)


def test_replayed_rows_stand_beside_measured_ones():
    runs, cycles = make_runs({"autoregressive": 1.0, "ltd": 2.0})
    replay_runs, replay_cycles = make_runs({"autoregressive": 1.0, "ltd": 1.9, "oracle": 2.5})
    runs, replay_runs = mark_lossless(runs), mark_lossless(replay_runs)
    table = summarise(
        pd.concat([runs, replay_runs.assign(source="replay")]),
        pd.concat([cycles, replay_cycles.assign(source="replay")]),
    )
    oracle = table[table["method"] == "oracle"]
    assert set(oracle["source"]) == {"replay"} and oracle["speedup"].to_numpy() == pytest.approx(2.5)
    error = simulation_error(table)
    assert set(error["method"]) == {"autoregressive", "ltd"}
    assert error.loc[error["method"] == "ltd", "error"].to_numpy() == pytest.approx(-0.05)


def test_every_method_sees_the_same_resamples():
    runs, _ = make_runs({"autoregressive": 1.0, "eagle3_grid": 1.0, "ltd": 1.0})
    drafted = runs["method"] != "autoregressive"
    runs.loc[drafted, "seconds"] /= runs.loc[drafted, "prompt"].astype(int) + 1
    runs.loc[runs["method"] == "ltd", "seconds"] /= 1.5
    prompts = runs.groupby(["method", "task", "prompt"])[["tokens", "seconds"]].sum().reset_index()
    _, slow, _ = speedup_samples(prompts, "eagle3_grid", "autoregressive", "chat", 0)
    _, fast, _ = speedup_samples(prompts, "ltd", "autoregressive", "chat", 0)
    assert slow.std() > 0.01
    assert fast / slow == pytest.approx(1.5)


def test_share_of_the_gap_is_between_grid_and_oracle_in_replay():
    runs, cycles = make_runs({"autoregressive": 1.0, "eagle3_grid": 1.4, "ltd": 1.7, "oracle": 2.0})
    # On maths the best static setting cannot be beaten.
    runs.loc[(runs["method"] == "oracle") & (runs["task"] == "maths"), "seconds"] *= 2.0 / 1.4
    replayed = summarise(mark_lossless(runs), cycles).assign(source="replay")
    table = pd.concat([replayed, replayed.assign(source="measured", speedup=9.0)])
    shares = gap_shares(table).set_index(["method", "task"])["gap_share"]
    assert shares["ltd", "chat"] == pytest.approx(0.5) and shares["autoregressive", "chat"] < 0
    assert shares["eagle3_grid", "chat"] == pytest.approx(0) and shares["oracle", "chat"] == pytest.approx(1)
    assert pd.isna(shares["ltd", "maths"])
    # The mean is of the speedups: (1.7 - 1.4) over (2.0 + 1.4) / 2 - 1.4.
    assert shares["ltd", MEAN_TASK] == pytest.approx(1.0)
    assert gap_shares(table[table["method"] != "oracle"]).empty


def test_names_in_mlflow_have_no_forbidden_letters():
    assert metric_label("ltd:paper", "chat", 0.0) == "ltd-paper/chat"
    assert (
        metric_label("lookup/grid", "abstract algebra (5%)", 0.5) == "t0.5/lookup/grid/abstract algebra -5--"
    )


def test_what_measures_reads_nothing_of_the_ablations():
    """They are compared by it: neither package could be read without the other."""
    code = (
        "import sys, ltd.measurement.summary; sys.exit(any('ltd.ablations' in name for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
