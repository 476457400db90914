"""The paper's ablations under the names of our variants.

In its tables of rewards, observations and networks the paper varies the size policy alone, at depth 8; so do
the variants over its formulation. Those of `ltd` are whole pairs, trained anew.
"""

import pandas as pd

from ltd.reporting.paper_results import DATA

OVERHEAD = DATA.with_name("paper_overhead.csv")
# Ablation -> the paper's tables, and our variant (empty: the base) -> the paper's row.
TABLES = {
    "components": (4,),
    "iterations": (7, 8),
    "overhead": (9,),
    "rewards": (2,),
    "observations": (6,),
    "networks": (10,),
}
ROWS = {
    "components": {
        "": "ltd",
        "no-depth": "ltd without depth policy",
        "no-size": "ltd without size policy",
        "iteration-0": "ltd without iterative training",
    },
    "iterations": {f"iteration-{number}": f"iter{number}" for number in range(4)},
    "rewards": {f"reward-{kind}": f"reward={kind}" for kind in ("throughput", "acceptance", "time")},
    "observations": {
        "observe-scores-length": "obs=P+L",
        "observe-scores-depth": "obs=P+D",
        "observe-scores-depth-length": "obs=P+D+L",
        "observe-scores-depth-length-entropy": "obs=P+D+L+E",
        "observe-scores-depth-length-hidden": "obs=P+D+L+H",
    },
    "networks": {
        "network-1024": "size net [1024]",
        "network-1024-256": "size net [1024,256]",
        "network-1024-512-256": "size net [1024,512,256]",
    },
}


def paper_speedups(ablation: str) -> pd.DataFrame:
    """The paper's mean speedups: a row a variant of ours, a column a model; empty where it has no table."""
    rows = pd.read_csv(DATA, comment="#")
    rows = rows[rows["table"].isin(TABLES.get(ablation, ())) & (rows["task"] == "mean")]
    names = {theirs: ours for ours, theirs in ROWS.get(ablation, {}).items()}
    rows = rows.assign(variant=rows["method"].map(names)).dropna(subset="variant")
    return rows.pivot(index="variant", columns="model", values="speedup")


def paper_overhead() -> pd.DataFrame:
    """Per cent of the generation time: model, depth_policy, size_policy, both."""
    return pd.read_csv(OVERHEAD, comment="#").drop(columns="table")
