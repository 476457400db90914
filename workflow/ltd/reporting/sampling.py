"""The report's sections on temperatures above 0: the same methods on sampled answers, the paper's table 5.

They decode with what greedy decoding decodes with, whose numbers stand beside theirs.
"""

import pandas as pd

from ltd.methods import BASELINE
from ltd.reporting import findings, pairs
from ltd.reporting.figures import ordered_tasks
from ltd.reporting.paper_results import MAIN_TABLES
from ltd.reporting.results import Decoded, Results

INTRODUCTION = (
    "The same methods on sampled answers. Policies and baselines are trained, and the static setting is "
    "chosen, on {answers} only. The noise of a token is keyed by prompt and place, so every method has "
    "the same answer to give. Columns `at 0` repeat greedy decoding."
)
MEAN_FORMATS = {
    "speedup": ".2f",
    "speedup at 0": ".2f",
    "tokens/s": ".0f",
    "acceptance length": ".2f",
    "acceptance length at 0": ".2f",
    "depth": ".2f",
    "size": ".1f",
}


def sections(results: Results) -> list[str]:
    """Markdown of every temperature above 0, a section each."""
    return [part for sampled in results.sampled for part in _section(sampled, results)]


def _section(sampled: Decoded, results: Results) -> list[str]:
    summary, number = sampled.summary, MAIN_TABLES.get(sampled.temperature)
    lengths = acceptance_rows(summary)
    return [
        f"## Temperature {sampled.temperature:g}" + f" (the paper's table {number})" * (number is not None),
        INTRODUCTION.format(answers=answers_learned_from(results)),
        findings.bullet_list(sentences(sampled, results)),
        findings.markdown(mean_rows(summary, results.summary), MEAN_FORMATS),
        "Speedup by task, with 95% intervals:",
        findings.markdown(findings.task_rows(summary)),
        "Acceptance length by task:",
        findings.markdown(lengths, dict.fromkeys(lengths.columns[1:], ".2f")),
        *_paper(sampled),
    ]


def answers_learned_from(results: Results) -> str:
    """Say what kind of answers policies, grid and baselines have learned from."""
    return findings.kind_of_answers(results.learned_at)


def sentences(sampled: Decoded, results: Results) -> list[str]:
    """Return one sentence a finding at this temperature."""
    summary = sampled.summary
    found = [
        findings.lossless(summary),
        *against_greedy(summary, results.summary),
        *findings.verdicts(sampled.runs, sampled.limits, sampled.facts["seed"]),
        *pairs.pair_sentences(pairs.judge_pairs(sampled.runs, sampled.limits, sampled.facts["seed"])),
        *findings.replayed(summary),
        findings.noise_sentence(sampled.noise),
    ]
    paper = findings.paper_sentence(summary, sampled.temperature)
    return found + [paper] * (paper is not None)


def against_greedy(summary: pd.DataFrame, greedy: pd.DataFrame) -> list[str]:
    """Say how acceptance lengths and speedups changed with the temperature, for the methods that draft."""
    rows = mean_rows(summary, greedy).set_index("method")
    rows = rows[(rows["speedup at 0"].notna()) & (rows.index != BASELINE)]
    return [
        f"{what} at temperature 0 and here: "
        + ", ".join(f"{m} {a:.2f} and {b:.2f}" for m, a, b in rows[[f"{column} at 0", column]].itertuples())
        + "."
        for what, column in (("Acceptance lengths", "acceptance length"), ("Speedups", "speedup"))
        if len(rows)
    ]


def mean_rows(summary: pd.DataFrame, greedy: pd.DataFrame) -> pd.DataFrame:
    """One row a method, the mean over the tasks; beside speedup and acceptance length those of `greedy`."""
    rows = findings.main_rows(summary)
    before = findings.main_rows(greedy).set_index("method").reindex(rows["method"])
    for column in ("speedup", "acceptance length"):
        rows[f"{column} at 0"] = before[column].to_numpy()
    shown = ["method", "speedup", "95% interval", "speedup at 0", "tokens/s"]
    shown += ["acceptance length", "acceptance length at 0", "depth", "size", "lossless"]
    return rows[shown]


def acceptance_rows(summary: pd.DataFrame) -> pd.DataFrame:
    """Acceptance length, the target's own token counted: one row a method, one column a task."""
    rows = findings.shown_rows(summary)
    rows = rows[rows["method"] != BASELINE]
    rows = rows.assign(
        method=[findings.name(m, s) for m, s in zip(rows["method"], rows["source"], strict=True)]
    )
    table = rows.pivot(index="method", columns="task", values="acceptance_length")
    table = table.loc[list(dict.fromkeys(rows["method"])), ordered_tasks(rows["task"])]
    return table.reset_index()


def _paper(sampled: Decoded) -> list[str]:
    parts = []
    for label, column in (("speedups", "speedup"), ("acceptance lengths", "acceptance_length")):
        table = findings.paper_rows(sampled.summary, sampled.temperature, column)
        if table is not None:
            formats = dict.fromkeys(table.columns[1:], ".2f")
            parts.append(f"Mean {label}; the columns of models are the paper's:")
            parts.append(findings.markdown(table, formats))
    return parts
