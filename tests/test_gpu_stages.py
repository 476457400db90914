"""On a real GPU: the stages before the first measurement, at toy size, each on what the one before wrote."""

import numpy as np
import pytest
import torch

from ltd import generate_responses, record_traces, train_draft, train_target, world
from ltd.files import read_json, write_jsonl
from ltd.replay.traces import Traces
from ltd.texts.responses import Responses

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")
DEVICE = "cuda"
TASKS = ("chat", "maths")


def flags(**options):
    """Command-line options, as the rules write them."""
    return [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", str(value))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A target trained on a few prompts, and its answers to others."""
    folder = tmp_path_factory.mktemp("experiment")
    for split, count in (("corpus", 60), ("validation", 4), ("train", 8)):
        for task in TASKS:
            rows = [row.as_row() for row in world.generate(task, split, count, seed=0)]
            write_jsonl(folder / "prompts" / split / f"{task}.jsonl", rows)
    common = {"experiment": folder, "device": DEVICE}
    shape = {"vocab_size": 640, "hidden_size": 128, "intermediate_size": 192, "start_layers": 2, "layers": 4}
    length = {"steps": 30, "grow_step": 10, "batch_rows": 4, "warmup_steps": 3, "checkpoint_every": 10}
    places = {"prompts": folder / "prompts", "output": folder / "target", "state": folder / "state/target"}
    train_target.main(flags(**common, **places, **shape, **length, held_out_count=2, sample_count=1))
    for split in ("train", "validation"):
        places = {"prompts": folder / "prompts" / split, "target": folder / "target"}
        places |= {"output": folder / f"{split}.safetensors", "state": folder / f"state/{split}"}
        generate_responses.main(flags(**common, **places, max_new_tokens=24))
    return folder


@pytest.fixture(scope="module")
def head(folder):
    """A head trained on the answers."""
    answers = {"responses": folder / "train.safetensors", "validation": folder / "validation.safetensors"}
    places = {"target": folder / "target", "output": folder / "draft", "state": folder / "state/draft"}
    shape = {"draft_vocab_size": 256, "unroll_steps": 4, "epochs": 3, "batch_rows": 256}
    train_draft.main(flags(experiment=folder, device=DEVICE, **answers, **places, **shape))
    return folder / "draft"


def traces_on(device, folder, head):
    output = folder / f"traces-{device}.safetensors"
    options = {"target": folder / "target", "draft": head, "responses": folder / "validation.safetensors"}
    shape = {
        "output": output,
        "state": folder / f"state/{device}",
        "beam": 3,
        "max_depth": 4,
        "dtype": "float32",
    }
    record_traces.main(flags(experiment=folder, device=device, **options, **shape))
    return Traces.load(output)


def test_training_lowers_the_loss_and_weights_are_of_bfloat16(folder):
    history = read_json(folder / "target/training.json")["history"]
    assert history[-1]["loss"] < history[0]["loss"]
    assert read_json(folder / "target/config.json")["dtype"] == "bfloat16"


def test_every_prompt_is_answered(folder):
    sequences = list(Responses.load(folder / "validation.safetensors").sequences())
    assert {sequence.task for sequence in sequences} == set(TASKS)
    assert all(1 <= len(sequence.answer) <= 24 for sequence in sequences)


def test_the_head_learns(head):
    epochs = read_json(head / "training.json")["epochs"]
    assert epochs[-1]["acceptance_length"] > epochs[0]["acceptance_length"]


def test_traces_are_those_of_the_cpu(folder, head):
    ours, theirs = (traces_on(device, folder, head) for device in (DEVICE, "cpu"))
    np.testing.assert_allclose(ours.scores[:, :3], theirs.scores[:, :3], rtol=1e-3, atol=1e-3)
    same = (ours.true_node == theirs.true_node).mean()
    assert same > 0.98  # but for near-ties
