"""The pipeline on a user's own model and prompts: a Qwen3 folder and question files in EAGLE's format.

Up to a benchmark of one chain of policies; `test_reproduction` has the other chains, tuning and the report.
"""

import json

import pandas
import pytest

from engine_models import random_model
from ltd.files import read_json, write_json, write_jsonl
from ltd.target_training.tokenizer import train_tokenizer
from pipeline import snakemake

TASKS = ["mails", "sums"]
OBJECTS = ("invoice", "parcel", "password", "refund", "receipt", "address")


def questions(task):
    """Forty questions that a user might have put into a file."""
    for number in range(40):
        one, other = OBJECTS[number % 6], OBJECTS[number // 6 % 6]
        mail = f"Write mail {number}: the {one} is late, and I still wait for the {other}."
        yield mail if task == "mails" else f"What is {7 * number} plus {number * number}? Say it in a word."


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The experiment's folder after a run on a random Qwen3 model."""
    folder = tmp_path_factory.mktemp("own_model")
    for task in TASKS:
        rows = [{"question_id": number, "turns": [text]} for number, text in enumerate(questions(task))]
        write_jsonl(folder / f"questions/{task}.jsonl", rows)
    tokenizer = train_tokenizer([text for task in TASKS for text in questions(task)], 400)
    model = random_model("qwen3", vocab=len(tokenizer), layers=6, max_position_embeddings=2048)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    write_json(
        folder / "own.yaml",  # JSON is YAML
        {
            "experiment": "own",
            "target": {"path": str(folder / "model")},
            "prompts": {"path": str(folder / "questions"), "tasks": TASKS},
            "draft": {"draft_vocab_size": 200, "epochs": 1},
            "rl": {"train_tasks": TASKS, "rounds": 0},
            "benchmark": {
                "test_tasks": TASKS,
                "methods": ["autoregressive", "eagle3_grid", "ltd:paper"],
            },
        },
    )
    result = snakemake(folder, "benchmark", config=[folder / "own.yaml"])
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-5000:]
    return folder / "results/own"


def test_every_method_is_lossless_on_the_users_model(results):
    summary = pandas.read_csv(results / "benchmark/summary.csv")
    measured = summary[summary["source"] == "measured"]
    assert {"autoregressive", "eagle3_grid", "ltd:paper"} == set(measured["method"])
    assert set(TASKS) <= set(measured["task"])
    assert measured["lossless"].all()


def test_no_target_is_trained_and_the_head_is_made_for_the_users(results):
    assert not (results / "target").exists()
    model = read_json(results.parents[1] / "model/config.json")
    head = read_json(results / "draft/config.json")
    assert model["model_type"] == "qwen3"
    assert head["vocab_size"] == model["vocab_size"]


def test_policies_learn_from_the_users_train_split(results):
    splits = {split: (results / f"prompts/{split}/sums.jsonl") for split in ("train", "test")}
    turns = {
        split: {json.loads(line)["turns"][0] for line in path.read_text().splitlines()}
        for split, path in splits.items()
    }
    assert turns["train"] and turns["test"] and not turns["train"] & turns["test"]
