"""The report from small synthetic files: its sections, its numbers, its figures."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from ltd.errors import InputError
from ltd.files import write_json
from ltd.measurement.clock_noise import clock_noise, repeatability_limits
from ltd.measurement.summary import MEAN_TASK, PHASES, summarise
from ltd.overview import overview_rows, overview_text
from ltd.report import ReportOptions, draw, outcome, plane, report, summary_text
from ltd.reporting import findings
from ltd.reporting.figures import composition_figure
from ltd.reporting.paper_results import main_table
from ltd.reporting.results import Results, read_chains
from ltd.reporting.stage_costs import stage_costs
from ltd.reporting.text import write_report
from ltd.reporting.training_figures import read_chain
from ltd.tracking import StageRun
from report_files import MACHINE, measured_and_replayed, write_experiment

TABLES = ("summary", "runs", "cycles")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results") / "default"
    write_experiment(folder)
    report(ReportOptions(experiment=folder, output=folder / "report"), StageRun())
    return folder


def test_report_has_its_sections_and_every_figure_it_names(experiment):
    text = (experiment / "report" / "report.md").read_text()
    for heading in (
        "Main table",
        "Tasks",
        "Pairs of methods",
        "Depth and size",
        "Beside the paper",
        "Training",
        "Time and disk",
    ):
        assert f"## {heading}" in text
    named = {line.split("](")[1].rstrip(")") for line in text.splitlines() if line.startswith("![")}
    assert {
        "speedups.svg",
        "tradeoff.svg",
        "choices.svg",
        "latency.svg",
        "lengths.svg",
        "iterations.svg",
    } <= named
    for name in named:
        for suffix in (".svg", ".png"):
            assert (experiment / "report" / name).with_suffix(suffix).stat().st_size > 2000
    assert "nan" not in text.lower()
    assert "## Temperature" not in text and "temperature 0, seed 0" in text


@pytest.fixture(scope="module")
def with_sampling(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sampled") / "default"
    write_experiment(folder, sampled=True)
    return folder


def test_another_temperature_is_a_section_of_its_own(experiment, with_sampling):
    """Everything else in the report is as it is without it."""
    alone, both = (
        write_report(Results.load(folder), folder, set()) for folder in (experiment, with_sampling)
    )
    assert "temperature 0 and 1, seed 0" in both
    before, _, rest = both.partition("## Temperature 1 (the paper's table 5)")
    section, heading, after = rest.partition("## Training")
    rejoined = (before + heading + after).replace("temperature 0 and 1", "temperature 0")
    assert rejoined.split("## Time and disk")[0] == alone.split("## Time and disk")[0]
    assert "ltd against eagle3_grid: 1.000x in the mean" in section
    assert "no significant difference" in section and "a tie on chat (1.00x)" in section
    assert re.search(
        r"Speedups at temperature 0 and here: eagle3 \S+ and 0\.90, eagle3_grid 1\.4\d and 1\.20", section
    )
    assert "Every method emitted exactly the tokens" in section
    assert "| ltd | 1.20 | 1.20 to 1.20 | " in section
    # The paper's table 5: its policies on LLaMA-3.1 8B, speedup and acceptance length.
    rows = [line for line in section.splitlines() if line.startswith("| ltd:paper | ")]
    columns = main_table(1.0).set_index(["model", "method", "task"]).loc[("llama31-8b", "ltd:paper", "mean")]
    assert columns.tolist() == [3.01, 4.51]
    assert any("| 3.01 |" in row for row in rows) and any("| 4.51 |" in row for row in rows)
    assert "The paper's policies have 1.011 to 1.369 of its best static setting's speed" in section


def test_the_report_says_what_kind_of_answers_were_learned_from(with_sampling, tmp_path):
    greedy = write_report(Results.load(with_sampling), with_sampling, set())
    assert greedy.count("from greedy answers.") == greedy.count("on greedy answers only") == 1
    write_experiment(tmp_path, sampled=True, learned_at=0.7)
    sampled = write_report(Results.load(tmp_path), tmp_path, set())
    assert "greedy answers" not in sampled
    assert sampled.count("answers sampled at temperature 0.7") == 4
    assert "where nothing else is said" in sampled and "that temperature was not decoded." in sampled
    assert "where nothing else is said" not in greedy


def test_where_methods_learned_from_sampled_answers_that_temperature_is_ranked_too(tmp_path):
    write_experiment(tmp_path, sampled=True, learned_at=1.0)
    results = Results.load(tmp_path)
    assert "that temperature has a section of its own." in write_report(results, tmp_path, set())
    text = summary_text(results)
    assert text.startswith("Policies, grid and baselines have learned from answers sampled at temperature 1.")
    greedy, _, sampled = text.partition("\n\nTemperature 1:\n\n")
    assert "\n\nTemperature 0:\n\n" in greedy
    for part, speedup in ((greedy, 1.6), (sampled, 1.2)):
        row = next(line.split() for line in part.splitlines() if line.split()[:1] == ["ltd"])
        assert float(row[1]) == pytest.approx(speedup, abs=0.03) and "A/A: rows that differ" in part
    rows = overview_rows("own", results, "a/b", "c/d")
    assert [row["temperature"] for row in rows] == [0.0, 1.0]
    assert [row["over_grid"] for row in rows] == pytest.approx([1.6 / 1.4, 1.0], rel=0.02)
    overview = overview_text(pd.DataFrame(rows))
    assert "ltd is faster than the best static setting on 1 of 2: own." in overview
    assert "on 1 of 2: own (temperature 1)." in overview


def test_every_figure_and_the_overview_are_of_greedy_decoding(experiment, with_sampling):
    alone, both = Results.load(experiment), Results.load(with_sampling)
    for name in ("summary", "runs", "cycles", "oracle"):
        pd.testing.assert_frame_equal(getattr(alone, name), getattr(both, name))
    assert both.temperatures == [0.0, 1.0] and both.sampled[0].temperature == 1.0
    names = ("default", "a/b", "c/d")
    (row,) = overview_rows(names[0], alone, *names[1:])
    assert overview_rows(names[0], both, *names[1:]) == [row]
    assert not any(line.startswith("Temperature") for line in summary_text(both).splitlines())


def test_parent_run_gets_every_task_and_temperature(with_sampling):
    logged = outcome(Results.load(with_sampling))
    assert logged["speedup/ltd/chat"] == pytest.approx(1.6, rel=0.02)
    assert logged["speedup/t1/ltd/chat"] == pytest.approx(1.2, rel=0.02)
    assert logged["speedup/t1/ltd-paper/mean"] == pytest.approx(1.1, rel=0.02)
    assert logged["acceptance_length/ltd/chat"] > 1 and "acceptance_length/t1/ltd/mean" in logged
    # (1.6 - 1.4) / (2.0 - 1.4), and at temperature 1 the grid is as fast.
    assert logged["gap_share/ltd/mean"] == pytest.approx(1 / 3, abs=0.05)
    assert logged["gap_share/t1/ltd/maths"] == pytest.approx(0, abs=1e-9)
    assert logged["gap_share/oracle/chat"] == pytest.approx(1)
    assert all(value == value for value in logged.values())


def test_report_states_the_numbers_of_its_files(experiment):
    text = (experiment / "report" / "report.md").read_text()
    assert "eagle3_grid is depth 2, size 4" in text
    assert "0.90 at step 1, 0.66 at step 5" in text
    assert "1 of 900 positions" in text and "61% of its step" in text
    assert "validation speedup on code by iteration 1.400, 1.500, 1.600; iteration 2 is used" in text
    assert "size policy always chooses the same" in text
    assert "| train_policy | 2 | 2.0 | 500 |" in text
    assert "Every method emitted exactly the tokens" in text
    assert "ltd" in (experiment / "report" / "summary.txt").read_text()
    assert "depth 1, size 4 would have been the best static setting, 1.013x eagle3_grid in replay" in text


def test_missing_optional_files_leave_their_parts_out(tmp_path):
    folder = tmp_path / "default"
    write_experiment(folder)
    for name in ("draft/training.json", "target/training.json", "tuning/best.json"):
        (folder / name).unlink()
    results = Results.load(folder)
    text = write_report(results, folder, set(draw(results)))
    assert "acceptance.svg" not in text and "### Target" not in text and "iterations.svg" in text


def test_target_is_shown_without_its_grown_blocks_and_without_every_third(experiment):
    results = Results.load(experiment)
    text = write_report(results, experiment, set(draw(results)))
    assert "| held-out loss | without grown blocks | without blocks 0 to 3 | without blocks 4 to 7 |" in text
    assert "| chat | 0.50 | 2.50 | 3.25 | 1.75 |" in text


def test_without_the_policies_there_is_nothing_of_theirs_to_draw(experiment):
    results = Results.load(experiment)
    without = {
        name: table[table["method"] != "ltd"] for name, table in vars(results).items() if name in TABLES
    }
    assert draw(results).keys() - draw(replace(results, **without)).keys() == {"tradeoff", "choices"}


def test_the_machine_is_that_of_the_benchmark(tmp_path):
    write_experiment(tmp_path)
    file = tmp_path / "benchmark" / "t0" / "profile.json"
    write_json(file, MACHINE | {"device": "another processor", "dtype": "bfloat16"})
    results = Results.load(tmp_path)
    results.facts["prompts_of_interrupted_run"] = 7
    text = write_report(results, tmp_path, set())
    assert "Machine: another processor (cpu), 2 threads, bfloat16" in text
    assert "are for another machine: a processor (cpu), 2 threads, float32." in text
    assert "7 prompts are of an earlier run" in text
    (row,) = overview_rows("x", results, "t", "h")
    assert row["machine"] == "another processor, bfloat16, 2 threads"


def test_iterations_that_were_not_chosen_from_do_not_count(tmp_path):
    """Those of a longer chain, of an earlier configuration or of another method."""
    write_experiment(tmp_path)
    chain = tmp_path / "policies" / "ltd"
    speedups = {"iteration-0": 1.4, "iteration-1": 1.5}
    write_json(chain / "best" / "chosen.json", {"chosen": "iteration-1", "validation_speedup": speedups})
    found = read_chain(chain)
    assert found.best_iteration == 1 and len(found.validations) == 2
    assert {training.stage for training in found.trainings} == {"iteration 1"}
    (chain / "best" / "chosen.json").unlink()
    assert read_chain(chain) is None


def test_chains_that_an_earlier_configuration_trained_are_not_shown(tmp_path):
    write_experiment(tmp_path)
    policies = tmp_path / "policies"
    for name, traces in (("default", "a"), ("paper-full", "a"), ("stale", "b"), ("conditioned", "a")):
        shutil.copytree(policies / "ltd", policies / name)
        description = {"size": {"trained_on": {"traces": traces, "profile": "c"}}}
        write_json(policies / name / "best" / "policy.json", description)
    assert [chain.name for chain in read_chains(policies)] == ["default", "ltd", "paper-full"]


def test_a_missing_benchmark_is_one_clear_line(tmp_path):
    with pytest.raises(InputError, match=r"benchmark\.json: no such file"):
        report(ReportOptions(experiment=tmp_path, output=tmp_path / "report"), StageRun())


def test_the_noise_stands_under_the_main_table_and_in_the_summary(experiment):
    noise = clock_noise(
        *(pd.read_parquet(experiment / "benchmark" / f"{n}.parquet") for n in ("runs", "cycles"))
    )
    sentence = findings.noise_sentence(noise)
    largest = noise[noise["task"] == MEAN_TASK].nlargest(1, "spread").iloc[0]
    limits = repeatability_limits(noise, ["chat"])
    assert f"lie within {100 * limits[MEAN_TASK]:.1f}% of each other in 95 of 100 cases in the" in sentence
    assert f"by task within: chat {100 * limits['chat']:.1f}%" in sentence
    assert f"found in the mean is {largest['pair']}, {100 * largest['spread']:.1f}%." in sentence
    text = (experiment / "report" / "report.md").read_text()
    assert text.split("## Main table")[1].split("## Tasks")[0].count(sentence) == 1
    assert (experiment / "report" / "summary.txt").read_text().endswith(f"\n\n{sentence}\n")
    listed = text.split("A/A spread between rows")[1].splitlines()[0]
    assert f"{largest['pair']} {100 * largest['spread']:.1f}%" in listed


def test_time_per_token_is_of_every_task_and_then_their_mean():
    runs, cycles, _ = measured_and_replayed()
    for task, tokens, times in (("chat", 4, 2), ("maths", 1, 3)):
        rows = (cycles["method"] == "ltd") & (cycles["task"] == task)
        cycles.loc[rows, "tokens"] *= tokens
        cycles.loc[rows, list(PHASES)] *= times
    figure = composition_figure(summarise(runs.assign(lossless=True), cycles))
    methods = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    bars = [[bar.get_width() for bar in bars] for bars in figure.axes[0].containers]
    sums = cycles.groupby(["method", "task"])[["tokens", *PHASES]].sum()
    per_token = sums[list(PHASES)].div(sums["tokens"], axis=0).drop("stdlib", level="task")
    expected = per_token.groupby("method").mean().loc[methods]
    np.testing.assert_allclose(np.array(bars).T, expected)


def test_speedups_of_other_prompts_are_not_in_the_legend_of_the_plane(experiment):
    figure = draw(Results.load(experiment))["tradeoff"]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "oracle" in labels and sum("x" in label for label in labels) == 1
    assert "validation prompts, all tasks" in figure.axes[1].get_ylabel()


def test_every_task_stands_beside_the_papers(experiment):
    table = findings.paper_task_rows(Results.load(experiment).summary, 0.0)
    table = table.set_index(["task", "method"])
    assert set(table.index.get_level_values("task")) == {"chat", "maths"}
    assert table.loc[("chat", "eagle3"), "llama31-8b"] == "3.70 (6.39)"
    assert table.loc[("maths", "ltd:paper"), "this run"].startswith("1.4")
    assert findings.paper_task_rows(Results.load(experiment).summary, 0.5) is None


def test_grid_of_an_earlier_version_is_named():
    with pytest.raises(InputError, match=r"grid\.json: made by an earlier version"):
        plane({"grids": [{"depths": [0], "sizes": [1], "tokens_per_second": [[1.0]]}]})


def test_a_grid_of_one_size_is_drawn(experiment):
    results = Results.load(experiment)
    results.grid["grids"][0] |= {
        "sizes": [1],
        "tokens_per_second": [[100.0], [120.0], [125.0]],
        "acceptance_length": [[1.0], [1.6], [1.6]],
    }
    assert {"tradeoff", "lengths"} <= draw(results).keys()


def test_plane_is_relative_to_plain_decoding(experiment):
    table = plane(json.loads((experiment / "benchmark" / "grid.json").read_text()))
    cells = table.set_index(["depth", "size"])["speedup"]
    assert cells[2, 4] == pytest.approx(1.4) and cells[0, 1] == 1.0 and len(cells) == 6


def test_stage_costs_sum_the_jobs_of_a_stage(experiment):
    table = stage_costs(experiment).set_index("stage")
    assert table.loc["train_policy", "minutes"] == pytest.approx(2.0)
    assert table.loc["train_policy", "peak memory (MB)"] == 500
    assert table.loc["all", "minutes"] == pytest.approx(3.0)
    assert table.loc["train_policy", "disk (MB)"] < table.loc["all", "disk (MB)"]


@pytest.mark.parametrize(
    ("job", "folder"),
    [
        ("fit_baselines-svip", "baselines/svip"),
        ("fit_opponents-supervised", "opponents/supervised"),
        ("evaluate_ablation-overhead", "ablations"),
        ("transfer-measured", "transfer/measured"),
        ("walk_answer", "report"),
    ],
)
def test_stage_costs_know_the_folder_of_every_stage(tmp_path, job, folder):
    for part in ("benchmarks", folder):
        (tmp_path / part).mkdir(parents=True)
    (tmp_path / "benchmarks" / f"{job}.tsv").write_text("s\th:m:s\tmax_rss\n60.0\t0:01:00\t300.0\n")
    (tmp_path / folder / "file").write_bytes(bytes(2_000_000))
    table = stage_costs(tmp_path).set_index("stage")
    assert table.loc[job.split("-")[0], "disk (MB)"] == pytest.approx(2.0)
