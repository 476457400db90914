"""Benchmarks of two temperatures on a tiny engine: sampling is lossless too, and the tables are joined."""

import dataclasses
from collections import defaultdict

import pandas as pd
import pytest

from ltd.benchmark import benchmark
from ltd.errors import InputError
from ltd.files import read_json
from ltd.join_benchmark import JoinBenchmarkOptions, join_benchmark
from ltd.measurement.summary import SUMMARY_COLUMNS, at_temperature, metric_label
from ltd.tracking import StageRun
from noted_run import NotedRun
from saved_experiment import at_temperature as options_at
from saved_experiment import make_experiment

METHODS = ("autoregressive", "eagle3", "eagle3_grid", "ltd")
TABLES = ("cycles", "runs", "oracle")


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """The benchmark's options at both temperatures, and what it logged at each."""
    experiment = make_experiment(tmp_path_factory.mktemp("experiment"))
    experiment = dataclasses.replace(experiment, methods=METHODS)
    greedy = dataclasses.replace(experiment, output=experiment.output / "t0")
    both = [(greedy, NotedRun()), (options_at(experiment, 1.0), NotedRun())]
    for options, run in both:
        benchmark(options, run)
    return both


@pytest.fixture(scope="module")
def joined(parts):
    """The folder of the joined files."""
    folder = parts[0][0].output.parent
    folders = tuple(options.output for options, _ in parts)
    join_benchmark(JoinBenchmarkOptions(parts=folders, output=folder), StageRun())
    return folder


def test_every_method_is_measured_and_replayed_at_both_temperatures(joined):
    table = pd.read_csv(joined / "summary.csv")
    assert list(table.columns) == SUMMARY_COLUMNS
    assert not table.duplicated(["method", "task", "temperature", "source"]).any()
    for temperature in (0.0, 1.0):
        rows = at_temperature(table, temperature)
        assert set(rows.loc[rows["source"] == "measured", "method"]) == set(METHODS)
        assert set(rows.loc[rows["source"] == "replay", "method"]) == {*METHODS, "oracle"}
        assert rows["lossless"].all()


def answers(runs, temperature):
    """The different answers that methods and repeats gave, by prompt."""
    found = defaultdict(set)
    for row in at_temperature(runs, temperature).itertuples():
        found[row.task, row.prompt, row.turn].add(tuple(row.token_ids))
    return found


def test_sampled_answers_are_other_answers_and_the_same_for_every_method(joined):
    runs = pd.read_parquet(joined / "runs.parquet")
    greedy, sampled = (answers(runs, temperature) for temperature in (0.0, 1.0))
    assert len(sampled) == 6 and all(len(found) == 1 for found in sampled.values())
    assert sum(greedy[prompt] != found for prompt, found in sampled.items()) > 3
    # The traces are of the answers that were decoded, so replay accepts the same drafts.
    table = pd.read_csv(joined / "summary.csv").set_index(["temperature", "source", "method", "task"])
    for method in METHODS:
        lengths = [
            table.loc[(1.0, source, method, "chat"), "acceptance_length"] for source in ("measured", "replay")
        ]
        assert lengths[0] == pytest.approx(lengths[1])


def test_rows_are_those_of_the_parts(joined, parts):
    for temperature, (options, _) in zip((0.0, 1.0), parts, strict=True):
        for name in TABLES:
            whole = pd.read_parquet(joined / f"{name}.parquet")
            part = pd.read_parquet(options.output / f"{name}.parquet")
            pd.testing.assert_frame_equal(at_temperature(whole, temperature), part)
    lines = [line for o, _ in parts for line in (o.output / "summary.csv").read_text().splitlines()[1:]]
    assert (joined / "summary.csv").read_text().splitlines()[1:] == lines
    facts = read_json(joined / "benchmark.json")
    greedy, sampled = (read_json(options.output / "benchmark.json") for options, _ in parts)
    assert facts == greedy | {"further": {"1": sampled}}
    assert greedy["transformers"] is not None and sampled["transformers"] is None


def test_metrics_of_sampling_have_names_of_their_own(parts):
    (_, greedy), (_, sampled) = parts
    assert {"speedup/ltd/chat", "acceptance_length/oracle/mean/replay"} <= set(greedy.values)
    assert {"speedup/t1/ltd/chat", "acceptance_length/t1/oracle/mean/replay"} <= set(sampled.values)
    assert metric_label("ltd:paper", "qa", 0.5) == "t0.5/ltd-paper/qa"


def test_parts_that_do_not_fit_are_refused(joined, parts, tmp_path):
    greedy, sampled = (options.output for options, _ in parts)
    for folders, complaint in (
        ((sampled,), r"temperatures \[1.0\]; expected 0 first"),
        ((greedy, sampled, sampled), "each of them once"),
        ((greedy, joined), r"temperatures \[0.0, 1.0\], expected the benchmark of a single one"),
        ((greedy, tmp_path / "t2"), r"t2/cycles.parquet: no such file; run the benchmark"),
    ):
        with pytest.raises(InputError, match=complaint):
            join_benchmark(JoinBenchmarkOptions(parts=folders, output=tmp_path), StageRun())
    assert not list(tmp_path.iterdir())


def test_a_table_without_the_temperature_is_refused(joined):
    with pytest.raises(InputError, match=r"no rows at temperature 0\.7; add it to benchmark\.temperatures"):
        at_temperature(pd.read_csv(joined / "summary.csv"), 0.7)
