"""Where the report's numbers come from: for every output the commit that made it and its run in MLflow."""

from collections import defaultdict
from collections.abc import Sequence

import pandas as pd

from ltd.reporting.findings import markdown
from ltd.tracking import FinishedStage

# Outputs of a stage that have a row each; more of them share one.
MOST_ROWS = 6
INTRODUCTION = (
    "Files are in the experiment's folder, under the output's name. The command that made one is its stage, "
    "`python -m ltd.<stage>`, with the parameters of its run as options; `snakemake --cores all -R <stage>` "
    "makes it again, and everything that depends on it (`train_policies` for every `train_policy`, "
    "`benchmark` for `join_benchmark`)."
)


def provenance(stages: Sequence[FinishedStage]) -> list[str]:
    """The section, in Markdown; none where nothing was tracked."""
    if not stages:
        return []
    return ["## Where it comes from", INTRODUCTION, markdown(provenance_rows(stages))]


def provenance_rows(stages: Sequence[FinishedStage]) -> pd.DataFrame:
    """A row an output, in the order in which they were made; stages with many outputs have one for all."""
    by_stage: dict[str, list[FinishedStage]] = defaultdict(list)
    for stage in stages:
        by_stage[stage.stage].append(stage)
    rows = []
    for name, runs in by_stage.items():
        if len(runs) <= MOST_ROWS:
            outputs = [run.name.removeprefix(name).strip() for run in runs]
            rows += [
                (name, output, run.commit, run.day, run.run_id)
                for output, run in zip(outputs, runs, strict=True)
            ]
        else:
            commits, days = ({run.commit for run in runs}, {run.day for run in runs})
            shown = f"`tags.stage = '{name}'`"
            rows.append((name, f"{len(runs)} outputs", ", ".join(sorted(commits)), max(days), shown))
    return pd.DataFrame(rows, columns=["stage", "output", "commit", "day", "MLflow run"])
