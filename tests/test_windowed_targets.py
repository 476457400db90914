"""Stages that read a target's own answers load it whatever its window."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from engine_models import VOCAB, random_head, random_model
from ltd.draft_head.eagle3 import save_head
from ltd.engine.decoding import decode_autoregressive
from ltd.engine.target import TargetModel
from ltd.import_draft import ImportDraftOptions, import_draft
from ltd.record_traces import RecordTracesOptions, record_traces
from ltd.replay.traces import Traces
from ltd.texts.responses import Responses, Sequence
from ltd.tracking import StageRun

WINDOW = 32


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folders of a target with a narrow window and of a head, with an answer that fills the window."""
    folder = tmp_path_factory.mktemp("windowed")
    model = random_model("mistral", sliding_window=WINDOW)
    model.save_pretrained(folder / "target")
    words = Tokenizer(WordLevel({f"w{index}": index for index in range(VOCAB)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder / "target")
    target = TargetModel(model, max_context=WINDOW)
    save_head(random_head(target), folder / "draft")
    prompt = torch.tensor([3, 4, 5])
    answer = torch.tensor(decode_autoregressive(target, prompt, max_new_tokens=WINDOW - 3).tokens)
    sequence = Sequence(torch.cat([prompt, answer]), 3, "chat", 0, 0)
    responses = folder / "responses.safetensors"
    Responses.from_sequences([sequence]).save(responses)
    return {"target": str(folder / "target"), "draft": folder / "draft", "responses": responses}


def test_traces_are_recorded(saved, tmp_path):
    made = {"output": tmp_path / "traces.safetensors", "state": tmp_path / "state"}
    tree = {"beam": 3, "max_depth": 4, "device": "cpu"}
    record_traces(RecordTracesOptions(**saved, **made, **tree), StageRun())
    assert len(Traces.load(made["output"])) == WINDOW - 3 - 1


def test_heads_are_imported(saved, tmp_path):
    options = saved | {"draft": str(saved["draft"]), "output": tmp_path / "imported", "device": "cpu"}
    import_draft(ImportDraftOptions(**options), StageRun())
    assert (Path(options["output"]) / "import.json").is_file()
