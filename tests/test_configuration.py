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
        ("rl", "sizes", [4, 2], "rl.sizes: [4, 2]: expected distinct sizes"),
        ("baselines", "sizes", [2, 2], "baselines.sizes: [2, 2] is not ascending"),
        ("baselines", "sizes", [1, 90], "latency.sizes: the largest is 38, but 90 is used"),
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
        ("benchmark", "default_depth", 11, "benchmark.default_depth: 11 is more than tree.max_depth 10"),
        ("benchmark", "prompts_per_task", 25, "benchmark.prompts_per_task: 25 is more than prompts.test 24"),
        ("benchmark", "test_tasks", [], "benchmark.test_tasks: [] is not allowed; expected a list of one"),
        ("prompts", "tasks", [], "prompts.tasks: [] is not allowed; expected a list of one or more"),
        ("latency", "sizes", [1, 60, 8], "latency.sizes: [1, 60, 8]: expected at least two distinct values"),
        ("latency", "sizes", [2, 38], "latency.sizes: [2, 38]: expected to run from 1 to at most 38"),
        ("latency", "sizes", [1, 39], "latency.sizes: [1, 39]: expected to run from 1 to at most 38"),
        ("latency", "sizes", [], "latency.sizes: [] is not allowed; expected a list of at least two"),
        ("latency", "context_lengths", [96, 32], "latency.context_lengths: [96, 32]: expected at least two"),
        ("latency", "context_lengths", [], "latency.context_lengths: [] is not allowed; expected a list of"),
        ("rl", "sizes", [], "rl.sizes: [] is not allowed; expected a list of at least one"),
        ("baselines", "sizes", [], "baselines.sizes: [] is not allowed; expected a list of at least one"),
        (
            "rl",
            "size_observation",
            ["level", "rot"],
            "rl.size_observation: 'rot' is unknown; choose",
        ),
        ("rl", "depth_observation", ["machine", "root"], "rl.depth_observation: 'machine' is expected once"),
        ("rl", "rollout", 1000, "rl.rollout: 1000: expected a multiple of rl.lanes (256)"),
        ("rl", "first_decision", 2, "rl.first_decision: 2 is not allowed; expected 0 or 1"),
        ("rl", "whole_answers", True, "rl.rehearsal: needs rl.whole_answers to be false"),
        ("rl", "step_share", 0, "rl.step_share: 0 is not allowed; expected a share above 0 and up to 1"),
        ("rl", "depth_gamma", 1.5, "rl.depth_gamma: 1.5 is not allowed; expected a number from 0 to 1"),
        ("tune", "step_share", 0, "tune.step_share: 0 is not allowed; expected a share above 0 and up to 1"),
        ("draft", "step_weight", 0, "draft.step_weight: 0 is not allowed; expected a number above 0 and up"),
        ("draft", "warmup", 1, "draft.warmup: 1 is not allowed; expected a share from 0 to below 1"),
        ("draft", "tap_layers", [1, 2], "draft.tap_layers: tapped hidden states [1, 2] do not fit"),
        ("draft", "tap_layers", [1, 2, 12], "draft.tap_layers: tapped hidden states [1, 2, 12] do not fit"),
        ("draft", "draft_vocab_size", 4096, "draft.draft_vocab_size: 4096 is more than the target's 2048"),
        (
            "opponents",
            "fit_folds",
            1,
            "opponents.fit_folds: 1 is not allowed; expected a whole number",
        ),
        (
            "baselines",
            "thresholds",
            2,
            "baselines.thresholds: 2 is not allowed; expected a whole number",
        ),
        ("target", "layers", 13, "target.layers: 13 is not a multiple of start_layers (3)"),
        ("target", "grow_step", 350, "target.grow_step: 350 is not below steps (350)"),
        ("target", "vocab_size", 500, "target.vocab_size: 500 is too small"),
        (
            "rl",
            "paper_tasks",
            ["cod"],
            "rl.paper_tasks: 'cod' is neither one of prompts.tasks nor built",
        ),
        (
            "prompts",
            "corpus",
            0,
            "prompts.corpus: 0 leaves the target nothing to learn from; give some",
        ),
        ("transfer", "profiles", ["no.json"], "transfer.profiles: no.json: no such file, here or in"),
        ("rl", "train_tasks", ["poems"], "rl.train_tasks: 'poems' has no prompts"),
        ("rl", "machines", 257, "rl.machines: 257 is more than rl.lanes 256; every machine needs a lane"),
        ("rl", "fixed_size", 39, "latency.sizes: the largest is 38, but 39 is used"),
        ("prompts", "path", "/no/such/folder", "prompts.path: /no/such/folder is not a folder"),
        ("target", "path", "/no/such/model", "target.path: /no/such/model is neither a folder nor a hub id"),
    ],
)
def test_wrong_value_is_named(config, block, key, value, said):
    config[block][key] = value
    assert complaint(config).startswith(said)


@pytest.mark.parametrize(("value", "remedy"), [("1e-3", True), ("-0.5", True), ("fast", False)])
def test_a_number_that_came_as_text_has_its_remedy(config, value, remedy):
    config["rl"]["learning_rate"] = value
    assert complaint(config).endswith("write it into a file for --configfile") is remedy


def test_missing_key_is_named(config):
    del config["rl"]["sizes"]
    assert complaint(config).startswith("rl.sizes: missing")


def test_task_without_prompts(config, tmp_path):
    (tmp_path / "chat.jsonl").write_text('{"turns": ["hello"]}\n')
    config["prompts"]["path"] = str(tmp_path)
    said = complaint(config)
    assert said.startswith("prompts.tasks: no code.jsonl under prompts.path")
    assert said.endswith("list those that are there (chat), in benchmark.test_tasks too")


def test_a_task_must_be_left_to_train_on(config, tmp_path):
    config["prompts"] |= {"path": str(tmp_path), "test_only": config["prompts"]["tasks"]}
    assert complaint(config).startswith("prompts.test_only: no task is left to train on")


def test_a_test_task_is_not_trained_on(config, tmp_path):
    for task in config["prompts"]["tasks"]:
        (tmp_path / f"{task}.jsonl").write_text('{"turns": ["hello"]}\n' * 9)
    config["prompts"] |= {"path": str(tmp_path), "test_only": ["qa", "maths"]}
    config["rl"]["train_tasks"] = ["code", "qa"]
    assert complaint(config).startswith("rl.train_tasks: 'qa' is one of prompts.test_only, too; take it out")


def test_line_without_turns(config, tmp_path):
    for task in config["prompts"]["tasks"]:
        (tmp_path / f"{task}.jsonl").write_text('{"turns": ["hello"]}\n{"question": "hello"}\n')
    config["prompts"]["path"] = str(tmp_path)
    assert "line 2: no `turns`" in complaint(config)


@pytest.mark.parametrize(("part", "key"), [("entropy", "entropy"), ("hidden", "features")])
def test_what_policies_observe_is_recorded(config, part, key):
    config["benchmark"]["methods"] = ["autoregressive", "ltd"]
    config["rl"]["depth_observation"] = ["levels", part]
    configuration.check(config, SCHEMA)
    config["traces"][key] = False
    assert complaint(config).startswith(f"traces.{key}: false, but rl.depth_observation has {part!r}")


def test_look_up_has_no_hidden_states_to_observe(config):
    config["benchmark"]["methods"] = ["autoregressive", "lookup/ltd"]
    configuration.check(config, SCHEMA)
    config["rl"]["size_observation"] = ["levels", "hidden"]
    assert complaint(config).startswith("rl.size_observation: 'hidden', but lookup/ltd among benchmark.meth")


def test_what_is_not_trained_here_is_not_checked(config, tmp_path):
    config["target"] |= {"path": str(saved_model(tmp_path / "model")), "layers": 13}
    config["draft"] |= {"path": "owner/head", "tap_layers": [1, 2]}
    configuration.check(config, SCHEMA)


def test_papers_task_may_be_built_in_and_absent(config):
    config["prompts"]["tasks"] = config["benchmark"]["test_tasks"] = ["chat", "maths"]
    config["rl"]["paper_tasks"] = ["code"]
    configuration.check(config, SCHEMA)


def write_questions(folder, tasks, count):
    """As many different questions of every task."""
    for task in tasks:
        rows = ({"turns": [f"{task} {number}"], "reference": ["so"]} for number in range(count))
        lines = map(json.dumps, rows)
        (folder / f"{task}.jsonl").write_text("\n".join(lines))


def test_files_with_too_few_test_prompts(config, tmp_path):
    config["prompts"] |= {"path": str(tmp_path), "tasks": ["riddles", "poems"]}
    config["benchmark"] |= {"test_tasks": ["riddles"], "prompts_per_task": 12}
    write_questions(tmp_path, ["riddles"], 40)
    # Too few to test on, and not tested on.
    write_questions(tmp_path, ["poems"], 10)
    configuration.check(config, SCHEMA)
    config["benchmark"]["test_tasks"] = ["riddles", "poems"]
    assert complaint(config) == (
        f"benchmark.prompts_per_task: 12 asked for, but poems.jsonl under {tmp_path} gives 3 test prompts; "
        "lower it to that, or add questions"
    )


def test_file_with_too_few_questions_to_divide(config, tmp_path):
    config["prompts"] |= {"path": str(tmp_path), "tasks": ["riddles"]}
    config["benchmark"]["test_tasks"] = ["riddles"]
    write_questions(tmp_path, ["riddles"], 3)
    assert complaint(config).startswith(f"{tmp_path}/riddles.jsonl: 3 different questions; add some")


def test_a_target_that_is_trained_needs_answers_to_be_checked_by(config, tmp_path):
    config["prompts"] |= {"path": str(tmp_path), "tasks": ["riddles"]}
    config["benchmark"] |= {"test_tasks": ["riddles"], "prompts_per_task": 12}
    write_questions(tmp_path, ["riddles"], 40)
    configuration.check(config, SCHEMA)
    file = tmp_path / "riddles.jsonl"
    file.write_text(file.read_text().replace(', "reference": ["so"]', ""))
    assert complaint(config).startswith("prompts.path: riddles.jsonl has turns without `reference`, by which")
    config["target"]["path"] = str(saved_model(tmp_path / "model"))
    configuration.check(config, SCHEMA)


def test_machines_have_names_of_their_own(config, tmp_path):
    files = [tmp_path / part / "profile.json" for part in ("a", "b")]
    for file in files:
        file.parent.mkdir()
        file.write_text("{}")
    config["transfer"]["profiles"] = [str(files[0])]
    configuration.check(config, SCHEMA)
    config["transfer"]["profiles"] = [str(file) for file in files]
    assert complaint(config) == (
        f"transfer.profiles: {files[1]}: another machine is called 'profile'; copy it to a file with a "
        "name of its own"
    )


@pytest.mark.parametrize("made_for", [{"beam": 3, "max_depth": 10}, {"beam": 2, "max_depth": 9}])
def test_machines_of_the_report_have_the_trees_of_the_configuration(config, tmp_path, made_for):
    file = tmp_path / "other.json"
    file.write_text(json.dumps(made_for))
    config["transfer"]["profiles"] = [str(file)]
    configuration.check(config, SCHEMA)
    config["transfer"]["in_report"] = True
    assert complaint(config) == (
        f"transfer.profiles: {file} has beam {made_for['beam']} and depth {made_for['max_depth']}, tree.beam "
        "is 2 and tree.max_depth 10; give a profile of such trees, or none"
    )
    file.write_text(json.dumps({"beam": 2, "max_depth": 12}))
    configuration.check(config, SCHEMA)


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
    # Made from config.json alone.
    config["latency"]["weights"] = "random"
    configuration.check(config, SCHEMA)


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
