"""GPU stages start, train a head to the end and decode with policies without the packages of the pipeline."""

import os
import subprocess
import sys
from pathlib import Path

import ltd
from saved_engine import save_engine
from saved_experiment import made_up_world, random_policies
from test_train_draft import inputs  # noqa: F401 (a fixture)

STAGES = (
    "profile_latency",
    "record_traces",
    "generate_responses",
    "train_draft",
    "import_draft",
    "benchmark_engine",
    "generate",
)
ABSENT = (
    "mlflow",
    "snakemake",
    "matplotlib",
    "optuna",
    "stable_baselines3",
    "gymnasium",
    "jsonschema",
    "psutil",
)
ABSENT += ("numba", "datasets", "psycopg2")
TABLES = ("pandas", "pyarrow")  # what the benchmark writes

HELP = """
import importlib, sys
for name in {absent}:
    sys.modules[name] = None
for stage in {stages}:
    try:
        importlib.import_module("ltd." + stage).main(["--help"])
    except SystemExit as end:
        print("after", stage, end.code)
"""
RUN = """
import runpy, sys
for name in {absent}:
    sys.modules[name] = None
sys.argv = {command}
runpy.run_module("ltd." + sys.argv[0], run_name="__main__")
"""


def run(code):
    environment = os.environ | {"PYTHONPATH": str(Path(ltd.__file__).parents[1])}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


def test_every_gpu_stage_starts_without_them():
    ended = run(HELP.format(absent=ABSENT + TABLES, stages=STAGES))
    assert ended.returncode == 0, ended.stderr
    said = [line for line in ended.stdout.splitlines() if line.startswith("after ")]
    assert said == [f"after {stage} 0" for stage in STAGES]
    ended = run(HELP.format(absent=ABSENT, stages=("benchmark",)))
    assert "after benchmark 0" in ended.stdout, ended.stderr


def test_a_head_is_trained_without_them(inputs, tmp_path):  # noqa: F811
    command = ["train_draft", "--experiment", tmp_path, "--target", inputs / "target", "--device", "cpu"]
    command += [
        "--responses",
        inputs / "train.safetensors",
        "--validation",
        inputs / "validation.safetensors",
    ]
    command += ["--output", tmp_path / "draft", "--state", tmp_path / "state", "--draft-vocab-size", 40]
    command += ["--unroll-steps", 2, "--epochs", 1, "--batch-rows", 200]
    ended = run(RUN.format(absent=ABSENT + TABLES, command=list(map(str, command))))
    assert ended.returncode == 0, ended.stderr
    assert {file.name for file in (tmp_path / "draft").iterdir()} == {
        "config.json",
        "model.safetensors",
        "training.json",
    }


def test_policies_decode_without_them(tmp_path):
    """On a CPU, where Numba alone is needed."""
    save_engine(tmp_path)
    random_policies(tmp_path / "policies/ltd/best", made_up_world())
    absent = [name for name in ABSENT + TABLES if name != "numba"]
    command = ["generate", "--experiment", str(tmp_path), "--prompt", "w3", "--max-new-tokens", "12"]
    ended = run(RUN.format(absent=absent, command=[*command, "--device", "cpu", "--threads", "1"]))
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() and ended.stderr.rstrip().endswith(", the same tokens")
