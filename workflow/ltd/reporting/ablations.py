"""The report's sections on ablations: finding, table with the paper's values beside ours, figures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from ltd.files import read_json
from ltd.measurement.summary import MEAN_TASK
from ltd.methods import ORACLE, PAPER, SIZE_ALONE, TUNED, PolicyMethod, parse_method
from ltd.reporting import ablation_figures
from ltd.reporting.findings import markdown
from ltd.reporting.paper_ablations import TABLES, paper_overhead, paper_speedups

TITLES = {
    "components": "Components",
    "iterations": "Iterations of co-adaptation",
    "overhead": "Overhead of the policies",
    "rewards": "Rewards",
    "observations": "Observations",
    "networks": "Size of the size policy's network",
    "generalisation": "Trained on one task",
    "seeds": "Seeds",
}
CAPTIONS = {
    "iterations": "Speedup (replay) by iteration, mean of the tasks; bars hold 95%. Right: the paper's.",
    "generalisation": "Throughput over that of the best static setting, by task; bars hold 95%.",
}


@dataclass(frozen=True)
class Ablation:
    """One ablation as `ltd.evaluate_ablation` wrote it."""

    name: str
    table: pd.DataFrame
    facts: dict[str, Any]

    @property
    def kind(self) -> str:
        """Its name without the base."""
        return self.name.removesuffix(f"-{PAPER}")

    @property
    def means(self) -> pd.DataFrame:
        """The rows of the tasks' mean, by method, the oracle last."""
        return self.table[self.table["task"] == MEAN_TASK].set_index("method")


def read_ablations(experiment: Path, names: tuple[str, ...]) -> list[Ablation]:
    """Read ablations by name; raises InputError when one is not there."""
    folder = experiment / "ablations"
    return [
        Ablation(name, facts=read_json(folder / f"{name}.json"), table=pd.read_csv(folder / f"{name}.csv"))
        for name in names
    ]


def draw(ablations: list[Ablation]) -> dict[str, Figure]:
    """The figures of those ablations that have one, by file name."""
    drawn = {}
    for ablation in ablations:
        if ablation.kind == "iterations":
            paper = paper_speedups("iterations")
            drawn[figure_name(ablation)] = ablation_figures.iterations_figure(ablation.means, paper)
        if ablation.kind == "generalisation":
            drawn[figure_name(ablation)] = ablation_figures.generalisation_figure(ablation.table)
    return drawn


def figure_name(ablation: Ablation) -> str:
    """File name of an ablation's figure, without suffix."""
    return f"ablation_{ablation.name}"


def sections(ablations: list[Ablation]) -> list[str]:
    """Markdown of all ablations, a section each."""
    if not ablations:
        return []
    temperature = ablations[0].facts["temperature"]
    answers = f"answers, sampled at temperature {temperature:g}," if temperature else "answers"
    texts = [
        "## Ablations",
        f"In replay: all methods walk the recorded {answers} to the test prompts under the latency profile "
        "that the policies learned from, each charged with what its own networks take. (Replay beside the "
        "clock has times of the benchmark's own minutes.) Speedups are over autoregressive decoding; `gap %` "
        "is the part of the way from the best static setting to the oracle; intervals are 95% of paired "
        "resamples of prompts, not corrected for their number. A variant is one training: how far seeds of "
        "the same training lie apart is not in its interval, and the ablation `seeds` tells.",
    ]
    return texts + [part for ablation in ablations for part in _section(ablation)]


def _section(ablation: Ablation) -> list[str]:
    tables = TABLES.get(ablation.kind, ())
    label = f"table{'s' * (len(tables) > 1)} {' and '.join(map(str, tables))}"
    title = TITLES[ablation.kind] + (", the paper's formulation" if ablation.kind != ablation.name else "")
    parts = [f"### {title}" + f" (the paper's {label})" * bool(tables), ablation.facts["finding"]]
    if any(method and method.is_size_alone for method in map(policies_of, ablation.means.index)):
        parts.append("As in the paper, the size policy alone is trained and decodes at one depth.")
    elif ablation.kind in SIZE_ALONE:
        parts.append("The paper's columns are of its size policy alone, ours of whole pairs.")
    if ablation.kind == "overhead":
        parts.append(markdown(overhead_rows(ablation), dict.fromkeys(("depth %", "size %", "both %"), ".2f")))
    else:
        rows = main_rows(ablation)
        formats = {column: ".2f" for column in rows.columns if not isinstance(rows[column].iloc[0], str)}
        parts.append(markdown(rows, formats | {"gap %": ".0f", "size": ".1f"}))
    if ablation.kind in CAPTIONS:
        caption = CAPTIONS[ablation.kind]
        parts.append(f"![{caption}]({figure_name(ablation)}.svg)\n\n*{caption}*")
    return parts


def main_rows(ablation: Ablation) -> pd.DataFrame:
    """One row a method: the mean of the tasks, and the paper's speedups of the same variant."""
    means = ablation.means
    reference = ablation.facts["reference"]
    rows = pd.DataFrame(
        {
            "method": [f"{name} (bound)" if name == ORACLE else name for name in means.index],
            "speedup": _with_interval(means, "speedup", 2),
            f"against {reference}": _with_interval(means, "ratio", 3),
            "gap %": (100 * means["gap_share"]).to_numpy(),
            "acceptance length": means["acceptance_length"].to_numpy(),
            "depth": means["mean_depth"].to_numpy(),
            "size": means["mean_size"].to_numpy(),
        }
    )
    paper = paper_speedups(ablation.kind)
    methods = map(policies_of, means.index)
    variants = [method and method.variant for method in methods]
    for model in paper.columns:
        rows[f"paper, {model}"] = paper[model].reindex(variants).to_numpy()
    return rows


def policies_of(name: str) -> PolicyMethod | None:
    """The policies that a row of a table is about; None for a method that is none."""
    return parse_method(name) if name.partition(":")[0] == TUNED else None


def _with_interval(rows: pd.DataFrame, column: str, digits: int) -> list[str]:
    ends = zip(rows[column], rows[f"{column}_low"], rows[f"{column}_high"], strict=True)
    return [f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})" for value, low, high in ends]


def overhead_rows(ablation: Ablation) -> pd.DataFrame:
    """Shares of both policies: ours in replay and live, and the paper's."""
    shares = ablation.means[["depth_policy_share", "size_policy_share"]] * 100
    shares = shares[[policies_of(name) is not None for name in shares.index]].set_axis(
        ["depth", "size"], axis=1
    )
    ours = [(f"{m} (replay)", d, s, d + s) for m, d, s in shares.itertuples()]
    live = ablation.facts["measured_policy_share"]
    nothing = float("nan")
    ours += [(f"{m} (live)", nothing, nothing, 100 * live[m]) for m in shares.index if m in live]
    paper = [(f"paper, {model}", *rest) for model, *rest in paper_overhead().itertuples(index=False)]
    return pd.DataFrame(ours + paper, columns=["policies", "depth %", "size %", "both %"])
