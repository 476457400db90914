"""Ablations by name: methods and their folders, what a variant changes and what not, the plan."""

import copy
import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from finished_experiment import finished_default
from ltd import configuration
from ltd import methods as names
from ltd.ablations import catalogue
from ltd.ablations.catalogue import ALL_NAMES, methods
from ltd.errors import InputError
from ltd.files import write_json
from ltd.methods import GRID, PolicyMethod, overrides, parse_chain, parse_method
from ltd.rl.observations import PARTS
from ltd.rl.rewards import KINDS
from ltd.tracking import StageRun
from ltd.train_policy import TrainPolicyOptions, chain_settings, train_policy
from pipeline import ROOT, snakemake
from synthetic import save_inputs, synthetic_traces


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("ltd", "ltd/best"),
        ("ltd:paper", "paper/best"),
        ("ltd:default", "default/best"),
        ("ltd:no-depth", "ltd/best"),
        ("ltd:paper-constant-size", "paper/best"),
        ("ltd:iteration-12", "ltd/iteration-12"),
        ("ltd:paper-iteration-0", "paper/iteration-0"),
        ("ltd:reward-time", "variants/ltd-reward-time/best"),
        ("ltd:network-1024-256", "variants/ltd-network-1024-256/best"),
        ("ltd:paper-network-1024-256", "variants/paper-network-1024-256/initial/size"),
        ("ltd:paper-seed-1", "variants/paper-seed-1/best"),
        ("ltd:trained-on-abstract_algebra", "variants/ltd-trained-on-abstract_algebra/best"),
    ],
)
def test_a_methods_name_tells_its_folder(name, folder):
    method = parse_method(name)
    assert method.folder == folder and method.name == name
    if method.is_trained:
        assert parse_chain(method.chain) == method


@pytest.mark.parametrize(
    "name",
    [
        "ltd:",
        "ltd:best",
        "ltd:default-no-size",
        "ltd:iteration-x",
        "ltd:reward-joy",
        "ltd:observe-smell",
        "ddd",
    ],
)
def test_other_names_are_refused(name):
    with pytest.raises(InputError, match="expected"):
        parse_method(name)


@pytest.mark.parametrize("name", ALL_NAMES)
def test_every_method_of_an_ablation_is_legal_and_named_once(name):
    listed = methods(name, rounds=3, entropy=True, hidden=True, train_task="code")
    assert len(set(listed)) == len(listed) >= 3 and GRID in listed
    found = [parse_method(method) for method in listed if method != GRID]
    if name.endswith("-paper"):
        assert {method.base for method in found} == {"paper"}


def test_the_papers_tables_vary_its_size_policy_alone():
    """Beside the paper's own choice, which is the reference; no reward that compares with a pair."""
    for name, own in names.SIZE_ALONE.items():
        over_paper = methods(f"{name}-paper", rounds=3, entropy=True, hidden=True, train_task="code")
        over_tuned = methods(name, rounds=3, entropy=True, hidden=True, train_task="code")
        assert over_paper[0] == f"ltd:paper-{own}" and over_tuned[0] == "ltd"
        expected = {method.replace("ltd:", "ltd:paper-") for method in over_tuned}
        assert set(over_paper) == expected - {"ltd", "ltd:paper-reward-saving"}
        assert all(parse_method(method).is_size_alone for method in over_paper if method != GRID)


def test_what_variants_change():
    base = {
        "size_observation": ("nodes", "depth", "length"),
        "depth_observation": ("level", "entropy", "machine"),
    }
    assert {overrides(f"reward-{kind}", base)["reward"] for kind in KINDS} == set(KINDS)
    assert overrides("network-64-32", base) == {"size_network": [64, 32]}
    assert overrides("trained-on-code", base) == {"train_tasks": ["code"]}
    assert overrides("seed-3", base) == {} and names.seed_of("seed-3", 10) == 13
    assert names.seed_of("reward-time", 10) == 10
    seen = overrides("observe-scores-depth", base)
    # What the base has not is seen in the first way; what ablations do not vary stays, in the base's order.
    assert seen["size_observation"] == ["nodes", "depth"]
    assert seen["depth_observation"] == ["level", "machine", "one_hot_depth"]
    assert {part for parts in names.SYNONYMS.values() for part in parts} <= set(PARTS)


def test_training_takes_the_bases_settings_and_the_variant_over_them(tmp_path):
    paths = {name: tmp_path for name in ("traces", "validation_traces", "profile", "output")}
    write_json(tmp_path / "settings.json", {"learning_rate": 0.01, "reward": "throughput", "top": 2})
    options = TrainPolicyOptions(
        policy="size", settings=tmp_path / "settings.json", variant="reward-acceptance", **paths
    )
    settings = chain_settings(options)
    assert (settings.learning_rate, settings.top, settings.reward) == (0.01, 2, "acceptance")
    write_json(tmp_path / "settings.json", {"sise": 1})
    with pytest.raises(InputError, match="sise: no setting"):
        chain_settings(options)


def test_what_a_variant_does_not_change_is_not_trained_again(tmp_path):
    """The base's training with the same outcome as one of its own, to the last bit."""
    base = tmp_path / "base/size"
    first = TrainPolicyOptions(
        policy="size",
        **save_inputs(tmp_path, synthetic_traces(seed=0), synthetic_traces(seed=1)),
        output=base,
        size_network=(8,),
        critic_network=(8,),
        size_steps=1024,
        lanes=16,
        rollout=512,
        minibatch=128,
        rehearsal=0,
    )
    train_policy(first, StageRun())
    (base / "base.txt").write_text("not written by a training")
    settings = dataclasses.replace(first, settings=base / "settings.json", unvaried=base)

    def trained(variant, **changed):
        folder = tmp_path / variant / "size"
        train_policy(dataclasses.replace(settings, variant=variant, output=folder, **changed), StageRun())
        return (folder / "base.txt").exists(), (folder / "size.safetensors").read_bytes()

    weights = (base / "size.safetensors").read_bytes()
    assert trained("reward-saving") == (True, weights)
    assert trained("network-8", unvaried=None) == (False, weights)
    copied, others = trained("reward-acceptance")
    assert not copied and others != weights


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"ablations": {"run": ["rewords"]}}, "ablations.run.0: "),
        (
            {"benchmark": {"methods": ["autoregressive", "ltd:reward-joy"]}},
            "benchmark.methods: variant 'reward-joy'",
        ),
        (
            {"benchmark": {"methods": ["autoregressive", "ltd:trained-on-poems"]}},
            "benchmark.methods: ltd:trained",
        ),
        (
            {
                "benchmark": {"methods": ["autoregressive", "ltd:observe-entropy"]},
                "traces": {"entropy": False},
            },
            "traces.entropy: false, but the method ltd:observe-entropy",
        ),
        (
            {"ablations": {"run": ["generalisation"]}, "benchmark": {"test_tasks": ["chat"]}},
            "ablations.run: generalisation compares on other tasks",
        ),
    ],
)
def test_wrong_configuration_is_named(config, keys, said):
    configuration.check(copy.deepcopy(config), ROOT / "workflow/schemas/config.schema.yaml")
    for block, values in keys.items():
        config[block] |= values
    with pytest.raises(InputError) as refusal:
        configuration.check(config, ROOT / "workflow/schemas/config.schema.yaml")
    assert str(refusal.value).startswith(said)


def test_the_papers_configuration_asks_for_everything(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finished_default(Path("results/default"))
    over = yaml.safe_load((ROOT / "workflow/experiments/paper.yaml").read_text())
    for block, values in over.items():
        config[block] = config[block] | values if isinstance(values, dict) else values
    configuration.check(config, ROOT / "workflow/schemas/config.schema.yaml")
    assert set(catalogue.NAMES) <= set(config["ablations"]["run"])
    folders = names.needed_folders(config["benchmark"]["methods"], "policies")
    rounds = {f"policies/ltd/iteration-{number}" for number in range(config["rl"]["rounds"] + 1)}
    looked_up = f"policies/{names.LOOKUP_POLICIES}"
    assert {"policies/ltd/best", "policies/paper/best", looked_up, *rounds} == set(folders)
    assert {names.LOOKUP, names.LOOKUP_LEARNED} <= set(config["benchmark"]["methods"])
    config["reuse"], config["prompts"]["tasks"] = None, ["chat", "maths"]
    assert catalogue.lone_task(config) == "chat" and PolicyMethod("ltd").name == "ltd"


def test_variants_are_planned_after_their_base(tmp_path):
    """The seed of a variant is its own, and its chain starts from the settings of the base's."""
    (tmp_path / "mine.yaml").write_text("ablations: {run: [seeds, rewards]}\n")
    result = snakemake(tmp_path, "--dry-run", config=[tmp_path / "mine.yaml"])
    assert result.returncode == 0, result.stderr
    plan = result.stdout + result.stderr
    base = "--settings results/smoke/policies/ltd/best/settings.json"
    for number in range(1, 5):
        assert f"--seed {number} --threads 1 {base} --variant seed-{number}" in plan
        assert f"--variant seed-{number} --unvaried" not in plan
    varied = f"--seed 0 --threads 1 {base} --variant reward-time --unvaried results/smoke/policies/ltd"
    for training in ("initial/size", "initial/depth", "iteration-1"):
        assert f"{varied}/{training}" in plan
    assert "--ablations seeds rewards" in plan and "ltd:no-depth" not in plan


OF_ONE_POLICY = [kind for kind in KINDS if kind != "saving"]


def test_of_the_papers_tables_the_first_trainings_of_the_size_policy_are_planned(tmp_path):
    (tmp_path / "mine.yaml").write_text("ablations: {run: [rewards-paper]}\n")
    result = snakemake(tmp_path, "--dry-run", config=[tmp_path / "mine.yaml"])
    trained = re.findall(r"--output results/smoke/policies/variants/(\S+)", result.stdout + result.stderr)
    assert sorted(set(trained)) == sorted(f"paper-reward-{kind}/initial/size" for kind in OF_ONE_POLICY)
    assert "--default-depth 4 " in result.stdout + result.stderr
