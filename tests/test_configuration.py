"""Wrong configuration stops with one line that names the key or file."""

import dataclasses
import importlib
import json

import pytest

from checked_configuration import SCHEMA, complaint
from ltd import configuration
from ltd.files import read_json
from ltd.rl.presets import PRESETS
from synthetic import synthetic_profile


@pytest.mark.parametrize("key", ["benchmark.test_tasks", "rl.train_tasks", "rl.paper_tasks"])
def test_tasks_are_named_once(config, key):
    block, _, name = key.partition(".")
    config[block][name] = ["code", "code"]
    assert complaint(config).startswith(f'{key}: ["code", "code"] is not allowed; expected a list of')


@pytest.mark.parametrize("quantisation", ["4bit", "8bit"])
def test_quantised_weights_need_a_gpu(config, quantisation):
    config |= {"device": "cpu", "quantisation": quantisation}
    assert complaint(config).startswith(f"quantisation: {quantisation} needs a GPU, and device is cpu; use")


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
        ("responses", "system", "Be brief.", "responses.system: the target that is trained here knows no"),
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
        ("traces", "temperature", 0.7, "benchmark.temperatures: [0] lacks 0.7, the traces.temperature"),
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
        ("prompts", "tasks", ["chat", "mean"], 'prompts.tasks.1: "mean" is not allowed; expected a'),
        ("benchmark", "prompts_per_task", 1, "benchmark.prompts_per_task: 1 is not allowed"),
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
        (
            "rl",
            "depth_observation",
            ["machine", "suffix"],
            "rl.depth_observation: 'machine' is expected once",
        ),
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
        ("draft", "draft_vocab_size", 1, "tree.beam: 2 is more than the 1 tokens of draft.draft_vocab_size"),
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
            "rl.paper_tasks: 'cod' neither has prompts nor is built in; did you mean code?",
        ),
        (
            "prompts",
            "corpus",
            0,
            "prompts.corpus: 0 leaves the target nothing to learn from; give some",
        ),
        ("transfer", "profiles", ["no.json"], "transfer.profiles: no.json: no such file, here or in"),
        ("rl", "train_tasks", ["poems"], "rl.train_tasks: 'poems' has no training prompts; code, chat,"),
        ("rl", "machines", 257, "rl.machines: 257 is more than rl.lanes 256; every machine needs a lane"),
        ("rl", "fixed_size", 39, "rl.fixed_size: 39 is more than 38, the largest of rl.sizes"),
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


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"machines": 8}, "rl.machines: 8, but rl.size_observation lacks 'machine'; add it as the last part"),
        (
            {"machines": 8, "size_observation": ["levels", "machine"]},
            "rl.machines: 8, but rl.depth_observation lacks 'machine'",
        ),
        (
            {
                "machines": 8,
                "size_observation": ["levels", "machine"],
                "depth_observation": ["levels", "machine"],
            },
            "rl.reward: 'saving' is of one machine; choose 'marginal', or set rl.machines to 0",
        ),
        ({"depth_observation": ["levels", "machine"]}, "rl.machines: 0, but 'machine' is part of an obser"),
    ],
)
def test_machines_are_for_policies_that_observe_them(config, changes, said):
    config["rl"] |= changes
    assert complaint(config).startswith(said)


@pytest.mark.parametrize(
    "changes",
    [
        {"whole_answers": True, "rehearsal": 0},
        {"lanes": 16, "rollout": 240, "minibatch": 48},
        {
            "machines": 200,
            "reward": "marginal",
            "size_observation": ["levels", "machine"],
            "depth_observation": ["levels", "machine"],
        },
    ],
)
@pytest.mark.parametrize("preset", ["paper", "paper-short"])
def test_a_block_that_goes_alone_goes_with_every_preset(config, changes, preset):
    config["rl"] |= changes | {"paper_preset": preset}
    configuration.check(config, SCHEMA)


@pytest.mark.parametrize("preset", ["paper-short", "conditioned"])
def test_what_a_preset_contradicts_stops_before_the_training(config, monkeypatch, preset):
    monkeypatch.setitem(PRESETS, preset, {"lanes": 7})
    said = complaint(config)
    assert said.startswith("rl.rollout: 8192: expected a multiple of rl.lanes (7)")
    assert said.endswith(f"(under the preset {preset!r} of rl/presets.py)")


def test_missing_key_is_named(config):
    del config["rl"]["sizes"]
    assert complaint(config).startswith("rl.sizes: missing")


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


def test_papers_task_may_be_built_in_and_absent(config):
    config["prompts"]["tasks"] = config["benchmark"]["test_tasks"] = ["chat", "maths"]
    config["rl"]["paper_tasks"] = ["code"]
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
    synthetic_profile(**made_for).save(file)
    config["transfer"]["profiles"] = [str(file)]
    configuration.check(config, SCHEMA)
    config["transfer"]["in_report"] = True
    assert complaint(config) == (
        f"transfer.profiles: {file} has beam {made_for['beam']} and depth {made_for['max_depth']}, tree.beam "
        "is 2 and tree.max_depth 10; give a profile of such trees, or none"
    )
    synthetic_profile(beam=2, max_depth=12).save(file)
    configuration.check(config, SCHEMA)


def test_machines_of_the_report_have_the_sizes_of_the_configuration(config, tmp_path):
    file = tmp_path / "small.json"
    synthetic_profile(beam=2, max_depth=10, max_size=37).save(file)
    config["transfer"] |= {"profiles": [str(file)], "in_report": True}
    assert complaint(config) == (
        f"transfer.profiles: {file} times trees of up to 37 nodes, but rl.sizes and grid.max_size go to 38; "
        "give a profile of such trees, or none"
    )


def test_machines_of_the_report_can_be_read(config, tmp_path):
    file = tmp_path / "old.json"
    config["transfer"] |= {"profiles": [str(file)], "in_report": True}
    synthetic_profile(beam=2, max_depth=10).save(file)
    file.write_text(json.dumps(read_json(file) | {"version": 1}))
    assert complaint(config).startswith(f"transfer.profiles: {file}: version: expected a latency profile of")
    file.write_text("{")
    assert complaint(config).startswith(f"transfer.profiles: {file}, line 1: not valid JSON")
    assert complaint(config).endswith("(or leave it out)")


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
    assert listed == {key: defaults[key] for key in listed}
