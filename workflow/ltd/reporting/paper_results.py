"""The paper's own numbers, and which of its names stand for ours.

Its five targets are 8B to 32B models on an A100; they stand beside our numbers for orientation, not as the
same measurement. What can be compared is the order of methods and the ratio of one to another.
"""

from pathlib import Path

import pandas as pd

DATA = Path(__file__).parent / "paper_results.csv"
SOURCE = "Zhang et al., Learning to Draft, ICLR 2026, arXiv 2603.01639"
TASKS = {"mt_bench": "chat", "gsm8k": "maths", "alpaca": "instructions", "qa": "qa", "mean": "mean"}
# Further names of tasks that hold the paper's data sets.
ALIASES = {"mt_bench": "chat", "gsm8k": "maths", "alpaca": "instructions", "nq": "qa"}
METHODS = {"eagle3_gs": "eagle3_grid", "ltd": "ltd:paper"}
# Table 1 is temperature 0, table 5 temperature 1; both compare all methods on all tasks.
MAIN_TABLES = {0.0: 1, 1.0: 5}


def main_table(temperature: float) -> pd.DataFrame:
    """Return the paper's comparison of methods in our names: model, method, task, speedup, acceptance_length.

    Empty for a temperature at which the paper has no table.
    """
    rows = pd.read_csv(DATA, comment="#")
    rows = rows[rows["table"] == MAIN_TABLES.get(temperature, -1)]
    renamed = rows.assign(task=rows["task"].map(TASKS), method=rows["method"].replace(METHODS))
    return renamed[["model", "method", "task", "speedup", "acceptance_length"]].reset_index(drop=True)


def ratio_to_grid(temperature: float) -> pd.Series:
    """Return, per model, what the paper's policies gain over the best static setting, mean of its tasks."""
    rows = main_table(temperature)
    rows = rows[rows["task"] != "mean"]
    table = rows.pivot(index=["model", "task"], columns="method", values="speedup")
    if table.empty:
        return pd.Series(dtype=float)
    return (table["ltd:paper"] / table["eagle3_grid"]).groupby("model").mean()
