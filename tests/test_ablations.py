"""Ablations: what a variant changes, replay of recombined pairs, tables, findings, and the plan."""

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from ltd import configuration
from ltd.ablations import catalogue
from ltd.ablations.catalogue import (
    ALL_NAMES,
    GRID,
    PolicyMethod,
    methods,
    overrides,
    parse_chain,
    parse_method,
)
from ltd.ablations.comparison import comparison
from ltd.ablations.findings import finding, seed_numbers
from ltd.ablations.policy_methods import load_choices, load_policy_controller
from ltd.ablations.replayed import replay
from ltd.benchmark import BenchmarkOptions, make_controllers
from ltd.engine.controllers import StaticController
from ltd.errors import InputError
from ltd.evaluate_ablation import EvaluateAblationOptions, evaluate_ablation, measured_overhead
from ltd.files import read_json, write_json
from ltd.measurement.summary import MEAN_TASK, PHASES
from ltd.methods import BASELINE, ORACLE
from ltd.replay.simulator import simulate
from ltd.reporting.ablations import draw, overhead_rows, read_ablations, sections
from ltd.rl.observations import PARTS
from ltd.rl.policies import Policy
from ltd.rl.replay_walk import ReplayWorld
from ltd.rl.rewards import KINDS
from ltd.tracking import StageRun
from ltd.train_policy import TrainPolicyOptions, chain_settings, train_policy
from pipeline import snakemake
from saved_experiment import BEAM, MAX_DEPTH, SIZES, random_policies
from synthetic import synthetic_profile, synthetic_traces, with_free_decisions
from test_reuse import finished_default

ROOT = Path(__file__).parents[1]
BEST = {"depth": 2, "size": 4}
TASKS = ("chat", "code", "maths")


@pytest.fixture(scope="module")
def world():
    traces = synthetic_traces(sequences=12, beam=BEAM, max_depth=MAX_DEPTH, tasks=TASKS)
    return ReplayWorld(traces, synthetic_profile(beam=BEAM, max_depth=MAX_DEPTH, max_size=8), SIZES)


@pytest.fixture(scope="module")
def policies(world, tmp_path_factory):
    """Random policies of the tuned chain, of two of its iterations, and of variants."""
    folder = tmp_path_factory.mktemp("policies")
    chains = [
        "ltd/best",
        "paper/best",
        "ltd/iteration-0",
        "ltd/iteration-1",
        "variants/ltd-trained-on-code/best",
    ]
    for chain in chains:
        random_policies(folder / chain, world)
        constants = {kind: {"best_constant": {"action": 3}} for kind in ("depth", "size")}
        write_json(folder / chain / "validation.json", constants)
    return folder


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("ltd", "ltd/best"),
        ("ltd:paper", "paper/best"),
        ("ltd:no-depth", "ltd/best"),
        ("ltd:paper-constant-size", "paper/best"),
        ("ltd:iteration-12", "ltd/iteration-12"),
        ("ltd:paper-iteration-0", "paper/iteration-0"),
        ("ltd:reward-time", "variants/ltd-reward-time/best"),
        ("ltd:paper-network-1024-256", "variants/paper-network-1024-256/best"),
        ("ltd:trained-on-abstract_algebra", "variants/ltd-trained-on-abstract_algebra/best"),
    ],
)
def test_a_methods_name_tells_its_folder(name, folder):
    method = parse_method(name)
    assert method.folder == folder and method.name == name
    if method.is_trained:
        assert parse_chain(method.chain) == method


@pytest.mark.parametrize(
    "name", ["ltd:", "ltd:best", "ltd:iteration-x", "ltd:reward-joy", "ltd:observe-smell", "ddd"]
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


def test_what_variants_change():
    base = {
        "size_observation": ("nodes", "depth", "length"),
        "depth_observation": ("level", "entropy", "machine"),
    }
    assert {overrides(f"reward-{kind}", base)["reward"] for kind in KINDS} == set(KINDS)
    assert overrides("network-64-32", base) == {"size_network": [64, 32]}
    assert overrides("trained-on-code", base) == {"train_tasks": ["code"]}
    assert overrides("seed-3", base) == {} and catalogue.seed_of("seed-3", 10) == 13
    assert catalogue.seed_of("reward-time", 10) == 10
    seen = overrides("observe-scores-depth", base)
    # What the base has not is seen in the first way; what ablations do not vary stays, in the base's order.
    assert seen["size_observation"] == ["nodes", "depth"]
    assert seen["depth_observation"] == ["level", "machine", "one_hot_depth"]
    assert {part for parts in catalogue.SYNONYMS.values() for part in parts} <= set(PARTS)


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


def test_what_a_variant_does_not_change_is_not_trained_again(world, tmp_path):
    """The base's training with the same outcome as one of its own, to the last bit."""
    world.traces.save(tmp_path / "traces.safetensors")
    world.profile.save(tmp_path / "profile.json")
    base = tmp_path / "base/size"
    first = TrainPolicyOptions(
        policy="size",
        traces=tmp_path / "traces.safetensors",
        validation_traces=tmp_path / "traces.safetensors",
        profile=tmp_path / "profile.json",
        output=base,
        sizes=SIZES,
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
    assert trained("reward-marginal") == (True, weights)
    assert trained("network-8", unvaried=None) == (False, weights)
    copied, others = trained("reward-acceptance")
    assert not copied and others != weights


def test_one_half_of_the_pair_is_replaced(policies):
    depth, size = load_choices(policies, "ltd:no-depth", BEST)
    assert depth == 2 and isinstance(size, Policy)
    depth, size = load_choices(policies, "ltd:no-size", BEST)
    assert size == 4 and isinstance(depth, Policy)
    assert load_choices(policies, "ltd:constant-size", BEST)[1] == 3
    assert all(isinstance(choice, Policy) for choice in load_choices(policies, "ltd:iteration-1", BEST))
    with pytest.raises(InputError, match="iteration-7"):
        load_choices(policies, "ltd:iteration-7", BEST)


@pytest.mark.parametrize("name", ["ltd", "ltd:no-depth", "ltd:no-size"])
def test_replay_is_the_simulation_of_the_live_controller(world, policies, name):
    runs, cycles = replay((name,), world.traces, world.profile, BEST, policies)
    controller = load_policy_controller(policies, name, BEST)
    simulated = simulate(controller, world.traces, world.profile)
    mine = runs[runs["method"] == name]
    assert np.allclose(np.sort(mine["seconds"]), np.sort(simulated.seconds), rtol=1e-9)
    assert sorted(mine["tokens"]) == sorted(simulated.tokens)
    log = cycles[cycles["method"] == name]
    assert log["verified"].sum() == simulated.log.verified.sum()
    free = simulate(controller, world.traces, with_free_decisions(world.profile))
    charged = log["depth_policy"].sum() + log["size_policy"].sum()
    assert charged == pytest.approx(simulated.seconds.sum() - free.seconds.sum()) and charged > 0


def test_table_is_relative_to_plain_decoding_reference_and_oracle(world, policies):
    listed = ("ltd", "ltd:no-depth", GRID)
    runs, cycles = replay(listed, world.traces, world.profile, BEST, policies)
    table = comparison(runs, cycles, listed, seed=0).set_index(["method", "task"])
    assert set(table.index.unique("method")) == {*listed, ORACLE}
    assert np.allclose(table.loc["ltd", ["ratio", "ratio_low", "ratio_high"]], 1)
    assert np.allclose(table.loc[GRID, "gap_share"], 0) and np.allclose(table.loc[ORACLE, "gap_share"], 1)
    sums = runs[runs["task"] == "chat"].groupby("method")[["tokens", "seconds"]].sum()
    rates = sums["tokens"] / sums["seconds"]
    plain = world.profile.autoregressive_step(world.traces.context_length).sum()
    assert runs.loc[runs["method"] == BASELINE, "seconds"].sum() == pytest.approx(plain)
    assert table.loc[("ltd", "chat"), "speedup"] == pytest.approx(rates["ltd"] / rates[BASELINE])
    assert table.loc[("ltd:no-depth", "chat"), "ratio"] == pytest.approx(rates["ltd:no-depth"] / rates["ltd"])
    assert table.loc[(GRID, "chat"), "mean_depth"] == 2 and table.loc[(GRID, "chat"), "mean_size"] == 4
    headline = table.loc["ltd"].loc[["chat", "maths"], "speedup"].mean()
    assert table.loc[("ltd", MEAN_TASK), "speedup"] == pytest.approx(headline)


def test_the_benchmark_decodes_with_them(policies, tmp_path):
    write_json(tmp_path / "grid.json", {"best": BEST})
    names = ("ltd", "ltd:paper", "ltd:no-depth", "ltd:no-size", "ltd:iteration-1", "ltd:trained-on-code")
    paths = dict.fromkeys(
        ("draft", "profile", "baselines", "opponents", "lookup", "responses", "traces", "output", "state")
    )
    files = {"target": "", "grid": tmp_path / "grid.json", "policies": policies}
    options = BenchmarkOptions(methods=(BASELINE, *names), **files, **paths)
    controllers = make_controllers(options)
    assert [controllers[name].name for name in names] == list(names)
    assert controllers["ltd:no-depth"].depth == 2 and controllers["ltd:no-size"].size == 4


def made_up(ratios):
    """Table and runs in which every method's throughput is known, with intervals of a hundredth."""
    rows, runs = [], []
    for method, ratio in ratios.items():
        rows.append(
            {"method": method, "task": MEAN_TASK, "speedup": 1.5 * ratio, "ratio": ratio}
            | {"ratio_low": ratio - 0.01, "ratio_high": ratio + 0.01}
            | {"depth_policy_share": 0.01, "size_policy_share": 0.005}
        )
        for task in ("chat", "code", "maths"):
            speed = 1.0 if task == "code" else ratio
            runs += [
                {
                    "method": method,
                    "task": task,
                    "prompt": str(prompt),
                    "temperature": 0.0,
                    "source": "replay",
                }
                | {"tokens": 100, "seconds": 1 / speed}
                for prompt in range(6)
            ]
    return pd.DataFrame(rows), pd.DataFrame(runs)


def test_findings_tell_significant_differences_from_none():
    table, runs = made_up({"ltd": 1.0, "ltd:no-depth": 0.9, "ltd:no-size": 0.995, GRID: 1.1})
    sentence = finding("components", table, runs, {}, 0)
    assert "significantly slower: ltd:no-depth (0.900x" in sentence
    assert "significantly faster: eagle3_grid (1.100x" in sentence
    assert "no significant difference: ltd:no-size (0.995x" in sentence


def test_seeds_are_judged_by_their_spread():
    table, runs = made_up({"ltd": 1.0, "ltd:seed-1": 1.01, GRID: 3.0})
    low, high = 600 * 3 / (18 / 1.0), 100 * 18 / (6 + 12 / 1.01)
    assert seed_numbers(runs, table)[0] == pytest.approx((high - low) / ((high + low) / 2))
    assert "2 seeds" in finding("seeds", table, runs, {}, 0) and "within the 2%" in finding(
        "seeds", table, runs, {}, 0
    )
    table, runs = made_up({"ltd": 1.0, "ltd:seed-1": 1.1, GRID: 3.0})
    assert "outside the 2%" in finding("seeds-paper", table, runs, {}, 0)


def test_where_no_tree_pays_the_grid_is_plain_decoding(world, policies):
    runs, _ = replay((GRID, "ltd"), world.traces, world.profile, {"depth": 0, "size": 1}, policies)
    seconds = runs.groupby("method")["seconds"].sum()
    waiting = simulate(StaticController(0, 1), world.traces, world.profile).seconds.sum()
    assert seconds[GRID] == seconds[BASELINE] < waiting


def test_generalisation_is_about_the_other_tasks():
    table, runs = made_up({GRID: 1.0, "ltd": 1.2, "ltd:trained-on-code": 0.9})
    sentence = finding("generalisation", table, runs, {}, 0)
    assert "Trained on code alone" in sentence and "mean of chat, maths 0.750x ltd" in sentence
    assert "0.900x eagle3_grid" in sentence and "slower than eagle3_grid: chat, maths." in sentence


def test_overhead_in_replay_and_on_the_clock(tmp_path):
    rows = [
        {"method": method, "task": task, "temperature": 0.0} | dict.fromkeys(PHASES, 1.0)
        for method in (BASELINE, "ltd")
        for task in ("chat", "code")
    ]
    cycles = pd.DataFrame(rows).assign(policy_ms=[0, 0, 1, 9])
    sampled = cycles.assign(temperature=1.0, policy_ms=5.0)  # must not count
    pd.concat([cycles, sampled]).to_parquet(tmp_path / "cycles.parquet")
    measured = measured_overhead(tmp_path / "cycles.parquet", 0.0)
    assert measured == {"ltd": pytest.approx(0.25)}  # code is no headline task
    table, runs = made_up({"ltd": 1.0, GRID: 1.0})
    sentence = finding("overhead", table, runs, measured, 0)
    assert (
        "1.00% of its time on depth and 0.50% on size decisions, 1.50% together (measured live 25.00%)"
        in sentence
    )


def test_an_ablation_compares_on_the_tasks_of_the_benchmark(world, policies, tmp_path):
    world.traces.save(tmp_path / "traces.safetensors")
    world.profile.save(tmp_path / "profile.json")
    write_json(tmp_path / "grid.json", {"best": BEST})
    options = EvaluateAblationOptions(
        name="components",
        methods=("ltd", GRID),
        traces=tmp_path / "traces.safetensors",
        profile=tmp_path / "profile.json",
        grid=tmp_path / "grid.json",
        policies=policies,
        test_tasks=("chat", "maths"),
        output=tmp_path / "components.csv",
    )
    evaluate_ablation(options, StageRun())
    assert set(pd.read_csv(options.output)["task"]) == {"chat", "maths", MEAN_TASK}
    with pytest.raises(InputError, match=r"benchmark\.test_tasks: 'poems' has no answers"):
        evaluate_ablation(dataclasses.replace(options, test_tasks=("poems",)), StageRun())


def test_stage_and_its_sections_of_the_report(world, policies, tmp_path):
    experiment = tmp_path / "default"
    world.traces.save(tmp_path / "traces.safetensors")
    world.profile.save(tmp_path / "profile.json")
    write_json(tmp_path / "grid.json", {"best": BEST})
    cycle = {"method": "ltd", "task": "chat", "temperature": 0.0}
    cycles = pd.DataFrame([cycle | dict.fromkeys(PHASES, 1.0)])
    cycles.to_parquet(tmp_path / "cycles.parquet")
    names = ("components", "iterations", "overhead", "generalisation")
    for name in names:
        listed = methods(name, rounds=1, entropy=False, hidden=False, train_task="code")
        evaluate_ablation(
            EvaluateAblationOptions(
                name=name,
                methods=tuple(listed),
                traces=tmp_path / "traces.safetensors",
                profile=tmp_path / "profile.json",
                grid=tmp_path / "grid.json",
                policies=policies,
                cycles=tmp_path / "cycles.parquet" if name == "overhead" else None,
                output=experiment / "ablations" / f"{name}.csv",
            ),
            StageRun(),
        )
    assert read_json(experiment / "ablations/components.json")["prompts"].keys() == set(TASKS)
    shown = read_ablations(experiment, names)
    text = "\n".join(sections(shown))
    assert read_json(experiment / "ablations/components.json")["finding"] in text
    # The paper's Vicuna without its depth policy; its Llama and DeepSeek after the first round; its overhead.
    assert "### Components (the paper's table 4)" in text and "| 4.13 |" in text
    assert "| 4.05 | 3.90 |" in text
    assert overhead_rows(shown[2]).set_index("policies").loc["paper, llama31-8b", "both %"] == 1.39
    assert "ltd (live)" in text and "25.00" in text
    figures = draw(shown)
    assert set(figures) == {"ablation_iterations", "ablation_generalisation"}
    for name in figures:
        assert f"({name}.svg)" in text
    assert "nan" not in text.lower()
    with pytest.raises(InputError, match=r"seeds\.json"):
        read_ablations(experiment, ("seeds",))


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
    folders = catalogue.needed_folders(config["benchmark"]["methods"], "policies")
    rounds = {f"policies/ltd/iteration-{number}" for number in range(config["rl"]["rounds"] + 1)}
    looked_up = f"policies/{catalogue.LOOKUP_POLICIES}"
    assert {"policies/ltd/best", "policies/paper/best", looked_up, *rounds} == set(folders)
    assert {catalogue.LOOKUP, catalogue.LOOKUP_LEARNED} <= set(config["benchmark"]["methods"])
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
        assert f"{base} --variant seed-{number} --seed {number}" in plan
        assert f"--variant seed-{number} --seed {number} --unvaried" not in plan
    varied = f"{base} --variant reward-time --seed 0 --unvaried results/smoke/policies/ltd"
    for training in ("initial/size", "initial/depth", "iteration-1"):
        assert f"{varied}/{training}" in plan
    assert "--ablations seeds rewards" in plan and "ltd:no-depth" not in plan
