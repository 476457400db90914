"""Write the report: what was run, tables, figures, and sentences of finding generated from the numbers.

Reads the files of the experiment's folder and computes nothing new but ratios and intervals. Parts whose
files an experiment does not have (a target that was not trained here, say) are left out.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from ltd.errors import InputError
from ltd.files import atomic_path
from ltd.measurement.summary import GREEDY, gap_shares, metric_label
from ltd.methods import ORACLE, TUNED
from ltd.options import StageOptions, option, run_stage
from ltd.reporting import ablations, figures, findings, sampling, training_figures, transfer
from ltd.reporting.provenance import provenance
from ltd.reporting.results import Results
from ltd.reporting.speedup_figure import speedup_figure
from ltd.reporting.text import write_report
from ltd.tracking import StageRun


@dataclass(frozen=True, kw_only=True)
class ReportOptions(StageOptions):
    """Options of the report."""

    output: Path = option(help="folder of report.md, summary.txt and the figures")
    ablations: tuple[str, ...] = option((), "ablations to show, as evaluated")
    machines: tuple[str, ...] = option((), "machines whose transfer to show, as evaluated")


def report(options: ReportOptions, run: StageRun) -> None:
    """The stage: figures, report.md, and the main table as text for the terminal."""
    results = Results.load(options.experiment)
    shown = ablations.read_ablations(options.experiment, options.ablations)
    moves = transfer.read_moves(options.experiment, options.machines)
    with figures.style():
        drawn = draw(results) | ablations.draw(shown) | transfer.draw(moves)
        for name, figure in drawn.items():
            figures.save(figure, options.output, name)
            run.figure(figure, f"{name}.png")
    sections = ablations.sections(shown) + transfer.sections(moves)
    sources = provenance(run.finished_stages())
    text = write_report(results, options.experiment, set(drawn), sections, sources)
    for name, content in (("report.md", text), ("summary.txt", summary_text(results))):
        with atomic_path(options.output / name) as temporary:
            temporary.write_text(content + "\n", encoding="utf-8")
    run.artifact(options.output / "report.md")
    run.outcome(outcome(results), options.output)


def summary_text(results: Results) -> str:
    """The main table and what in it is a tie; where methods have learned from sampled answers, named with its
    temperature and followed by the same at theirs, where that was decoded.
    """
    sampled = results.learned_at != GREEDY
    parts = []
    if sampled:
        answers = sampling.answers_learned_from(results)
        parts.append(f"Policies, grid and baselines have learned from {answers}.")
    for decoded in results.ranked:
        parts += [f"Temperature {decoded.temperature:g}:"] * sampled
        parts.append(findings.main_rows(decoded.summary).round(2).to_string(index=False))
        parts.append(findings.noise_sentence(decoded.noise))
    return "\n\n".join(parts)


def outcome(results: Results) -> dict[str, float]:
    """What reproductions are compared by, under the names that MLflow shows on the parent run.

    `speedup/<method>/<task>` and `acceptance_length/<method>/<task>` of what was decoded, `gap_share/...` of
    what was replayed; every task and the mean, at every temperature.
    """
    summary = pd.concat([results.summary, *(part.summary for part in results.sampled)])
    measured, shares = summary[summary["source"] == "measured"], gap_shares(summary)
    tables = {"speedup": measured, "acceptance_length": measured, "gap_share": shares}
    return {
        f"{name}/{metric_label(row.method, row.task, row.temperature)}": getattr(row, name)
        for name, table in tables.items()
        for row in table.dropna(subset=name).itertuples()
    }


def draw(results: Results) -> dict[str, Figure]:
    """Make every figure that the results allow, by name."""
    cycles, summary = results.cycles, results.summary
    drawn = {
        "speedups": speedup_figure(summary),
        "composition": figures.composition_figure(summary),
        "latency": figures.latency_figure(results.profile),
        "lengths": figures.lengths_figure(plane(results.grid)),
    }
    learned = cycles[cycles["method"] == TUNED]
    if len(learned):
        oracle = results.oracle if ORACLE in set(summary["method"]) else None
        # A shallow draft may have fewer nodes than the policy asks for.
        verified = learned.assign(size=learned["verified"])
        drawn["tradeoff"] = figures.tradeoff_figure(plane(results.grid), verified, oracle)
        drawn["choices"] = figures.choices_figure(learned, TUNED)
    if results.head is not None and "best" in results.head:
        drawn["acceptance"] = training_figures.acceptance_figure(results.head)
    if results.target is not None:
        drawn["target_loss"] = training_figures.loss_figure(results.target["history"])
    for chain in results.chains:
        drawn[f"policies_{chain.name}"] = training_figures.policy_figure(chain)
    if results.chains:
        drawn["iterations"] = training_figures.iteration_figure(results.chains)
    return drawn


def plane(grid: dict[str, Any]) -> pd.DataFrame:
    """Every static setting of the grid search in replay: depth, size, speedup, acceptance_length."""
    best = grid["grids"][0]
    if "acceptance_length" not in best:
        raise InputError(
            "grid.json: made by an earlier version; make it again with snakemake --cores all -R grid_search"
        )
    plain = best["bounds"]["autoregressive"]["overall"]

    def column(name: str) -> pd.Series:
        table = pd.DataFrame(best[name], index=best["depths"], columns=best["sizes"])
        return table.stack().rename_axis(["depth", "size"])

    columns = {
        "speedup": column("tokens_per_second") / plain,
        "acceptance_length": column("acceptance_length"),
    }
    return pd.DataFrame(columns).reset_index()


def main(argv: list[str] | None = None) -> None:
    """Run the stage from the command line."""
    run_stage("report", ReportOptions, report, __doc__, argv)


if __name__ == "__main__":
    main()
