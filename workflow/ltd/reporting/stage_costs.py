"""Time, memory and disk of every stage, from Snakemake's benchmark files and the folders of results."""

from pathlib import Path

import pandas as pd

# Which stage a folder of results comes from; stages without files of their own share one with another.
# The report, which writes this, has no time yet: its folder counts with the walk through one answer.
FOLDERS = {
    "prepare_prompts": "prompts",
    "train_target": "target",
    "generate_responses": "responses",
    "train_draft": "draft",
    "profile_latency": "latency",
    "record_traces": "traces",
    "train_policy": "policies",
    "tune": "tuning",
    "fit_baselines": "baselines",
    "fit_opponents": "opponents",
    "fit_lookup": "lookup",
    "record_lookup": "lookup-traces",
    "transfer": "transfer",
    "benchmark": "benchmark",
    "evaluate_ablation": "ablations",
    "walk_answer": "report",
}


def stage_costs(experiment: Path) -> pd.DataFrame:
    """One row a stage, in the order in which they finished: jobs, minutes, peak memory and disk, both in MB.

    A stage's jobs are those of its benchmark files `<stage>.tsv` and `<stage>-<which>.tsv`, where <which> may
    have folders; minutes are their sum. The last row is the whole: its minutes are a sum too, more than the
    wait where jobs ran side by side.
    """
    rows: dict[str, dict[str, object]] = {}
    measured = experiment / "benchmarks"
    for file in sorted(measured.rglob("*.tsv"), key=lambda path: path.stat().st_mtime):
        stage = file.relative_to(measured).with_suffix("").as_posix().split("-")[0]
        job = pd.read_csv(file, sep="\t", na_values="-").iloc[-1]
        row = rows.setdefault(stage, {"stage": stage, "jobs": 0, "minutes": 0.0, "peak memory (MB)": 0.0})
        row["jobs"] += 1
        row["minutes"] += job["s"] / 60
        row["peak memory (MB)"] = max(row["peak memory (MB)"], job["max_rss"])
    for stage, folder in FOLDERS.items():
        if stage in rows:
            rows[stage]["disk (MB)"] = folder_megabytes(experiment / folder)
    columns = ["stage", "jobs", "minutes", "peak memory (MB)", "disk (MB)"]
    table = pd.DataFrame(rows.values(), columns=columns)
    if table.empty:
        return table
    whole = {
        "stage": "all",
        "jobs": table["jobs"].sum(),
        "minutes": table["minutes"].sum(),
        "peak memory (MB)": table["peak memory (MB)"].max(),
        "disk (MB)": folder_megabytes(experiment),
    }
    return pd.concat([table, pd.DataFrame([whole])], ignore_index=True)


def folder_megabytes(folder: Path) -> float:
    """Size of all files below a folder in MB (10^6 bytes)."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
