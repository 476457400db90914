"""Wrong configuration stops with one line that names the key or file."""

import copy
import dataclasses
import importlib
import json
import struct
from pathlib import Path

import pytest
import yaml

from ltd import configuration
from ltd.errors import InputError

ROOT = Path(__file__).parents[1]
SCHEMA = ROOT / "workflow/schemas/config.schema.yaml"


@pytest.fixture
def config():
    """The embedded default."""
    return yaml.safe_load((ROOT / "config.yaml").read_text())


def complaint(config):
    """Return the one line that a configuration is refused with."""
    with pytest.raises(InputError) as refusal:
        configuration.check(config, SCHEMA)
    message = str(refusal.value)
    assert "\n" not in message
    return message


def test_the_default_is_accepted(config):
    configuration.check(config, SCHEMA)


@pytest.mark.parametrize(
    ("block", "key", "value", "said"),
    [
        ("rl", "learning_rat", 0.1, "rl.learning_rat: unknown key; did you mean learning_rate?"),
        ("rl", "learning_rate", "fast", 'rl.learning_rate: "fast" is not allowed'),
        ("tree", "max_depth", 0, "tree.max_depth: 0 is not allowed"),
        ("draft", "unroll_steps", 3, "draft.unroll_steps: 3 is less than tree.max_depth"),
        ("latency", "sizes", [1, 8], "latency.sizes: the largest is 8"),
        ("rl", "sizes", [4, 2], "rl.sizes: [4, 2] is not ascending"),
        ("baselines", "sizes", [2, 2], "baselines.sizes: [2, 2] is not ascending"),
        ("baselines", "sizes", [1, 90], "latency.sizes: the largest is 60, but 90 is used"),
        ("traces", "features", False, "traces.features: false, but the method specdecpp reads hidden states"),
        ("benchmark", "temperatures", [1], "benchmark.temperatures: [1] does not ascend from 0"),
        (
            "benchmark",
            "temperatures",
            [0, 1, 0.5],
            "benchmark.temperatures: [0, 1, 0.5] does not ascend from 0",
        ),
        ("benchmark", "temperatures", [0, 1, 1], "benchmark.temperatures: [0, 1, 1] does not ascend from 0"),
        (
            "benchmark",
            "temperatures",
            [0, -1],
            "benchmark.temperatures.1: -1 is not allowed; expected a number",
        ),
        (
            "benchmark",
            "temperatures",
            [],
            "benchmark.temperatures: [] is not allowed; expected a list of numbers",
        ),
        ("benchmark", "methods", ["autoregressive", "eagel3"], "benchmark.methods: 'eagel3' is unknown"),
        (
            "benchmark",
            "methods",
            ["autoregressive", "svip:best"],
            "benchmark.methods: 'svip:best' is unk",
        ),
        (
            "benchmark",
            "methods",
            ["autoregressive", "lookup/tree"],
            "benchmark.methods: 'lookup/tree' is unk",
        ),
        (
            "benchmark",
            "methods",
            ["autoregressive", "ltd:best"],
            "benchmark.methods: 'ltd:best' names",
        ),
        ("benchmark", "methods", ["autoregressive", "ltd", "ltd"], "benchmark.methods: 'ltd' is named twice"),
        ("benchmark", "methods", ["eagle3", "autoregressive"], "benchmark.methods: the first is not 'autor"),
        ("benchmark", "methods", [], "benchmark.methods: the first is not 'autoregressive'"),
        ("rl", "train_tasks", ["poems"], "rl.train_tasks: 'poems' has no prompts"),
        ("prompts", "path", "/no/such/folder", "prompts.path: /no/such/folder is not a folder"),
        ("target", "path", "/no/such/model", "target.path: /no/such/model is neither a folder nor a hub id"),
    ],
)
def test_wrong_value_is_named(config, block, key, value, said):
    config[block][key] = value
    assert complaint(config).startswith(said)


def test_missing_key_is_named(config):
    del config["rl"]["sizes"]
    assert complaint(config).startswith("rl.sizes: missing")


def test_task_without_prompts(config, tmp_path):
    (tmp_path / "chat.jsonl").write_text('{"turns": ["hello"]}\n')
    config["prompts"]["path"] = str(tmp_path)
    said = complaint(config)
    assert said.startswith("prompts.tasks: no code.jsonl under prompts.path")
    assert said.endswith("list those that are there (chat), in benchmark.test_tasks too")


def test_line_without_turns(config, tmp_path):
    for task in config["prompts"]["tasks"]:
        (tmp_path / f"{task}.jsonl").write_text('{"turns": ["hello"]}\n{"question": "hello"}\n')
    config["prompts"]["path"] = str(tmp_path)
    assert "line 2: no `turns`" in complaint(config)


def saved_model(folder, chat_template=True):
    """A folder that looks like a saved model, with one whole safetensors file."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "x"} if chat_template else {}))
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    return folder


def test_the_readmes_example_of_an_own_model_is_accepted(config, tmp_path, monkeypatch):
    example = (ROOT / "README.md").read_text().split("```yaml\n")[1].split("```")[0]
    mine = yaml.safe_load(example)
    monkeypatch.chdir(tmp_path)
    folder = Path(mine["prompts"]["path"])
    folder.mkdir()
    for task in mine["prompts"]["tasks"]:
        (folder / f"{task}.jsonl").write_text('{"question_id": 1, "turns": ["hello"]}\n')
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


def test_whole_model_is_accepted_and_a_missing_chat_template_is_not(config, tmp_path):
    changed = copy.deepcopy(config)
    changed["target"]["path"] = str(saved_model(tmp_path / "whole"))
    configuration.check(changed, SCHEMA)
    changed["target"]["path"] = str(saved_model(tmp_path / "mute", chat_template=False))
    assert "no chat template" in complaint(changed)


BLOCKS = {
    "prompts": ("prepare_prompts", "Options"),
    "target": ("train_target", "Options"),
    "responses": ("generate_responses", "Options"),
    "draft": ("train_draft", "TrainDraftOptions"),
    "latency": ("profile_latency", "LatencyOptions"),
    "traces": ("record_traces", "RecordTracesOptions"),
    "grid": ("grid_search", "GridSearchOptions"),
    "rl": ("train_policy", "TrainPolicyOptions"),
    "tune": ("tune", "TuneOptions"),
    "baselines": ("fit_baselines", "FitBaselinesOptions"),
    "opponents": ("fit_opponents", "FitOpponentsOptions"),
    "benchmark": ("benchmark", "BenchmarkOptions"),
}
# Keys that choose inputs in the rules, and are no option of the stage.
RULE_KEYS = {
    "target": {"path"},
    "draft": {"path", "rope_theta", "probe_answers", "processes"},
    "rl": {"paper_preset", "paper_tasks"},
    "tune": {"workers"},
    "benchmark": {"temperatures"},
}


@pytest.mark.parametrize("block", BLOCKS)
def test_config_has_the_options_of_the_stage_with_their_defaults(config, block):
    module, name = BLOCKS[block]
    options = getattr(importlib.import_module(f"ltd.{module}"), name)
    defaults = {field.name: field.default for field in dataclasses.fields(options)}
    own = {key: value for key, value in config[block].items() if key not in RULE_KEYS.get(block, ())}
    listed = {key: tuple(value) if isinstance(value, list) else value for key, value in own.items()}
    assert listed == {key: defaults.get(key) for key in listed}
