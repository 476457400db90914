"""Ablations: replay of recombined pairs, tables, findings, the report's sections."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from ltd.ablations.catalogue import methods
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
from ltd.methods import BASELINE, GRID, ORACLE
from ltd.replay.simulator import simulate
from ltd.reporting.ablations import draw, overhead_rows, read_ablations, sections
from ltd.rl.policies import Policy
from ltd.rl.replay_walk import ReplayWorld
from ltd.tracking import StageRun
from saved_experiment import BEAM, MAX_DEPTH, SIZES, random_policies
from synthetic import synthetic_profile, synthetic_traces, with_free_decisions

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
        "variants/ltd-observe-depth/best",
        "variants/paper-reward-time/initial/size",
    ]
    for chain in chains:
        random_policies(folder / chain, world)
        constants = {kind: {"best_constant": {"action": 3}} for kind in ("depth", "size")}
        write_json(folder / chain / "validation.json", constants)
    return folder


def test_one_half_of_the_pair_is_replaced(policies):
    depth, size = load_choices(policies, "ltd:no-depth", BEST)
    assert depth == 2 and isinstance(size, Policy)
    depth, size = load_choices(policies, "ltd:no-size", BEST)
    assert size == 4 and isinstance(depth, Policy)
    assert load_choices(policies, "ltd:constant-size", BEST)[1] == 3
    assert all(isinstance(choice, Policy) for choice in load_choices(policies, "ltd:iteration-1", BEST))
    with pytest.raises(InputError, match="iteration-7"):
        load_choices(policies, "ltd:iteration-7", BEST)


def test_policies_that_see_the_depth_alone_decide_both(policies):
    """Their variant is called as one that replaces a policy by a constant ends."""
    choices = load_choices(policies, "ltd:observe-depth", BEST)
    assert all(isinstance(choice, Policy) for choice in choices)


def test_a_size_policy_alone_decodes_at_one_depth(world, policies, tmp_path):
    method = "ltd:paper-reward-time"
    depth, size = load_choices(policies, method, BEST, default_depth=3)
    assert depth == 3 and isinstance(size, Policy)
    _, cycles = replay((method,), world.traces, world.profile, BEST, policies, default_depth=3)
    assert set(cycles.loc[cycles["method"] == method, "depth"]) == {3}
    with pytest.raises(InputError, match=rf"^{method}: decodes at depth 8, but .* {MAX_DEPTH} levels"):
        replay((method,), world.traces, world.profile, BEST, policies)


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
    names = ("ltd", "ltd:paper", "ltd:no-depth", "ltd:no-size", "ltd:iteration-1", "ltd:trained-on-code")
    paths = dict.fromkeys(
        ("draft", "profile", "baselines", "opponents", "lookup", "responses", "traces", "output", "state")
    )
    files = {"target": "", "grid": tmp_path / "grid.json", "policies": policies}
    options = BenchmarkOptions(methods=(BASELINE, *names), **files, **paths)
    controllers = make_controllers(options, BEST)
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
    write_json(tmp_path / "grid.json", {"best": BEST | {"beam": BEAM}})
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
    write_json(tmp_path / "grid.json", {"best": BEST | {"beam": BEAM}})
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
