"""The whole pipeline at toy size, through Snakemake, as a user runs it: killed four times on its way."""

import json
import re

import mlflow
import pandas
import pytest
import torch

from ltd import made_with
from ltd.engine.controllers import StaticController
from ltd.engine.decoding import decode
from ltd.engine.loading import load_engine
from ltd.files import read_json
from ltd.generate import encode
from ltd.tracking import git_commit
from pipeline import killed, snakemake

STAGES = {
    "prepare_prompts",
    "train_target",
    "generate_responses",
    "train_draft",
    "profile_latency",
    "record_traces",
    "train_policy",
    "tune",
    "benchmark",
    "report",
}


# Of every stage that can be resumed: what it keeps once there is something to go on from, and its output.
CHECKPOINTS = {
    "train_draft": ("state/train_draft/checkpoint.pt", "draft/model.safetensors"),
    "train_policy": (
        "state/train_policy-default-initial-depth/state.json",
        "policies/default/initial/depth",
    ),
    "tune": ("state/tune/journal.log", "tuning/best.json"),
    "benchmark": ("state/benchmark-t0/00000.json", "benchmark/t0/summary.csv"),
}


def resumable(file):
    """Whether a checkpoint is there; a study's journal counts from its first finished trial.

    A journal whose writer died with the lock in its hands is readable, but only after half a minute.
    """
    if not file.is_file():
        return False
    if file.suffix != ".log":
        return True
    return '"state":1' in file.read_text() and not file.with_name(f"{file.name}.lock").exists()


@pytest.fixture(scope="module")
def reproduction(tmp_path_factory):
    """A folder in which the pipeline has run: killed in every stage of `CHECKPOINTS`, then taken up again."""
    folder = tmp_path_factory.mktemp("reproduction")
    results = folder / "results/smoke"
    for stage, (checkpoint, output) in CHECKPOINTS.items():
        # Only the last one leaves a lock behind: unlocking takes as long as a small stage.
        lock = () if stage == "benchmark" else ("--nolock",)
        killed(folder, lambda file=results / checkpoint: resumable(file), *lock)
        assert not (results / output).exists(), stage
    unlocked = snakemake(folder, "--unlock")
    assert unlocked.returncode == 0, unlocked.stderr
    result = snakemake(folder)
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-5000:]
    return folder


@pytest.fixture(scope="module")
def results(reproduction):
    """The experiment's folder."""
    return reproduction / "results/smoke"


def test_every_method_is_measured_and_lossless(results):
    summary = pandas.read_csv(results / "benchmark/summary.csv")
    measured = summary[summary["source"] == "measured"]
    assert {"autoregressive", "eagle3", "eagle3_grid", "ltd:paper", "ltd"} <= set(measured["method"])
    assert measured["lossless"].all()
    assert "oracle" in set(summary.loc[summary["source"] == "replay", "method"])


def test_the_trained_models_decode_losslessly_in_float32(results):
    """Whatever number type they were measured in: in this one plain transformers computes the same."""
    models, sizes = (results / "target", results / "draft"), {"beam": 4, "max_depth": 4}
    target, drafter = load_engine(*models, **sizes, device="cpu", dtype="float32")
    prompts = [line for file in (results / "prompts/test").glob("*.jsonl") for line in file.open()]
    assert prompts
    for prompt in prompts:
        ids = encode(target.tokenizer, json.loads(prompt)["turns"][0])
        answer = target.model.generate(torch.tensor([ids]), max_new_tokens=32, do_sample=False)
        result = decode(target, drafter, StaticController(4, 16), ids, max_new_tokens=32)
        assert ids + result.tokens == answer[0].tolist()


def test_parts_of_a_cycle_add_up_to_the_wall_time(results):
    cycles = pandas.read_parquet(results / "benchmark/cycles.parquet")
    wall = pandas.read_parquet(results / "benchmark/runs.parquet")["seconds"].sum()
    parts = cycles[["draft_ms", "verify_ms", "policy_ms", "rest_ms"]].to_numpy()
    assert (parts >= 0).all()
    assert parts.sum() / 1000 == pytest.approx(wall, rel=0.02)
    assert (cycles["verified"] <= cycles["size"]).all()


def test_report_shows_every_measured_method(results):
    report = (results / "report/report.md").read_text()
    for method in ("autoregressive", "eagle3_grid", "ltd:paper", "oracle"):
        assert method in report
    sources = report.split("## Where it comes from")[1]
    for output in ("train_draft | draft", "profile_latency | latency/profile", "benchmark | benchmark/t0"):
        assert f"| {output} | {git_commit()} |" in sources


def test_mlflow_holds_one_parent_and_every_stage(reproduction, results):
    mlflow.set_tracking_uri(f"sqlite:///{reproduction}/results/mlflow.db")
    runs = mlflow.search_runs(experiment_names=["smoke"])
    parents = runs[runs["tags.stage"] == "reproduction"]
    assert len(parents) == 1 and parents.iloc[0]["status"] == "FINISHED"
    children = runs[runs["tags.mlflow.parentRunId"] == parents.iloc[0]["run_id"]]
    assert set(children["tags.stage"]) >= STAGES
    assert set(children["status"]) == {"FINISHED", "KILLED"}
    assert set(children.loc[children["status"] == "KILLED", "tags.stage"]) >= set(CHECKPOINTS)
    finished = children.loc[children["status"] == "FINISHED", "tags.stage_name"]
    assert set(finished) == set(children["tags.stage_name"])
    assert json.loads((results / "mlflow_parent.json").read_text())["run_id"] == parents.iloc[0]["run_id"]


def test_mlflow_holds_curves_figures_speedups_and_where_they_come_from(reproduction, results):
    mlflow.set_tracking_uri(f"sqlite:///{reproduction}/results/mlflow.db")
    client = mlflow.MlflowClient()
    runs = mlflow.search_runs(experiment_names=["smoke"], filter_string="attributes.status = 'FINISHED'")
    ids = runs.set_index("tags.mlflow.runName")["run_id"]

    def history(name, metric):
        return [point.value for point in client.get_metric_history(ids[name], metric)]

    def files(name):
        return {file.path for file in client.list_artifacts(ids[name])}

    draft, policy = "train_draft draft", "train_policy policies/ltd/initial/depth"
    losses = history("train_target target", "loss")
    assert len(losses) == 30 and losses[-1] < losses[0]  # target.steps
    for step in range(1, 5):  # tree.max_depth
        assert 0 <= history(draft, f"validation/mean/acceptance_step_{step:02d}")[-1] <= 1
    for metric in ("depth.reward", "depth.speedup"):
        assert len(history(policy, metric)) > 1
    summary = pandas.read_csv(results / "benchmark/summary.csv").set_index(["source", "method", "task"])
    speedup = summary.loc[("measured", "ltd", "mean"), "speedup"]
    parent = runs.loc[runs["tags.stage"] == "reproduction"].iloc[0]
    assert parent["metrics.speedup/ltd/mean"] == pytest.approx(speedup)
    assert history("benchmark benchmark/t0", "speedup/ltd/mean") == [pytest.approx(speedup)]
    assert "acceptance.png" in files(draft) and "depth_training.png" in files(policy)
    assert {"tradeoff.png", "acceptance.png", "target_loss.png"} <= files("report report")
    assert "summary.json" in files("generate_responses responses/test-t0")
    assert "summary.json" in files("record_traces traces/test-t0-w4")
    assert set(runs["tags.config_hash"]) == {read_json(results / "mlflow_parent.json")["config_hash"]}
    assert set(runs["tags.git_commit"]) == {git_commit()}


def test_html_report_holds_every_figure(reproduction, results):
    made = snakemake(reproduction, "--report", "results/smoke/report.html")
    assert made.returncode == 0, made.stdout + made.stderr
    page = (results / "report.html").read_text()
    figures = {file.name for file in (results / "report").glob("*.svg")}
    assert {"acceptance.svg", "target_loss.svg", "tradeoff.svg"} <= figures
    for name in (*figures, "answer.html", "report.md", "summary.csv"):
        assert name in page, name


def test_a_whole_run_keeps_its_configuration(results):
    assert (results / made_with.FILE).is_file() and not (results / made_with.UNFINISHED).exists()
    assert made_with.kept(results)["experiment"] == results.name


def test_finished_run_has_nothing_left_to_do(reproduction):
    assert "Nothing to be done" in snakemake(reproduction, "--dry-run").stdout


def test_another_temperature_decodes_at_that_one_alone(reproduction, tmp_path):
    further = tmp_path / "further.yaml"
    further.write_text("benchmark: {temperatures: [0, 1]}\n")
    result = snakemake(reproduction, "--dry-run", config=[further])
    text = result.stdout + result.stderr
    counts = {words[0]: words[1] for line in text.splitlines() if len(words := line.split()) == 2}
    for rule in ("generate_responses_of_split", "record_traces_of_split", "benchmark_at_temperature"):
        assert counts[rule] == "1", text[-3000:]
    assert text.count("--temperature 1 ") == 2 and "--output results/smoke/benchmark/t1 " in text
    joined = {"benchmark", "evaluate_ablation", "walk_answer", "report", "all"}
    assert joined <= set(counts) and counts["total"] == "8"


def test_typo_stops_before_any_work(reproduction, tmp_path):
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("rl: {learning_rat: 0.1}\n")
    result = snakemake(reproduction, config=[wrong])
    assert result.returncode != 0
    assert "config: rl.learning_rat: unknown key; did you mean learning_rate?" in result.stderr


def test_killed_stages_went_on_from_their_checkpoints(reproduction, results):
    draft = (results / "logs/train_draft.log").read_text()
    assert "epoch 1/2" not in draft and "epoch 2/2" in draft
    policy = (results / "logs/train_policy-default-initial-depth.log").read_text()
    assert re.search(r"\| 0/[12] \[", policy) and "| 0/3 [" not in policy  # one or two of three were kept
    study = (results / "logs/tune.log").read_text()
    assert "trial 0 of 2" not in study and "of 2: complete" in study
    trials = pandas.read_csv(results / "tuning/trials.csv")
    assert trials.loc[0, "state"] == "COMPLETE" and set(trials.loc[1:, "state"]) <= {"COMPLETE", "FAIL"}
    assert read_json(results / "benchmark/benchmark.json")["prompts_of_interrupted_run"] >= 1
