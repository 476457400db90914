"""The files of the five real targets: valid over config.yaml, and shapes that fit together."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from transformers import AutoConfig, PreTrainedTokenizerFast

from ltd import configuration
from ltd.draft_head.head_config import shape_of_head
from ltd.engine.graphs import row_buckets
from ltd.engine.memory import plan_memory
from ltd.errors import InputError
from ltd.files import write_jsonl
from ltd.hub import is_hub_id, split_revision
from ltd.option_checks import check_prompts
from ltd.preflight import check_models
from ltd.prepare_prompts import Options
from ltd.target_training.tokenizer import train_tokenizer
from ltd.texts.hub_sources import parse_entry
from ltd.texts.prompts import ChatFormat, render
from pipeline import environment

ROOT = Path(__file__).parents[1]
SCHEMA = ROOT / "workflow/schemas/config.schema.yaml"
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
# Their commits could not be looked up; docs/real-models.md has the same list.
UNPINNED = {
    "yuhuili/EAGLE3-DeepSeek-R1-Distill-LLaMA-8B",
    "AngelSlim/Qwen3-14B_eagle3",
    "AngelSlim/Qwen3-32B_eagle3",
    "openai/openai_humaneval",
    "HuggingFaceH4/mt_bench_prompts",
    "openai/gsm8k",
    "tatsu-lab/alpaca",
    "google-research-datasets/nq_open",
    "cais/mmlu",
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


def test_the_readmes_own_model_is_accepted(tmp_path):
    readme = (ROOT / "README.md").read_text()
    example = re.search(r"```yaml\n(# mine.yaml\n.*?)```", readme, re.DOTALL)[1]
    command = re.search(r"--configfile (workflow/experiments/\S+) mine.yaml", readme)[1]
    for task in ("support", "mails"):
        write_jsonl(tmp_path / f"{task}.jsonl", [{"turns": [f"{task}: parcel {n}?"]} for n in range(40)])
    example = example.replace("my_prompts", str(tmp_path)).replace("/models/my-", "me/my-")
    (tmp_path / "mine.yaml").write_text(example)
    config = merged(ROOT / command, tmp_path / "mine.yaml")
    configuration.check(config, SCHEMA)
    assert config["target"]["path"] == "me/my-model" and config["tree"]["beam"] == 10


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)  # paths in these files start at the root, where Snakemake is started


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_file_has_keys_and_values_that_there_are(file):
    configuration.check_schema(merged(file), yaml.safe_load(SCHEMA.read_text()))


@pytest.mark.parametrize("layers", [[], ["mmlu"]], ids=["tasks", "mmlu"])
@pytest.mark.parametrize("name", NAMES)
def test_experiment_is_valid(name, layers):
    config = merged(FOLDER / f"{name}.yaml", *(FOLDER / f"{layer}.yaml" for layer in layers))
    configuration.check(config, SCHEMA)
    assert config["experiment"] == name and config["dtype"] == "bfloat16"
    assert config["tree"] == {"beam": 10, "max_depth": 12}
    assert config["latency"]["sizes"][0] == 1 and config["latency"]["sizes"][-1] == 240
    # The largest trees of the engine's shapes, a node fewer than rows; the profile sees where the next begin.
    *chosen, largest = config["rl"]["sizes"]
    assert largest == 240 and {size + 1 for size in chosen if size > 4} <= set(row_buckets(256))
    assert {size + 1 for size in chosen if size > 4} | set(chosen) <= set(config["latency"]["sizes"])
    assert config["benchmark"]["prompts_per_task"] == config["prompts"]["test"] == 80
    assert config["rl"]["train_tasks"] == ["humaneval"]
    assert set(config["benchmark"]["test_tasks"]) == set(config["prompts"]["test_only"])
    for path in (config["target"]["path"], config["draft"]["path"]):
        assert is_hub_id(path)
    entries = dict(map(parse_entry, config["prompts"]["hub"]))
    assert set(entries) == set(config["prompts"]["tasks"])
    blocks = {key: value for key, value in config["prompts"].items()}
    listed = {key: tuple(value) if isinstance(value, list) else value for key, value in blocks.items()}
    check_prompts(Options(split="test", output=Path("out"), **listed))
    assert len(entries) == (58 if layers else 5)
    # Hidden states are twenty times the rest of a trace: recorded where a method reads them alone.
    assert config["traces"]["features"] == ("specdecpp" in config["benchmark"]["methods"]) == (not layers)


def test_what_follows_the_hubs_main_branch_is_known_and_documented():
    """A new id without a commit must be pinned, or stand here and in the documentation."""
    pinned, unpinned = set(), set()
    for layers in ((), ("mmlu",)):
        for name in NAMES:
            config = merged(*(FOLDER / f"{each}.yaml" for each in (name, *layers)))
            sources = [parse_entry(entry)[1].whole_name for entry in config["prompts"]["hub"]]
            for path in (config["target"]["path"], config["draft"]["path"], *sources):
                plain, revision = split_revision(path)
                (unpinned if revision is None else pinned).add(plain)
                assert revision is None or re.fullmatch("[0-9a-f]{40}", revision)
    assert unpinned == UNPINNED and len(pinned) == 7
    section = (ROOT / "docs/real-models.md").read_text().split("### What is not pinned")[1].split("\n#")[0]
    assert {name for name in re.findall(r"`([\w.-]+/[\w.-]+)`", section)} == UNPINNED


@pytest.mark.parametrize("name", NAMES)
def test_dry_run_plans_the_reproduction_with_the_published_head(name, tmp_path):
    (tmp_path / "workflow").symlink_to(ROOT / "workflow")  # paths start where Snakemake is started
    plan, rules = dry_run(tmp_path, FOLDER / f"{name}.yaml")
    assert {"import_draft", "profile_latency", "benchmark_at_temperature", "report"} <= rules
    assert not rules & {"train_draft", "train_target"}
    config = merged(FOLDER / f"{name}.yaml")
    target, head = config["target"]["path"], config["draft"]["path"]
    assert f"ltd.import_draft --target {target} --draft {head}" in plan
    assert f"ltd.benchmark --target {target} --draft results/{name}/draft" in plan
    assert "responses/draft-t0" not in plan, "no answers to train a head on"


def test_dry_run_with_a_head_of_ones_own(tmp_path):
    """A head in a folder takes the place of training."""
    (tmp_path / "head").mkdir()
    (tmp_path / "head/config.json").write_text("{}")
    save_file({"fc.weight": torch.zeros(1)}, tmp_path / "head/model.safetensors")
    (tmp_path / "mine.yaml").write_text("draft: {path: head}\n")
    plan, rules = dry_run(tmp_path, ROOT / "tests/config.yaml", tmp_path / "mine.yaml")
    assert {"import_draft", "train_target"} <= rules and "train_draft" not in rules
    assert "ltd.import_draft --target results/smoke/target --draft head" in plan
    _, rules = dry_run(tmp_path, ROOT / "tests/config.yaml")
    assert "train_draft" in rules and "import_draft" not in rules


def dry_run(folder, *files):
    """Commands and names of the rules that Snakemake plans in `folder`."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--cores", "all"]
    command += ["--dry-run", "--printshellcmds", "--configfile", *files]
    ended = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    plan = ended.stdout + ended.stderr
    return plan, set(re.findall(r"^(?:local)?rule (\w+):", plan, re.MULTILINE))


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


def test_the_larger_default_is_valid():
    config = merged(FOLDER / "gpu-default.yaml")
    configuration.check(config, SCHEMA)
    assert {size + 1 for size in config["rl"]["sizes"] if size > 11} <= set(row_buckets(128))


@pytest.mark.parametrize("name", NAMES)
def test_shapes_pass_the_look_before_the_first_stage(name):
    config = merged(FOLDER / f"{name}.yaml")
    config["target"]["path"] = str(FOLDER / "shapes" / name)
    config["draft"]["path"] = str(FOLDER / "shapes" / name / "draft")
    check_models(config)
    limit = AutoConfig.from_pretrained(config["target"]["path"]).max_position_embeddings
    config["latency"]["context_lengths"][-1] = limit - 100
    with pytest.raises(InputError, match=rf"{limit - 100} leaves no room .* allows {limit - 332}"):
        check_models(config)


def test_vicunas_template_writes_its_conversation_format():
    tokenizer = train_tokenizer(["USER: Hi there ASSISTANT: Hello"], 300)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    template = (FOLDER / "templates/vicuna.jinja").read_text()
    tokenizer.bos_token = tokenizer.eos_token
    ids = render(tokenizer, ["Hi", "Why?"], ["Hello"], ChatFormat(template=template))
    end = tokenizer.eos_token
    text = tokenizer.decode(ids)
    assert text.startswith(f"{end} A chat between a curious user")
    assert text.endswith(f" USER: Hi ASSISTANT: Hello{end} USER: Why? ASSISTANT:")
    ids = render(tokenizer, ["Hi"], [], ChatFormat(system="Be brief.", template=template))
    assert tokenizer.decode(ids) == f"{end} Be brief. USER: Hi ASSISTANT:"
