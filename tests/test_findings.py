"""Sentences and tables that the report makes of numbers."""

import pandas as pd
import pytest

from ltd.measurement.summary import MEAN_TASK
from ltd.reporting import findings
from ltd.reporting.paper_results import main_table, ratio_to_grid
from report_files import measured_and_replayed
from synthetic_runs import TASKS


def limits(value=0.01, **by_task):
    """Repeatability limits by task, `value` but for those named."""
    return pd.Series(dict.fromkeys((*TASKS, MEAN_TASK), value) | by_task)


GRID = {"best": {"depth": 2, "size": 4}, "grids": [{"tasks": {"code": {}, "chat": {}}, "temperature": 0.0}]}


def test_verdict_tells_faster_from_slower_from_tie():
    runs, _, _ = measured_and_replayed()
    assert "significant)" in findings.verdict(runs, "ltd", "eagle3_grid", limits(0.02), 0)
    assert "faster on chat" in findings.verdict(runs, "ltd", "eagle3_grid", limits(0.02), 0)
    assert "slower on chat" in findings.verdict(runs, "eagle3", "eagle3_grid", limits(0.02), 0)
    # The same ratio is a tie on a machine whose timing is noisier than the difference.
    noisy = findings.verdict(runs, "ltd", "eagle3_grid", limits(0.5), 0)
    assert "less than the timing noise)" in noisy and "a tie on chat" in noisy
    alike = findings.verdict(runs, "eagle3_grid", "eagle3_grid", limits(0.5), 0)
    assert "no significant difference)" in alike


def test_every_task_is_judged_by_its_own_noise():
    runs, _, _ = measured_and_replayed()
    said = findings.verdict(runs, "ltd", "eagle3_grid", limits(0.01, maths=0.5), 0)
    assert ", significant)" in said and "faster on chat" in said and "a tie on maths" in said
    said = findings.verdict(runs, "ltd", "eagle3_grid", limits(0.01, mean=0.5), 0)
    assert "less than the timing noise)" in said and "faster on chat" in said and "a tie" not in said


def test_losing_tokens_is_the_first_finding():
    runs, _, summary = measured_and_replayed()
    summary.loc[summary["method"] == "ltd", "lossless"] = False
    first = findings.findings(summary, runs, limits(), GRID, 0)[0]
    assert first.startswith("NOT LOSSLESS: ltd")


def test_share_of_the_oracle_gap_is_taken_within_replay():
    runs, _, summary = measured_and_replayed(noise=0.0)
    sentences = findings.findings(summary, runs, limits(), GRID, 0)
    # (1.6 - 1.4) / (2.0 - 1.4)
    assert any("closes 33% of the gap" in sentence for sentence in sentences)


@pytest.mark.parametrize("oracle", [1.39, 1.41])
def test_no_share_is_told_of_a_gap_that_is_hardly_there(oracle):
    _, _, summary = measured_and_replayed(noise=0.0)
    summary.loc[summary["method"] == "oracle", "speedup"] = oracle
    (sentence,) = findings.gap_sentences(summary)
    assert sentence.endswith("eagle3_grid 1.40x and ltd 1.60x: there is hardly a gap to close.")


def test_opponents_are_compared_with_the_policies():
    runs, _, summary = measured_and_replayed(noise=0.0)
    name = {"ltd:paper": "optimal_stopping"}
    runs, summary = (table.replace({"method": name}) for table in (runs, summary))
    sentences = findings.findings(summary, runs, limits(), GRID, 0)
    # (1.45 - 1.4) / (2.0 - 1.4)
    assert any("its opponents close: optimal_stopping 8%." in sentence for sentence in sentences)
    assert any(sentence.startswith("ltd against optimal_stopping: 1.103x") for sentence in sentences)


def test_errors_of_replay_that_cancel_in_the_mean_are_named_by_task():
    _, _, summary = measured_and_replayed(noise=0.0)
    ltd = (summary["source"] == "replay") & (summary["method"] == "ltd")
    for task, factor in (("chat", 0.92), ("maths", 1.1)):
        summary.loc[ltd & (summary["task"] == task), "speedup"] *= factor
    (sentence,) = findings.replay_errors(summary)
    in_mean, by_task = sentence.split(", on single tasks of ")
    assert "mean absolute error of 0.0% over the methods (largest " in in_mean
    # 8% and 10% among four methods on three tasks.
    assert by_task == "1.5% over methods and tasks (largest +10.0%, ltd on maths)."


def test_paper_numbers_are_those_of_its_first_table():
    table = main_table(0.0).set_index(["model", "method", "task"])["speedup"]
    assert table["llama31-8b", "ltd:paper", "chat"] == 3.96
    assert table["vicuna-13b", "eagle3", "qa"] == 3.43
    # The quotient of its means is 1.364.
    assert ratio_to_grid(0.0)["qwen3-32b"] == pytest.approx(1.373, abs=1e-3)
    assert main_table(0.5).empty and ratio_to_grid(0.5).empty


def test_markdown_aligns_numbers_and_leaves_gaps_empty():
    table = pd.DataFrame({"name": ["a", "b"], "value": [1.234, float("nan")]})
    lines = findings.markdown(table, {"value": ".1f"}).splitlines()
    assert lines == ["| name | value |", "|---|---:|", "| a | 1.2 |", "| b |  |"]


def test_the_grid_is_named_with_the_prompts_that_chose_it():
    runs, _, summary = measured_and_replayed()
    for temperature, how in ((0.0, "greedy answers"), (0.7, "answers sampled at temperature 0.7")):
        grid = GRID | {"grids": [GRID["grids"][0] | {"temperature": temperature}]}
        sentences = findings.findings(summary, runs, limits(), grid, 0)
        ending = f"prompts of chat, code, by {how}."
        assert any("depth 2, size 4" in said and said.endswith(ending) for said in sentences)


@pytest.mark.parametrize("names", [{}, {"chat": "mt_bench", "maths": "gsm8k"}])
def test_the_papers_means_stand_beside_those_of_its_own_tasks(names):
    """By whichever name, and without a task that the paper has not."""
    _, _, summary = measured_and_replayed()
    tasks = summary.loc[(summary["method"] == "ltd:paper") & (summary["source"] == "measured")]
    tasks = tasks[tasks["task"].isin(["chat", "maths"])]
    expected = tasks["speedup"].mean()
    other = tasks.iloc[:1].assign(task="humaneval", speedup=9.0)
    renamed = pd.concat([summary, other]).replace({"task": names})
    row = findings.paper_rows(renamed, 0.0).set_index("method").loc["ltd:paper"]
    assert row["this run"] == pytest.approx(expected)
    assert findings.paper_sentence(renamed, 0.0) == findings.paper_sentence(summary, 0.0)


def test_a_name_of_the_papers_goes_before_its_alias():
    _, _, summary = measured_and_replayed()
    both = pd.concat([summary, summary[summary["task"] == "chat"].assign(task="mt_bench", speedup=9.0)])
    table = findings.paper_task_rows(both, 0.0)
    assert table.equals(findings.paper_task_rows(summary, 0.0))


def test_rules_with_the_papers_constants_stand_beside_it_in_the_place_of_tuned_ones():
    speeds = {"autoregressive": 1.0, "ddd": 1.5, "svip": 1.6, "svip:published": 1.2}
    _, _, summary = measured_and_replayed(speeds, noise=0.0)
    for table in (findings.paper_rows(summary, 0.0), findings.paper_task_rows(summary, 0.0)):
        assert set(table["method"]) == {"ddd", "svip:published"}
        (sentence,) = findings.constants_sentence(dict.fromkeys(table["method"]))
        assert sentence.startswith("The constants of ddd come from a search") and "svip" not in sentence
    rows = findings.paper_rows(summary, 0.0).set_index("method")
    assert rows.loc["svip:published", ["this run", "llama31-8b"]].tolist() == pytest.approx([1.2, 3.57])
    assert findings.constants_sentence(["eagle3", "svip:published"]) == []


def test_without_a_method_of_the_paper_nothing_stands_beside_it():
    _, _, summary = measured_and_replayed({"autoregressive": 1.0, "ltd": 1.5})
    assert findings.paper_rows(summary, 0.0) is None and findings.paper_task_rows(summary, 0.0) is None
