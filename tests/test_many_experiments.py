"""What docs/many-machines.md promises: experiments in one DAG, the table across them, workers, processes."""

from pathlib import Path

import pandas as pd
import pytest
import yaml

from ltd import experiment_files
from ltd.errors import InputError
from ltd.overview import OverviewOptions, overview, verdicts
from pipeline import snakemake
from report_files import write_experiment

ROOT = Path(__file__).parents[1]


@pytest.fixture
def config(tmp_path):
    """The embedded default, and two experiments of it as files."""
    (tmp_path / "first.yaml").write_text("experiment: alpha\nseed: 1\nrl: {rounds: 1}\n")
    (tmp_path / "second.yaml").write_text("seed: 2\nbenchmark: {methods: [autoregressive, svip, ltd]}\n")
    return yaml.safe_load((ROOT / "config.yaml").read_text())


def configurations(config, *entries):
    return experiment_files.configurations(config | {"experiments": list(entries)}, ROOT / "workflow")


def test_files_stand_over_the_shared_configuration(config, tmp_path):
    found = configurations(config, f"{tmp_path}/first.yaml", f"{tmp_path}/first.yaml+{tmp_path}/second.yaml")
    assert list(found) == ["alpha", "first-second"]
    alpha, both = found.values()
    assert (alpha["experiment"], alpha["seed"], alpha["rl"]["rounds"]) == ("alpha", 1, 1)
    assert alpha["rl"]["sizes"] == config["rl"]["sizes"] and config["rl"]["rounds"] != 1
    assert (both["seed"], both["rl"]["rounds"], both["experiments"]) == (2, 1, [])
    assert both["benchmark"]["methods"] == ["autoregressive", "svip", "ltd"]


def test_experiments_of_the_workflow_are_known_by_name(config):
    found = configurations(config, "llama31-8b", "llama31-8b+mmlu", "qwen3-14b")
    assert list(found) == ["llama31-8b", "llama31-8b-mmlu", "qwen3-14b"]
    assert experiment_files.target_label(found["qwen3-14b"]).startswith("Qwen/Qwen3-14B")
    assert "virology" in found["llama31-8b-mmlu"]["prompts"]["tasks"]


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (["llama"], "'llama' is neither a file nor one of deepseek-r1-llama-8b"),
        (["first.yaml", "first.yaml"], "alpha is there already"),
        (["wrong.yaml"], "wrong.yaml: tree.max_dept: unknown key; did you mean max_depth?"),
        (["list.yaml"], "expected keys of config.yaml, found list"),
    ],
)
def test_wrong_entry_is_named(config, tmp_path, monkeypatch, entries, said):
    monkeypatch.chdir(tmp_path)
    Path("wrong.yaml").write_text("tree: {max_dept: 3}\n")
    Path("list.yaml").write_text("- a\n")
    with pytest.raises(InputError, match="experiments: ") as refusal:
        configurations(config, *entries)
    assert said in str(refusal.value) and "\n" not in str(refusal.value)


def test_dag_holds_every_experiment_and_limits_hold_for_the_rules_of_each(config, tmp_path):
    many = tmp_path / "many.yaml"
    many.write_text("experiments: [first.yaml, second.yaml]\n")
    result = snakemake(tmp_path, "--dry-run", "--set-resources", "tune:mem_mb=4321", config=[many])
    assert result.returncode == 0, result.stderr
    text = result.stdout + result.stderr
    counts = {words[0]: words[1] for line in text.splitlines() if len(words := line.split()) == 2}
    assert counts["alpha_train_policy_round"] == counts["second_train_policy_round"] == "3"
    assert counts["alpha_report"] == counts["second_report"] == counts["overview"] == counts["all"] == "1"
    assert "second_fit_baseline" in counts and "alpha_fit_baseline" not in counts
    assert "--output results/alpha/target" in text and "--output results/second/target" in text
    assert sum("resources:" in line and "mem_mb=4321" in line for line in text.splitlines()) == 2


def test_workers_of_a_study_are_jobs_and_processes_of_a_training_start_together(tmp_path):
    shared = tmp_path / "shared.yaml"
    shared.write_text("tune: {workers: 2}\ndraft: {processes: 2}\n")
    result = snakemake(tmp_path, "--dry-run", "tune", config=[shared])
    assert result.returncode == 0, result.stderr
    plan = result.stdout + result.stderr
    for worker in (0, 1):
        assert f"python -m ltd.tune --worker {worker} " in plan
        assert f"--output results/smoke/tuning-workers/{worker}.json --state results/smoke/state/tune" in plan
    assert "torch.distributed.run --standalone --nproc-per-node 2 -m ltd.train_draft " in plan
    counts = {words[0]: words[1] for line in plan.splitlines() if len(words := line.split()) == 2}
    assert (counts["tune_worker"], counts["tune"], counts["train_draft"]) == ("2", "1", "1")


def test_overview_compares_experiments(tmp_path):
    for name in ("plain", "other"):
        write_experiment(tmp_path / name)
    runs = pd.read_parquet(tmp_path / "other/benchmark/runs.parquet")
    # Where both take the same time, nothing is gained.
    slow = runs["method"] == "ltd"
    grid = runs[runs["method"] == "eagle3_grid"].set_index(["task", "prompt", "repeat"])["seconds"]
    keys = runs.loc[slow, ["task", "prompt", "repeat"]].itertuples(index=False)
    runs.loc[slow, "seconds"] = [grid[tuple(key)] for key in keys]
    runs.to_parquet(tmp_path / "other/benchmark/runs.parquet")
    overview(
        OverviewOptions(
            experiments=(tmp_path / "plain", tmp_path / "other"),
            targets=("a/b", "trained here"),
            heads=("c/d", "trained here"),
            output=tmp_path,
        )
    )
    table = pd.read_csv(tmp_path / "overview.csv").set_index("experiment")
    assert table.loc["plain", "over_grid"] == pytest.approx(1.6 / 1.4, rel=0.02)
    assert table.loc["plain", "over_grid_low"] > 1 and table.loc["other", "over_grid"] == pytest.approx(1)
    assert table.loc["plain", ["target", "head", "grid_depth", "grid_size"]].tolist() == ["a/b", "c/d", 2, 4]
    assert table.loc["plain", "oracle"] == pytest.approx(2.0, rel=0.03)
    text = (tmp_path / "overview.md").read_text()
    assert "ltd is faster than the best static setting on 1 of 2: plain." in text
    tie = "no difference beyond the intervals and the timing noise between ltd and the best static setting"
    assert f"{tie} on 1 of 2: other." in text


def test_experiment_without_the_methods_has_no_verdict(tmp_path):
    table = pd.DataFrame({"experiment": ["a"], "over_grid": [float("nan")], "over_grid_word": [""]})
    assert verdicts(table) == []
