"""The text of the report, section by section, in Markdown."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ltd.measurement.summary import GREEDY, MEAN_TASK, mean_over
from ltd.methods import BASELINE, GRID, TUNED
from ltd.reporting import findings, pairs, sampling
from ltd.reporting.figures import ordered_tasks
from ltd.reporting.results import Results
from ltd.reporting.stage_costs import stage_costs
from ltd.reporting.training_figures import Chain

MAIN_FORMATS = {
    "speedup": ".2f",
    "mean of ratios": ".2f",
    "end to end": ".2f",
    "tokens/s": ".0f",
    "acceptance length": ".2f",
    "depth": ".2f",
    "size": ".1f",
    "draft %": ".0f",
    "verify %": ".0f",
    "policy %": ".1f",
    "rest %": ".0f",
}
# What the target's losses without some of its blocks, the grown ones or a third, are called.
WITHOUT = "final_loss_without_"


def write_report(
    results: Results,
    experiment: Path,
    drawn: set[str],
    ablations: Sequence[str] = (),
    provenance: Sequence[str] = (),
) -> str:
    """Assemble report.md; `ablations` and `provenance` are sections that are ready."""
    summary, facts, limits = results.summary, results.facts, results.greedy.limits
    sentences = findings.findings(summary, results.runs, limits, results.grid, facts["seed"])
    if GRID in set(results.runs["method"]):
        sentences.append(_hindsight(facts["hindsight"]))
    compared = pairs.judge_pairs(results.runs, limits, facts["seed"])
    sentences += pairs.pair_sentences(compared)
    if sentence := findings.paper_sentence(summary, GREEDY):
        sentences.append(sentence)
    if results.paper_training is not None:
        sentences.append(findings.paper_training_sentence(results.paper_training))
    sections = [
        f"# Learning to Draft: {experiment.name}",
        _learned_elsewhere(results),
        findings.bullet_list(sentences),
        "## Main table",
        f"{mean_over(ordered_tasks(results.runs['task']))} Speedups are ratios of tokens per second over "
        "autoregressive decoding on the same engine, from sums over prompts, with 95% intervals from paired "
        "resampling of prompts.",
        findings.markdown(findings.main_rows(summary), MAIN_FORMATS),
        findings.noise_sentence(results.noise),
        _figure("composition", drawn, "Time per emitted token by phase, mean of the tasks."),
        "## Tasks",
        findings.markdown(findings.task_rows(summary)),
        _figure(
            "speedups",
            drawn,
            "Speedup by task, the fastest in the mean at the top: marks are ratios of sums, lines hold 95%. "
            "The square is ltd, the star the best static setting; hollow marks are replayed.",
        ),
        *_pairs(compared),
        "## Depth and size",
        _figure(
            "tradeoff",
            drawn,
            "Replayed speedup of every static setting on validation prompts, the best one, and the choices "
            "of ltd (measured) and of the oracle (replayed) on test prompts; areas are shares of cycles.",
        ),
        _figure(
            "lengths",
            drawn,
            "Acceptance length (tokens a cycle) of every static setting on validation prompts, in replay.",
        ),
        _figure("choices", drawn, "What ltd chooses, in cycles that gained little and much (per cent)."),
        _answer(experiment),
        *_clock(results, drawn),
        *_paper(results),
        *sampling.sections(results),
        *ablations,
        *_training(results, drawn),
        "## What was run",
        findings.bullet_list(what_was_run(results)),
        *_costs(experiment),
        *provenance,
    ]
    return "\n\n".join(section for section in sections if section)


def _learned_elsewhere(results: Results) -> str:
    """Say what temperature results are of, where methods have learned at another."""
    if results.learned_at == GREEDY:
        return ""
    decoded = results.learned_at in results.temperatures
    there = "has a section of its own" if decoded else "was not decoded"
    return (
        "Results are of temperature 0 where nothing else is said, while policies, grid and baselines have "
        f"learned from {sampling.answers_learned_from(results)}: that temperature {there}."
    )


def _pairs(compared: pairs.Pairs) -> list[str]:
    if not compared:
        return []
    return ["## Pairs of methods", pairs.INTRODUCTION, findings.markdown(pairs.pair_rows(compared))]


def _answer(experiment: Path) -> str:
    found = (experiment / "report" / "answer.html").is_file()
    return "[A walk through one answer](answer.html), cycle by cycle." if found else ""


def _figure(name: str, drawn: set[str], caption: str) -> str:
    return f"![{caption}]({name}.svg)\n\n*{caption}*" if name in drawn else ""


def _drift(change: dict[str, float]) -> str:
    """How the machine changed between the profile and the benchmark."""
    return (
        "Replay beside the clock is with times taken between the benchmark's prompts. Against the profile "
        "that policies and grid were chosen with, an autoregressive step changed by "
        f"{100 * change['autoregressive_step']:+.1f}%, a cycle of {GRID} by "
        f"{100 * change['grid_cycle']:+.1f}%."
    )


def _hindsight(best: dict[str, Any]) -> str:
    """How much of what others are faster than the static tree is the fault of its choice."""
    return (
        f"Had the prompts and times of the benchmark been known, depth {best['depth']}, size {best['size']} "
        f"would have been the best static setting, {1 + best['gain']:.3f}x {GRID} in replay over all tasks. "
        "So much of what others are faster may be due to its choice."
    )


def _counts(by_method: Mapping[str, int]) -> str:
    """Of the two methods that matter most, those that there are, or of all."""
    named = [method for method in (GRID, TUNED) if method in by_method] or by_method
    return ", ".join(f"{by_method[method]} (`{method}`)" for method in named)


def _clock(results: Results, drawn: set[str]) -> list[str]:
    """How far the clock, the replay and the profile can be trusted."""
    facts, errors = results.facts, results.profile["interpolation_error"]
    means = results.noise[results.noise["task"] == MEAN_TASK]
    spreads = ", ".join(f"{row.pair} {100 * row.spread:.1f}%" for row in means.itertuples())
    sentences = [
        "A/A spread between rows, in the mean (odd against even repeats of one method, scaled from halves to "
        f"whole rows; two methods that are the same static tree): {spreads or 'no pair'}.",
        f"The phases of all cycles sum to the wall time within {100 * facts['clock_gap']:.2f}%.",
        _drift(facts["drift"]),
    ]
    sentences += [
        f"Latency profile against {what}: median error {100 * errors[key]['median']:.1f}%, bias "
        f"{100 * errors[key]['bias']:+.1f}% ({errors[key]['points']} points)."
        for key, what in (
            ("verify_sizes", "held-out sizes"),
            ("contexts", "a held-out context length"),
            ("cycles", "whole cycles of the decoding loop, some of whose parts it was measured by"),
        )
        if key in errors
    ]
    answers = facts["recorded_answers"]
    sentences.append(
        "Replay walks recorded answers; plain decoding gave the same, token for token, to "
        f"{answers['same']} of {answers['prompts']} prompts."
    )
    if by_method := answers.get("cycles"):  # benchmarks before c5fb37e did not count them
        sentences.append(
            f"On the clock all cycles of such an answer were those of replay in {_counts(by_method)}: "
            "drafts are recorded in batches, which round otherwise."
        )
    if (check := facts["transformers"]) is not None:
        sentences.append(
            f"Plain transformers in float32 prefers another token at {check['disagreements']} of "
            f"{check['tokens']} positions, by at most {check['largest_margin']:.2g} logits; "
            f"{check['near_ties']} positions are near-ties "
            f"(two best logits within {check['near_tie_margin']})."
        )
    table = findings.simulation_rows(results.summary)
    formats = {"measured": ".3f", "replayed": ".3f", "error %": "+.1f"}
    return [
        "## Clock, replay and correctness",
        findings.bullet_list(sentences),
        findings.markdown(table, formats) if len(table) else "",
        _figure(
            "latency",
            drawn,
            "Draft time by depth and verification time by size; bands are as wide as the interquartile "
            "range, dotted lines fits.",
        ),
    ]


def _paper(results: Results) -> list[str]:
    table = findings.paper_rows(results.summary, GREEDY)
    if table is None:
        return []
    return [
        "## Beside the paper",
        "Mean speedups over autoregressive decoding; the columns of models are the paper's, on one A100 "
        f"({findings.SOURCE}). Other models, another engine and machine: compare the order of "
        "rows, not numbers.",
        *findings.constants_sentence(table["method"]),
        findings.markdown(table, dict.fromkeys(table.columns[1:], ".2f")),
        *_paper_tasks(results),
    ]


def _paper_tasks(results: Results) -> list[str]:
    table = findings.paper_task_rows(results.summary, GREEDY)
    if table is None:
        return []
    return ["By task, with acceptance lengths in brackets:", findings.markdown(table)]


def _costs(experiment: Path) -> list[str]:
    table = stage_costs(experiment)
    if table.empty:
        return []
    formats = {"minutes": ".1f", "peak memory (MB)": ".0f", "disk (MB)": ".1f"}
    return ["## Time and disk", findings.markdown(table, formats)]


def _training(results: Results, drawn: set[str]) -> list[str]:
    sections = ["## Training"]
    if (head := results.head) is not None and "best" in head:
        acceptance = head["best"]["acceptance"]
        shown = {step: acceptance[step - 1] for step in (1, 5) if step <= len(acceptance)}
        steps = ", ".join(f"{value:.2f} at step {step}" for step, value in shown.items())
        sections.append(f"Draft head, held-out answers, mean of the tasks: top-1 acceptance {steps}.")
        sections.append(_figure("acceptance", drawn, "The head's acceptance by draft step, and by epoch."))
    if results.chains:
        sections.append(findings.bullet_list(map(_chain_sentence, results.chains)))
        sections.append(_figure("iterations", drawn, "Validation speedup (replay) after every iteration."))
        sections += [
            _figure(f"policies_{chain.name}", drawn, f"Training of the policies of chain {chain.name}.")
            for chain in results.chains
        ]
    if (tuning := results.tuning) is not None:
        sections.append(f"Winner of the tuning study: `{json.dumps(tuning.get('settings', tuning))}`.")
    if results.target is not None:
        rows = _target_rows(results.target["summary"])
        formats = dict.fromkeys(rows.columns[1:], ".2f")
        sections += ["### Target", findings.markdown(rows, formats)]
        sections.append(_figure("target_loss", drawn, "Loss of the target while it was trained."))
    return sections if len(sections) > 1 else []


def _chain_sentence(chain: Chain) -> str:
    speedups = ", ".join(f"{validation['speedup']:.3f}" for validation in chain.validations)
    best = chain.validations[chain.best_iteration]
    constant = [kind for kind in ("depth", "size") if best.get(kind, {}).get("is_constant")]
    note = f" Its {' and '.join(constant)} policy always chooses the same." if constant else ""
    return (
        f"{chain.name}: validation speedup on {', '.join(best['tasks'])} by iteration {speedups}; iteration "
        f"{chain.best_iteration} is used, the best static setting of the policies' sizes reaches "
        f"{best['static']['speedup']:.3f} there.{note}"
    )


def _target_rows(summary: dict[str, float]) -> pd.DataFrame:
    """Held-out loss, whole and without some of the blocks, and quality of the answers, one row a task."""
    removed = dict.fromkeys(key.split(".")[0] for key in summary if key.startswith(WITHOUT))
    names = {
        "held-out loss": "final_loss.",
        **{f"without {key.removeprefix(WITHOUT).replace('_', ' ')}": f"{key}." for key in removed},
        "well formed": "well_formed.",
        "copies the prompt": "faithful.",
        "ends in a loop": "loop.",
    }
    tasks = [key.removeprefix("final_loss.") for key in summary if key.startswith("final_loss.")]
    columns = {label: [summary.get(prefix + task) for task in tasks] for label, prefix in names.items()}
    return pd.DataFrame({"task": tasks} | columns)


def _named(machine: Mapping[str, Any]) -> str:
    """Device, threads and number type, as a latency profile has them."""
    where = f"{machine['device']} ({machine['device_type']})"
    return f"{where}, {machine['threads']} threads, {machine['dtype']}"


def what_was_run(results: Results) -> list[str]:
    """Model, machine and protocol, one line each."""
    facts, profile, machine = results.facts, results.profile, results.machine
    prompts = results.runs.groupby("task")["prompt"].nunique()
    counts = ", ".join(f"{task} {count}" for task, count in prompts.items())
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    temperatures = " and ".join(f"{temperature:g}" for temperature in results.temperatures)
    lines = [
        f"Machine: {_named(machine)}; {versions}.",
        f"Prompts: {counts}; {facts['repeats']} repeats, at most {facts['max_new_tokens']} new tokens, "
        f"temperature {temperatures}, seed {facts['seed']}, batch size 1, methods "
        "shuffled anew for every prompt.",
        f"Draft tree: beam {profile['beam']}, depth up to {profile['max_depth']}; eagle3 is depth "
        f"{facts['default']['depth']}, size {facts['default']['size']}.",
        f"Policies, grid and baselines have learned from {sampling.answers_learned_from(results)}.",
    ]
    if _named(machine) != _named(profile):
        lines.append(f"Policies, grid and baselines are for another machine: {_named(profile)}.")
    if count := facts["prompts_of_interrupted_run"]:
        lines.append(f"The benchmark was interrupted: {count} prompts are of an earlier run.")
    if "matrix_product_share" in profile:
        mean = results.summary[results.summary["task"] == MEAN_TASK].set_index(["source", "method"])
        rate = mean.loc[("measured", BASELINE), "tokens_per_second"]
        lines.append(
            f"Autoregressive decoding runs at {rate:.0f} tokens/s; matrix products are "
            f"{100 * profile['matrix_product_share']:.0f}% of its step."
        )
    if results.target is not None:
        lines.append(
            f"Target: {results.target['summary']['parameters'] / 1e6:.1f}M parameters, trained here."
        )
    return lines
