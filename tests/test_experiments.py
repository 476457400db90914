"""The files of the five real targets: valid over config.yaml, and shapes that fit together."""

from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoConfig, PreTrainedTokenizerFast

from ltd import configuration
from ltd.draft_head.head_config import shape_of_head
from ltd.engine.memory import plan_memory
from ltd.hub import is_hub_id, split_revision
from ltd.prepare_prompts import Options, check
from ltd.target_training.tokenizer import train_tokenizer
from ltd.texts.hub_prompts import parse_entry
from ltd.texts.prompts import ChatFormat, render

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "workflow/experiments"
NAMES = ("llama31-8b", "vicuna-13b", "deepseek-r1-llama-8b", "qwen3-14b", "qwen3-32b")
# Parameters of target and head in billions, from their model cards; layers of the feature taps.
EXPECTED = {
    "llama31-8b": (8.03, (2, 16, 29)),
    "vicuna-13b": (13.0, (2, 20, 37)),
    "deepseek-r1-llama-8b": (8.03, (2, 16, 29)),
    "qwen3-14b": (14.8, (2, 20, 37)),
    "qwen3-32b": (32.8, (2, 32, 61)),
}


def merged(*files):
    """Configuration files laid over each other key by key, as Snakemake does."""

    def lay(under, over):
        for key, value in over.items():
            under[key] = lay(under[key], value) if isinstance(value, dict) and key in under else value
        return under

    whole = yaml.safe_load((ROOT / "config.yaml").read_text())
    for file in files:
        whole = lay(whole, yaml.safe_load(file.read_text()))
    return whole


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)  # paths in these files start at the root, where Snakemake is started


@pytest.mark.parametrize("layers", [[], ["mmlu"]], ids=["tasks", "mmlu"])
@pytest.mark.parametrize("name", NAMES)
def test_experiment_is_valid(name, layers):
    config = merged(FOLDER / f"{name}.yaml", *(FOLDER / f"{layer}.yaml" for layer in layers))
    configuration.check(config, ROOT / "workflow/schemas/config.schema.yaml")
    assert config["experiment"] == name and config["dtype"] == "bfloat16"
    assert config["tree"] == {"beam": 10, "max_depth": 12}
    assert config["latency"]["sizes"][0] == 1 and config["latency"]["sizes"][-1] == 240
    assert set(range(20, 241, 20)) <= set(config["rl"]["sizes"])
    assert config["benchmark"]["prompts_per_task"] == config["prompts"]["test"] == 80
    assert config["rl"]["train_tasks"] == ["humaneval"]
    assert set(config["benchmark"]["test_tasks"]) == set(config["prompts"]["test_only"])
    for path in (config["target"]["path"], config["draft"]["path"]):
        assert is_hub_id(path)
        revision = split_revision(path)[1]
        assert revision is None or len(revision) == 40
    entries = dict(map(parse_entry, config["prompts"]["hub"]))
    assert set(entries) == set(config["prompts"]["tasks"])
    blocks = {key: value for key, value in config["prompts"].items()}
    check(
        Options(output=Path("out"), **{k: tuple(v) if isinstance(v, list) else v for k, v in blocks.items()})
    )
    assert len(entries) == (58 if layers else 5)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_fit_together(name):
    folder = FOLDER / "shapes" / name
    config = AutoConfig.from_pretrained(folder)
    head = shape_of_head(folder / "draft", config.num_hidden_layers)
    billions, taps = EXPECTED[name]
    plan = plan_memory(config, dtype=torch.bfloat16, context=2048, tree=240, draft_vocab_size=32000)
    assert plan.weights == pytest.approx(2e9 * billions, rel=0.01)
    assert head.target_hidden_size == config.hidden_size and head.vocab_size == config.vocab_size
    assert head.tap_layers == taps and head.draft_vocab_size == 32000
    assert plan.cache == 2 * 2 * config.num_hidden_layers * config.num_key_value_heads * 128 * 2289
    assert 0.85e9 < plan.draft < 2e9
    small = plan_memory(config, dtype=torch.bfloat16, quantisation="4bit", context=2048, tree=240)
    assert 0.25 < small.weights / plan.weights < 0.45 and small.draft == 0
    assert str(plan).endswith(")") and "weights" in str(plan)


def test_vicunas_template_writes_its_conversation_format():
    tokenizer = train_tokenizer(["USER: Hi there ASSISTANT: Hello"], 300)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    template = (FOLDER / "templates/vicuna.jinja").read_text()
    tokenizer.bos_token = tokenizer.eos_token
    ids = render(tokenizer, ["Hi", "Why?"], ["Hello"], ChatFormat(template=template))
    end = tokenizer.eos_token
    text = tokenizer.decode(ids)
    assert text.startswith(f"{end}A chat between a curious user")
    assert text.endswith(f" USER: Hi ASSISTANT: Hello{end} USER: Why? ASSISTANT:")
    ids = render(tokenizer, ["Hi"], [], ChatFormat(system="Be brief.", template=template))
    assert tokenizer.decode(ids) == f"{end}Be brief. USER: Hi ASSISTANT:"
