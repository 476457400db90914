"""Models that a configuration names: absent, cut short or damaged files stop before any work."""

import copy
import json
import struct
from pathlib import Path

import pytest
import yaml

from checked_configuration import ROOT, SCHEMA, complaint, saved_model, write_questions
from ltd import configuration


def test_what_is_not_trained_here_is_not_checked(config, tmp_path):
    config["target"] |= {"path": str(saved_model(tmp_path / "model")), "layers": 13}
    config["draft"] |= {"path": "owner/head", "tap_layers": [1, 2]}
    configuration.check(config, SCHEMA)


def test_the_readmes_example_of_an_own_model_is_accepted(config, tmp_path, monkeypatch):
    readme = (ROOT / "README.md").read_text()
    mine = yaml.safe_load(readme.split("```yaml\n# mine.yaml")[1].split("```")[0])
    monkeypatch.chdir(tmp_path)
    folder = Path(mine["prompts"]["path"])
    folder.mkdir()
    write_questions(folder, mine["prompts"]["tasks"], 80)
    mine["target"]["path"] = str(saved_model(tmp_path / "model"))
    mine["draft"]["path"] = str(saved_model(tmp_path / "head"))
    for key, value in mine.items():
        config[key] = config[key] | value if isinstance(value, dict) else value
    configuration.check(config, SCHEMA)


@pytest.mark.parametrize("bytes_left", [4, 20, -3])
def test_truncated_safetensors(config, tmp_path, bytes_left):
    folder = saved_model(tmp_path / "model")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:bytes_left])
    config["target"]["path"] = str(folder)
    assert "truncated" in complaint(config)


@pytest.mark.parametrize(
    "header",
    [
        b"{" * 40,
        b"\xff" * 40,
        b"[]",
        b'{"w": {"dtype": "F32"}}',
        b'{"w": {"data_offsets": [0]}}',
        b'{"w": 1}',
    ],
)
def test_damaged_safetensors_header(config, tmp_path, header):
    folder = saved_model(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    config["target"]["path"] = str(folder)
    assert complaint(config).startswith(f"{folder}/model.safetensors: its header cannot be read")


@pytest.mark.parametrize("key", ["target", "draft"])
def test_model_without_weights(config, tmp_path, key):
    folder = saved_model(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    config[key]["path"] = str(folder)
    assert complaint(config).startswith(f"{key}.path: {folder} has no weights (model.safetensors")
    # A profile needs none then; the answers that follow do.
    config["latency"]["weights"] = "random"
    assert complaint(config).startswith(f"{key}.path: {folder} has no weights (model.safetensors")


def test_index_with_an_absent_shard(config, tmp_path):
    folder = saved_model(tmp_path / "model")
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    (folder / "model.safetensors").rename(folder / names[0])
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": names[0], "v": names[1]}}))
    config["target"]["path"] = str(folder)
    assert complaint(config).startswith(f"{index}: {names[1]} is not beside it")
    (folder / names[1]).write_bytes((folder / names[0]).read_bytes())
    configuration.check(config, SCHEMA)
    index.write_text("[]")
    assert complaint(config) == f"{index}: no weight_map; copy the file again"


def test_whole_model_is_accepted_and_a_missing_chat_template_is_not(config, tmp_path):
    changed = copy.deepcopy(config)
    changed["target"]["path"] = str(saved_model(tmp_path / "whole"))
    configuration.check(changed, SCHEMA)
    changed["target"]["path"] = str(saved_model(tmp_path / "mute", chat_template=False))
    assert "no chat template" in complaint(changed)


def test_a_chat_template_is_found_from_here_and_beside_the_snakefile(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "workflow/experiments/templates/vicuna.jinja"
    config["responses"]["chat_template"] = name
    configuration.check(config, SCHEMA)
    assert config["responses"]["chat_template"] == str(ROOT / name)
    (tmp_path / "mine.jinja").touch()
    config["responses"]["chat_template"] = "mine.jinja"
    configuration.check(config, SCHEMA)
    assert config["responses"]["chat_template"] == str(tmp_path / "mine.jinja")
    config["responses"]["chat_template"] = "none.jinja"
    said = f"responses.chat_template: none.jinja: no such file, here or in {ROOT}; give one with a Jinja"
    assert complaint(config).startswith(said)
