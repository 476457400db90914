"""Opponents of the policies: each on a problem whose answer is known, saved and loaded, live as in replay."""

import dataclasses
import json
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch

from ltd import devices
from ltd.benchmark import benchmark
from ltd.engine.controllers import DraftState
from ltd.errors import InputError
from ltd.files import read_json
from ltd.fit_opponents import (
    decisions_of,
    fit_opponents,
)
from ltd.opponents import NAMES, marginal_fit
from ltd.opponents.decisions import Decisions
from ltd.opponents.folders import load_opponent, load_rule
from ltd.opponents.marginal_fit import fit_forecast
from ltd.opponents.marginal_rule import Growth, regressors
from ltd.opponents.rule_controller import RuleController
from ltd.opponents.stopping import going_on
from ltd.opponents.supervised import soft_cross_entropy
from ltd.replay.simulator import simulate
from ltd.replay.static_grid import static_grid
from ltd.replay.traces import Traces, true_path_ranks
from ltd.rl.evaluation import best_static, evaluate
from ltd.rl.replay_walk import ReplayWorld
from ltd.rl.workshop_files import open_workshop
from ltd.tracking import StageRun
from opponent_fits import SIZES, fit_options, of
from saved_experiment import SIZES as ENGINE_SIZES
from saved_experiment import make_experiment
from synthetic import synthetic_profile, synthetic_traces


@pytest.fixture(scope="module")
def world():
    """Prompts that no opponent was fitted to."""
    return ReplayWorld(synthetic_traces(seed=2, sequences=16), synthetic_profile(), SIZES)


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    return fit_options(tmp_path_factory.mktemp("opponents"))


@pytest.fixture(scope="module")
def fitted(options):
    """Folder of all opponents."""
    for name in NAMES:
        fit_opponents(of(options, name), StageRun())
    return options.output.parent


def two_kinds(seed):
    """Trees of 2, 4 and 4 nodes: the likeliest chain is certain and right, or all is even and wrong."""
    rng = np.random.default_rng(seed)
    sequences, tokens = 12, 60
    easy = rng.random(sequences * tokens) < 0.5
    sure = np.log([0.98, 0.01, 0.98, 0.01, 0.005, 0.005, 0.98, 0.01, 0.005, 0.005], dtype=np.float32)
    even = np.log([0.3, 0.3, 0.1, 0.1, 0.1, 0.1, 0.03, 0.03, 0.03, 0.03], dtype=np.float32)
    scores = np.where(easy[:, None], sure, even)
    left = np.tile(np.arange(tokens, 0, -1), sequences).astype(np.int32)
    levels = np.arange(3)
    true_node = np.where(easy[:, None] & (levels < left[:, None]), np.array([0, 2, 6]), -1).astype(np.int32)
    return Traces(
        scores=scores,
        true_node=true_node,
        ranks=true_path_ranks(scores, true_node, 2),
        beams=np.tile(np.array([0, 1], dtype=np.uint8), (len(easy), 3, 1)),
        root=easy.astype(np.int32),
        context_length=(70 - left).astype(np.int32),
        sequence=np.repeat(np.arange(sequences, dtype=np.int32), tokens),
        tokens_left=left,
        beam=2,
        max_depth=3,
        temperature=0.0,
        target_hash="target",
        draft_hash="draft",
        sequences=[{"task": "chat", "question_id": i, "turn": 0} for i in range(sequences)],
    )


def replay(folder, name, world):
    """Vectorised replay of a fitted opponent."""
    controller = load_opponent(folder, name)
    if name == "marginal_rule":
        return decisions_of(controller.rule, world).replay(world)
    return evaluate(world, controller.depth, controller.size)


@pytest.mark.parametrize("name", NAMES)
def test_the_deployed_decisions_are_the_replayed_ones(fitted, world, name):
    """Saved, loaded, asked level by level as in decoding: the same cycles as the fit's own tables."""
    controller = load_opponent(fitted, name)
    live = simulate(controller, world.traces, world.profile)
    replayed = replay(fitted, name, world)
    order = np.argsort(replayed.position)
    assert np.array_equal(live.log.depth, replayed.depth[order])
    assert np.array_equal(live.log.size, replayed.size[order])
    assert live.seconds.sum() == pytest.approx(replayed.seconds.sum())


@pytest.mark.parametrize("compiled", [True, False])
def test_the_deployed_rule_weighs_what_the_replayed_one_does(fitted, monkeypatch, compiled):
    """At every depth of hundreds of drafts, half with scores that often tie, compiled and without Numba."""
    monkeypatch.setattr(devices, "has_numba", lambda: compiled)
    rule, traces = load_rule(fitted / "marginal_rule"), synthetic_traces(seed=5, sequences=12)
    # So that neither going on nor stopping prevails.
    rule.forecast[:, 0] -= rule.forecast[:, 0] / 2
    scores = np.where(np.arange(len(traces))[:, None] % 2, np.round(traces.scores, 1), traces.scores)
    controller, growth = RuleController(rule), Growth(len(traces), rule.calibration, rule.beam, rule.sizes)
    went_on, sizes, ties = [], set(), 0
    for depth in range(rule.max_depth + 1):
        growth.extend(scores, depth)
        values = rule.stop_values(depth, growth.expected(), traces.context_length)
        gain = (
            regressors(growth, rule.suffix_prior.after(traces.recent)) @ rule.forecast[depth]
            if depth < rule.max_depth
            else np.full(len(traces), np.inf)
        )
        for position in range(len(traces)):
            state = DraftState(
                max_depth=rule.max_depth,
                beam=rule.beam,
                scores=torch.from_numpy(scores[position]),
                depth=depth,
                context_length=int(traces.context_length[position]),
                recent=traces.recent[position],
            )
            controller.begin(0)
            assert rule.sizes[values[position].argmax()] == controller.choose_size(state)
            sizes.add(controller.choose_size(state))
            if depth < rule.max_depth and rule.asked(depth):
                ties += abs(gain[position]) < 1e-12
                went_on.append(controller.continue_drafting(state))
                assert went_on[-1] == (gain[position] > 0) or abs(gain[position]) < 1e-12
    assert len(traces) > 300 and len(sizes) > 2 and 0.05 < np.mean(went_on) < 0.95 and ties < 3


@pytest.mark.parametrize("name", NAMES[1:])
def test_two_kinds_of_positions_are_told_apart(options, tmp_path, name):
    """Where every draft is surely right or surely wrong the optimum is known: the opponents reach it."""
    for split, seed in (("train", 0), ("validation", 1)):
        two_kinds(seed).save(tmp_path / f"{split}.safetensors")
    profile = synthetic_profile(beam=2, max_depth=3, max_size=8)
    profile.save(tmp_path / "profile.json")
    sizes = (1, 2, 3, 4)
    settings = dataclasses.replace(
        of(options, name),
        traces=tmp_path / "train.safetensors",
        validation_traces=tmp_path / "validation.safetensors",
        profile=tmp_path / "profile.json",
        output=tmp_path / name,
        sizes=sizes,
    )
    fit_opponents(settings, StageRun())
    new = ReplayWorld(two_kinds(seed=2), profile, sizes)
    easy = new.traces.true_node[:, 0] >= 0
    choices = list(product(range(4), sizes))
    asked = np.isin(np.arange(4), (0, 1, 2))
    best = 0.0
    for (d, v), (e, u) in product(choices, choices):
        go_on = np.arange(4) < np.where(easy, d, e)[:, None]
        sizes_chosen = np.where(easy, v, u)[:, None].repeat(4, axis=1)
        best = max(best, Decisions(go_on, sizes_chosen, asked).replay(new).throughput)
    assert replay(tmp_path, name, new).throughput == pytest.approx(best, rel=5e-3)
    constant = max(evaluate(new, *pair).throughput for pair in choices)
    assert best > 1.1 * constant


def test_best_constant_is_the_best_of_all_pairs(options, fitted):
    traces = synthetic_traces(seed=1, sequences=12)
    world = ReplayWorld(traces, synthetic_profile(), SIZES)
    speeds = {(d, v): evaluate(world, d, v).throughput for d, v in product(range(7), SIZES)}
    assert best_static(world, options.first_decision) == max(speeds, key=speeds.get)
    controller = load_opponent(fitted, "best_constant")
    assert (controller.depth, controller.size) == max(speeds, key=speeds.get)


def test_where_no_tree_pays_the_best_constant_is_plain_decoding(options, tmp_path):
    """Without a head, beside which plain steps take longer: it is validated as it decodes."""
    profile, output = synthetic_profile(verify_slope=4.0), tmp_path / "best_constant"
    profile.save(tmp_path / "profile.json")
    changed = dataclasses.replace(options, profile=tmp_path / "profile.json", output=output)
    fit_opponents(changed, StageRun())
    assert load_opponent(tmp_path, "best_constant") is None
    world = ReplayWorld(Traces.load(options.validation_traces), profile, SIZES)
    validation, grid = read_json(output / "validation.json"), static_grid(world.traces, profile, [0], [1])
    assert validation["static"]["depth"] == 0 and validation["depth"]["0"] == 1
    assert validation["throughput"] == pytest.approx(grid.throughput()[0, 0], rel=1e-12)
    assert [validation["speedup"], *validation["tasks"].values()] == pytest.approx([1, 1, 1], rel=1e-12)
    assert evaluate(world, 0, 1).speedup < 0.95


def test_the_rule_verifies_a_node_while_its_chance_pays_for_its_time(fitted):
    """Where verification is linear, the chosen size is the last whose nodes beat rate times the slope."""
    rule = load_rule(fitted / "marginal_rule")
    sizes = tuple(range(1, 13))
    seconds = np.zeros((rule.max_depth + 1, 1, len(sizes))) + 0.1 * np.arange(len(sizes))
    rule = dataclasses.replace(rule, sizes=sizes, seconds=seconds, rate=2.0)
    chances = np.array([0.9, 0.7, 0.5, 0.3, 0.21, 0.19, 0.1, 0.05, 0.02, 0.02, 0.01, 0.01])
    values = rule.stop_values(1, chances.cumsum()[None], np.array([7]))
    assert sizes[values[0].argmax()] == (chances > 2.0 * 0.1).sum()
    assert values[0, 0] == pytest.approx(1.9)


def test_the_rules_rate_is_the_throughput_it_attains(fitted, options):
    """Nearly: the round that is kept need not be the one in which the rate stands still."""
    rule = load_rule(fitted / "marginal_rule")
    world = ReplayWorld(synthetic_traces(seed=0, sequences=48), synthetic_profile(), SIZES)
    attained = decisions_of(rule, world).replay(world).throughput
    assert attained == pytest.approx(rule.rate, rel=4e-3)
    assert attained > 1.02 * evaluate(world, *best_static(world, options.first_decision)).throughput


def test_the_rules_round_that_does_best_on_validation_is_kept(options, monkeypatch):
    """The first, where what later rounds fit drafts nothing at all."""
    fits = []

    def worse_later(*arguments):
        forecast = fit_forecast(*arguments)
        fits.append(np.zeros_like(forecast) if fits else forecast)
        return fits[-1]

    monkeypatch.setattr(marginal_fit, "fit_forecast", worse_later)
    paths = options.traces, options.validation_traces, options.profile
    rule = marginal_fit.fit_marginal_rule(open_workshop(options.as_policies(), *paths, 0), rate=1000.0)
    assert len(fits) > 1 and np.array_equal(rule.forecast, fits[0]) and fits[0].any()


def test_value_of_going_on_follows_the_later_decisions():
    values = torch.tensor([[1.0, 0.0, 5.0, 2.0]])
    assert going_on(values, torch.tensor([[True, False, True]])).tolist() == [[-1.0, 2.0, -3.0]]
    assert going_on(values, torch.tensor([[True, True, False]])).tolist() == [[4.0, 5.0, -3.0]]


def test_soft_labels_prefer_the_best_mean_to_the_most_frequent_best():
    """One action is slightly better nine times in ten, the other much better once: that one is worth more."""
    values = torch.tensor([[0.1, 0.0]] * 9 + [[0.0, 1.5]])
    outputs = torch.zeros(1, 2, requires_grad=True)
    soft_cross_entropy(outputs.expand(10, 2), values).backward()
    assert outputs.grad[0, 1] < 0 < outputs.grad[0, 0]


def test_validation_says_what_was_chosen_and_attained(fitted):
    for name in NAMES:
        validation = read_json(fitted / name / "validation.json")
        assert validation["speedup"] > 0 and set(validation["tasks"]) == {"chat", "code"}
        assert sum(validation["depth"].values()) == pytest.approx(1)
    rates = read_json(fitted / "optimal_stopping" / "validation.json")["rates"]
    assert 1 <= len(rates) <= 3 and rates[-1] > 1


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"fit_folds": 1}, "opponents.fit_folds: 1: expected 2 or more"),
        ({"fit_learning_rate": 0.0}, "opponents.fit_learning_rate"),
        ({"sizes": (1, 99)}, "lies outside the measured 1 to 60"),
        ({"train_tasks": ("poems",)}, "'poems' has no answers"),
    ],
)
def test_wrong_options_are_refused_in_one_line(options, change, complaint):
    with pytest.raises(InputError, match=complaint) as refusal:
        fit_opponents(dataclasses.replace(options, **change), StageRun())
    assert "\n" not in str(refusal.value)


def test_absent_and_damaged_folders_are_refused(fitted, tmp_path):
    with pytest.raises(InputError, match="'rule' is unknown; choose from best_constant"):
        load_opponent(fitted, "rule")
    with pytest.raises(InputError, match="no such opponent; fit it"):
        load_opponent(tmp_path, "marginal_rule")
    description = read_json(fitted / "marginal_rule" / "rule.json")
    (tmp_path / "marginal_rule").mkdir()
    tables = (fitted / "marginal_rule" / "rule.safetensors").read_bytes()
    (tmp_path / "marginal_rule" / "rule.safetensors").write_bytes(tables)
    path = tmp_path / "marginal_rule" / "rule.json"
    path.write_text(json.dumps(description | {"max_depth": 9}))
    with pytest.raises(InputError, match="do not belong together"):
        load_opponent(tmp_path, "marginal_rule")
    path.write_text(json.dumps(description | {"version": 0}))
    with pytest.raises(InputError, match="not an opponent of version 2"):
        load_opponent(tmp_path, "marginal_rule")
    path.write_text(json.dumps({name: value for name, value in description.items() if name != "rate"}))
    with pytest.raises(InputError, match="not an opponent of version 2"):
        load_opponent(tmp_path, "marginal_rule")
    path.write_text(json.dumps(description))
    damaged = tmp_path / "marginal_rule" / "rule.safetensors"
    damaged.write_bytes(tables[:-8])
    with pytest.raises(InputError, match=r"rule\.safetensors: not the tables of a rule"):
        load_opponent(tmp_path, "marginal_rule")
    damaged.unlink()
    with pytest.raises(InputError, match=r"rule\.safetensors: not the tables of a rule"):
        load_opponent(tmp_path, "marginal_rule")


def test_the_benchmark_decodes_with_every_opponent(options, tmp_path):
    """Live and lossless, and replay accepts the same drafts."""
    experiment = make_experiment(tmp_path, prompts=4)
    files = {
        "traces": experiment.traces,
        "validation_traces": experiment.traces,
        "profile": experiment.profile,
    }
    for name in NAMES:
        fit = dataclasses.replace(of(options, name), **files, sizes=ENGINE_SIZES, fit_steps=20, fit_rounds=1)
        fit_opponents(dataclasses.replace(fit, output=experiment.opponents / name), StageRun())
    methods = ("autoregressive", *NAMES)
    benchmark(dataclasses.replace(experiment, methods=methods, repeats=1), StageRun())
    runs = pd.read_parquet(experiment.output / "runs.parquet")
    assert set(runs["method"]) == set(methods) and runs["lossless"].all()
    summary = pd.read_csv(experiment.output / "summary.csv").set_index(["source", "method", "task"])
    for name, task in product(NAMES, ("chat", "code")):
        lengths = [
            summary.loc[(source, name, task), "acceptance_length"] for source in ("measured", "replay")
        ]
        assert lengths[0] == pytest.approx(lengths[1])
