"""The embedded default's configuration for tests to change, and what it is refused with."""

import json
import struct
from pathlib import Path

import pytest

from ltd import configuration
from ltd.errors import InputError

ROOT = Path(__file__).parents[1]
SCHEMA = ROOT / "workflow/schemas/config.schema.yaml"


def complaint(config):
    """Return the one line that a configuration is refused with."""
    with pytest.raises(InputError) as refusal:
        configuration.check(config, SCHEMA)
    message = str(refusal.value)
    assert "\n" not in message
    return message


def write_questions(folder, tasks, count):
    """As many different questions of every task."""
    for task in tasks:
        rows = ({"turns": [f"{task} {number}"], "reference": ["so"]} for number in range(count))
        lines = map(json.dumps, rows)
        (folder / f"{task}.jsonl").write_text("\n".join(lines))


def saved_model(folder, chat_template=True):
    """A folder that looks like a saved model, with one whole safetensors file."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "x"} if chat_template else {}))
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    return folder
