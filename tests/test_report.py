"""The report from small synthetic files: its numbers, its sentences, its figures."""

import json
import re
from itertools import pairwise

import pandas as pd
import pytest

from ltd.errors import InputError
from ltd.files import write_json
from ltd.join_benchmark import JoinBenchmarkOptions, join_benchmark
from ltd.measurement.clock_noise import clock_noise
from ltd.measurement.summary import MEAN_TASK, PHASES, mark_lossless, summarise
from ltd.overview import overview_row
from ltd.report import ReportOptions, draw, outcome, plane, report
from ltd.reporting import findings
from ltd.reporting.paper_results import main_table, ratio_to_grid
from ltd.reporting.results import Results
from ltd.reporting.speedup_figure import speedup_figure
from ltd.reporting.stage_costs import stage_costs
from ltd.reporting.text import write_report
from ltd.tracking import StageRun
from synthetic_runs import TASKS, make_runs

SPEEDS = {"autoregressive": 1.0, "eagle3": 0.9, "eagle3_grid": 1.4, "ltd:paper": 1.45, "ltd": 1.6}


# With sampling, learned policies and the best static setting are equally fast.
SAMPLED_SPEEDS = SPEEDS | {"eagle3_grid": 1.2, "ltd:paper": 1.1, "ltd": 1.2}


def measured_and_replayed(speeds=SPEEDS, noise=0.02, temperature=0.0):
    runs, cycles = make_runs(speeds, noise=noise, temperature=temperature)
    replay_runs, replay_cycles = make_runs(speeds | {"oracle": 2.0}, noise=noise, temperature=temperature)
    replay_cycles[list(PHASES)] = float("nan")
    runs, replay_runs = mark_lossless(runs), mark_lossless(replay_runs).assign(source="replay")
    summary = summarise(
        pd.concat([runs, replay_runs]), pd.concat([cycles, replay_cycles.assign(source="replay")])
    )
    return runs, cycles, summary


def write_benchmark(folder, runs, cycles, summary, checked):
    """The benchmark of one temperature; `checked` are the counts of the comparison with transformers."""
    folder.mkdir(parents=True)
    runs.to_parquet(folder / "runs.parquet")
    cycles = cycles.assign(size=cycles["verified"])
    cycles.to_parquet(folder / "cycles.parquet")
    cycles[["temperature", "task", "depth", "size", "tokens"]].to_parquet(folder / "oracle.parquet")
    summary.to_csv(folder / "summary.csv", index=False)
    write_json(
        folder / "benchmark.json",
        {
            "seed": 0,
            "repeats": 2,
            "max_new_tokens": 64,
            "grid": {"depth": 2, "size": 4},
            "default": {"depth": 8, "size": 60},
            "clock_gap": 0.001,
            "transformers": checked,
        },
    )


def write_experiment(folder, sampled=False):
    """An experiment with every file that the report reads, on request at temperature 1 too."""
    benchmark = folder / "benchmark"
    checked = {"tokens": 900, "near_ties": 3, "disagreements": 1, "largest_margin": 0.0004}
    write_benchmark(benchmark / "t0", *measured_and_replayed(), checked | {"near_tie_margin": 0.01})
    if sampled:
        tables = measured_and_replayed(SAMPLED_SPEEDS, noise=0.0, temperature=1.0)
        write_benchmark(benchmark / "t1", *tables, None)
    parts = tuple(sorted(benchmark.glob("t*")))
    join_benchmark(JoinBenchmarkOptions(parts=parts, output=benchmark), StageRun())
    grid = {
        "depths": [0, 1, 2],
        "sizes": [1, 4],
        "tokens_per_second": [[100.0, 100.0], [120.0, 130.0], [125.0, 140.0]],
        "acceptance_length": [[1.0, 1.0], [1.6, 1.8], [1.6, 2.3]],
        "bounds": {"autoregressive": {"overall": 100.0}},
    }
    write_json(benchmark / "grid.json", {"best": {"depth": 2, "size": 4}, "grids": [grid]})
    table = {"axis": [1, 2], "ms": [[1.0, 2.0], [3.0, 4.0]], "spread": [[0.1, 0.1], [0.1, 0.1]]}
    plain = {"axis": [1], "ms": [[5.0, 6.0]], "spread": [[0.1, 0.1]]}
    error = {"points": 9, "bias": -0.01, "median": 0.02, "largest": 0.1}
    write_json(
        folder / "latency" / "profile.json",
        {
            "device": "a processor",
            "device_type": "cpu",
            "dtype": "float32",
            "threads": 2,
            "versions": {"torch": "2.13.0"},
            "beam": 4,
            "max_depth": 8,
            "context_lengths": [64, 128],
            "tables": {
                "autoregressive_step": plain,
                "draft_prefix": table,
                "draft_step": table | {"axis": [2, 3]},
                "verify": table,
            },
            "interpolation_error": {"verify_sizes": error, "contexts": error, "cycles": error},
            "matrix_product_share": 0.61,
        },
    )
    epoch = {"epoch": 1, "acceptance": [0.9, 0.8, 0.7, 0.7, 0.66], "acceptance_length": 3.1}
    best = epoch | {"tasks": {"chat": epoch}}
    write_json(folder / "draft" / "training.json", {"best": best, "epochs": [best, best | {"epoch": 2}]})
    losses = {"final_loss.chat": 0.5, "well_formed.chat": 0.9}
    removed = {"grown_blocks": 2.5, "blocks_0_to_3": 3.25, "blocks_4_to_7": 1.75}
    losses |= {f"final_loss_without_{name}.chat": loss for name, loss in removed.items()}
    history = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0, "held_out_loss.mean": 2.1}]
    write_json(
        folder / "target" / "training.json",
        {"summary": losses | {"loop.chat": 0.1, "parameters": 12e6}, "history": history},
    )
    for number in range(3):
        path = folder / "policies" / "ltd" / f"iteration-{number}"
        validation = {
            "speedup": 1.4 + number / 10,
            "tasks": {"code": 1.4 + number / 10},
            "static": {"speedup": 1.35},
            "size": {"is_constant": True},
        }
        write_json(path / "validation.json", validation)
        curves = [{"steps": 1000.0 * i, "reward": 0.1 * i, "speedup": 1.4 + 0.02 * i} for i in range(4)]
        for kind in ("size", "depth"):
            write_json(path / f"{kind}.training.json", {"best_steps": 2000, "curves": curves})
    write_json(folder / "tuning" / "best.json", {"settings": {"learning_rate": 0.001}})
    (folder / "benchmarks").mkdir()
    header = "s\th:m:s\tmax_rss\n"
    (folder / "benchmarks" / "train_policy-ltd-1.tsv").write_text(header + "90.0\t0:01:30\t300.0\n")
    (folder / "benchmarks" / "train_policy-ltd-2.tsv").write_text(header + "30.0\t0:00:30\t500.0\n")
    (folder / "benchmarks" / "tune.tsv").write_text(header + "60.0\t0:01:00\t-\n")


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
    assert "the paper's policies gain 1.010 to 1.361" in section


def test_every_figure_and_the_overview_are_of_greedy_decoding(experiment, with_sampling):
    alone, both = Results.load(experiment), Results.load(with_sampling)
    for name in ("summary", "runs", "cycles", "oracle"):
        pd.testing.assert_frame_equal(getattr(alone, name), getattr(both, name))
    assert both.temperatures == [0.0, 1.0] and both.sampled[0].temperature == 1.0
    names = ("default", "a/b", "c/d")
    assert overview_row(names[0], alone, *names[1:]) == overview_row(names[0], both, *names[1:])


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


def marks_by_row(axes):
    """Row labels from the top, and the places of the marks on the axis, by row number."""
    labels = [label.get_text() for label in axes.get_yticklabels()]
    bottom, top = axes.get_ylim()
    assert bottom > top
    marks = {bars.lines[0].get_ydata()[0]: bars.lines[0].get_xdata()[0] for bars in axes.containers}
    return labels, marks


def test_speedup_figure_has_a_panel_a_task_and_a_row_a_method():
    _, _, summary = measured_and_replayed(noise=0.0)
    figure = speedup_figure(summary)
    assert [axes.get_title() for axes in figure.axes] == ["mean", "chat", "maths", "stdlib"]
    labels, marks = marks_by_row(figure.axes[0])
    # Sorted by speed; what was measured is not shown replayed, and the baseline is the line at 1.
    assert labels == ["oracle (replay)", "ltd", "ltd:paper", "eagle3_grid", "eagle3"]
    assert marks == pytest.approx({0: 2.0, 1: 1.6, 2: 1.45, 3: 1.4, 4: 0.9})
    for axes in figure.axes:
        assert list(axes.lines[0].get_xdata()) == [1, 1]
        assert axes.get_xlim() == figure.axes[0].get_xlim()
    bold = {label.get_text(): label.get_fontweight() for label in figure.axes[0].get_yticklabels()}
    assert [name for name, weight in bold.items() if weight == "bold"] == ["ltd", "eagle3_grid"]


def test_speedup_figure_shows_intervals_and_leaves_out_what_a_task_lacks():
    _, _, summary = measured_and_replayed()
    summary = summary[(summary["method"] != "eagle3") | (summary["task"] != "maths")]
    # One task much faster than the mean: its marks are within the shared axis too.
    summary.loc[summary["task"] == "stdlib", ["speedup", "speedup_low", "speedup_high"]] *= 2
    figure = speedup_figure(summary)
    left, right = figure.axes[0].get_xlim()
    assert left == 0 and right > summary["speedup_high"].max()
    for axes, task in zip(figure.axes, ("mean", "chat", "maths", "stdlib"), strict=True):
        rows = summary[(summary["task"] == task) & (summary["method"] == "ltd")]
        row = rows[rows["source"] == "measured"].iloc[0]
        interval = axes.containers[1].lines[2][0].get_segments()[0][:, 0]
        assert interval == pytest.approx([row["speedup_low"], row["speedup_high"]])
        assert len(axes.containers) == (4 if task == "maths" else 5)


@pytest.mark.parametrize("count", [2, 25])
def test_speedup_figure_grows_with_the_methods(count, tmp_path):
    """Rows have the same height however many there are, and no label covers its neighbour."""
    _, _, summary = measured_and_replayed({"autoregressive": 1.0, "ltd": 1.6, "eagle3_grid": 1.4})
    summary = summary[summary["source"] == "measured"]
    ours = summary[summary["method"] == "ltd"]
    variants = [ours.assign(method=f"ltd:variant-{number}") for number in range(count - 2)]
    figure = speedup_figure(pd.concat([summary, *variants]))
    figure.savefig(tmp_path / "speedups.svg")
    first = figure.axes[0]
    boxes = [label.get_window_extent() for label in first.get_yticklabels()]
    assert len(boxes) == count
    assert all(upper.y0 >= lower.y1 for upper, lower in pairwise(boxes))


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


def test_a_missing_benchmark_is_one_clear_line(tmp_path):
    with pytest.raises(InputError, match=r"benchmark\.json: no such file"):
        report(ReportOptions(experiment=tmp_path, output=tmp_path / "report"), StageRun())


def spread(value=0.01, **by_task):
    """A/A spread by task, `value` but for those named."""
    return pd.Series(dict.fromkeys((*TASKS, MEAN_TASK), value) | by_task)


def test_verdict_tells_faster_from_slower_from_tie():
    runs, _, _ = measured_and_replayed()
    assert "significant)" in findings.verdict(runs, "ltd", "eagle3_grid", spread(0.02), 0)
    assert "faster on chat" in findings.verdict(runs, "ltd", "eagle3_grid", spread(0.02), 0)
    assert "slower on chat" in findings.verdict(runs, "eagle3", "eagle3_grid", spread(0.02), 0)
    # The same ratio is a tie on a machine whose clock is noisier than the difference.
    noisy = findings.verdict(runs, "ltd", "eagle3_grid", spread(0.5), 0)
    assert "no significant difference" in noisy and "a tie on chat" in noisy


def test_every_task_is_judged_by_its_own_noise():
    runs, _, _ = measured_and_replayed()
    said = findings.verdict(runs, "ltd", "eagle3_grid", spread(0.01, maths=0.5), 0)
    assert ", significant)" in said and "faster on chat" in said and "a tie on maths" in said
    said = findings.verdict(runs, "ltd", "eagle3_grid", spread(0.01, mean=0.5), 0)
    assert "no significant difference" in said and "faster on chat" in said and "a tie" not in said


def test_the_noise_stands_under_the_main_table_and_in_the_summary(experiment):
    noise = clock_noise(
        *(pd.read_parquet(experiment / "benchmark" / f"{n}.parquet") for n in ("runs", "cycles"))
    )
    sentence = findings.noise_sentence(noise)
    largest = noise[noise["task"] == MEAN_TASK].nlargest(1, "spread").iloc[0]
    assert f"up to {100 * largest['spread']:.1f}% apart in the mean ({largest['pair']})" in sentence
    chat = noise.loc[noise["task"] == "chat", "spread"].max()
    assert f"by task up to: chat {100 * chat:.1f}%" in sentence
    text = (experiment / "report" / "report.md").read_text()
    assert text.split("## Main table")[1].split("## Tasks")[0].count(sentence) == 1
    assert (experiment / "report" / "summary.txt").read_text().endswith(f"\n\n{sentence}\n")


def test_losing_tokens_is_the_first_finding():
    runs, _, summary = measured_and_replayed()
    summary.loc[summary["method"] == "ltd", "lossless"] = False
    first = findings.findings(summary, runs, spread(), {"depth": 2, "size": 4}, 0)[0]
    assert first.startswith("NOT LOSSLESS: ltd")


def test_share_of_the_oracle_gap_is_taken_within_replay():
    runs, _, summary = measured_and_replayed(noise=0.0)
    sentences = findings.findings(summary, runs, spread(), {"depth": 2, "size": 4}, 0)
    # (1.6 - 1.4) / (2.0 - 1.4)
    assert any("closes 33% of the gap" in sentence for sentence in sentences)


def test_opponents_are_compared_with_the_policies():
    runs, _, summary = measured_and_replayed(noise=0.0)
    name = {"ltd:paper": "optimal_stopping"}
    runs, summary = (table.replace({"method": name}) for table in (runs, summary))
    sentences = findings.findings(summary, runs, spread(), {"depth": 2, "size": 4}, 0)
    # (1.45 - 1.4) / (2.0 - 1.4)
    assert any("its opponents close: optimal_stopping 8%." in sentence for sentence in sentences)
    assert any(sentence.startswith("ltd against optimal_stopping: 1.103x") for sentence in sentences)


def test_paper_numbers_are_those_of_its_first_table():
    table = main_table(0.0).set_index(["model", "method", "task"])["speedup"]
    assert table["llama31-8b", "ltd:paper", "chat"] == 3.96
    assert table["vicuna-13b", "eagle3", "qa"] == 3.43
    assert ratio_to_grid(0.0)["qwen3-32b"] == pytest.approx(1.364, abs=2e-3)
    assert main_table(0.5).empty and ratio_to_grid(0.5).empty


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


def test_markdown_aligns_numbers_and_leaves_gaps_empty():
    table = pd.DataFrame({"name": ["a", "b"], "value": [1.234, float("nan")]})
    lines = findings.markdown(table, {"value": ".1f"}).splitlines()
    assert lines == ["| name | value |", "|---|---:|", "| a | 1.2 |", "| b |  |"]
