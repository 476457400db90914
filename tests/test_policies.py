"""Exported policies: their files, and the live controller against vectorised replay."""

import json
import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from ltd import devices
from ltd.engine.controllers import DraftState
from ltd.errors import InputError
from ltd.replay.latency import LatencyTable
from ltd.replay.simulator import simulate
from ltd.replay.static_grid import static_grid
from ltd.replay.traces import of_tasks
from ltd.rl import COMPILED_PARTS
from ltd.rl.evaluation import best_beside, evaluate
from ltd.rl.live_decision import LiveDecision, live_observation, observe
from ltd.rl.observations import DraftView, ObservationSpec
from ltd.rl.policies import Policy, PolicyNetwork, load_policy, save_policies
from ltd.rl.policy_controller import LiveObserver, PolicyController
from ltd.rl.policy_settings import OBSERVED, PLANNED, SIZES, asked_depths, decisions_up_to
from ltd.rl.replay_walk import ReplayWorld
from ltd.rl.suffix_prior import SuffixPrior, fit_suffix_prior
from synthetic import synthetic_profile, synthetic_traces, with_free_decisions

# Suffixes that differ enough for a random policy to decide by them.
FITTED = fit_suffix_prior(synthetic_traces())[0]
SUFFIXES = SuffixPrior(FITTED.edges, 20 * FITTED.values - 12)
SPEC = ObservationSpec(OBSERVED, 4, 6, SIZES, suffix_prior=SUFFIXES)


def random_policy(kind, seed=0, spec=SPEC, hidden=16, **schedule):
    rng = np.random.default_rng(seed)
    actions = SIZES if kind == "size" else (0, 1)
    widths = [spec.width, hidden, len(actions)]
    layers = [(rng.normal(size=(o, i)), rng.normal(size=o)) for i, o in pairwise(widths)]
    # No action is better than the others on average: what is chosen depends on what is seen.
    world = ReplayWorld(
        synthetic_traces(beam=spec.beam, max_depth=spec.max_depth),
        synthetic_profile(beam=spec.beam, max_depth=spec.max_depth),
        SIZES,
    )
    positions = np.arange(len(world.traces))[:, None]
    seen = world.observations(spec).rows(positions, np.arange(spec.max_depth)).reshape(-1, spec.width)
    layers[-1] = (layers[-1][0] / (hidden / 16) ** 0.5, layers[-1][1])
    layers[-1] = (layers[-1][0], layers[-1][1] - PolicyNetwork(layers).logits(seen).mean(axis=0))
    return Policy(kind, PolicyNetwork(layers), spec, actions, trained_on={"traces": "t"}, **schedule)


@pytest.fixture(scope="module")
def world():
    return ReplayWorld(synthetic_traces(), synthetic_profile(), SIZES)


def test_policies_survive_saving(tmp_path):
    pair = random_policy("depth", 1), random_policy("size", 2)
    save_policies(tmp_path, *pair)
    x = np.random.default_rng(0).normal(size=(5, SPEC.width)).astype(np.float32)
    for policy in pair:
        loaded = load_policy(tmp_path, policy.kind)
        assert loaded.spec == SPEC and loaded.actions == policy.actions
        assert loaded.trained_on == {"traces": "t"}
        assert np.array_equal(loaded.network.logits(x), policy.network.logits(x))


def test_damaged_folders_are_refused_in_one_line(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_policy(tmp_path, "depth")
    save_policies(tmp_path, random_policy("depth"))
    with pytest.raises(InputError, match="no size policy"):
        PolicyController.load(tmp_path)
    path = tmp_path / "policy.json"
    description = json.loads(path.read_text())
    description["depth"]["observation"]["parts"] = ["depth"]
    path.write_text(json.dumps(description))
    with pytest.raises(InputError, match="asks for 1 inputs and 2 actions, the network has"):
        load_policy(tmp_path, "depth")
    (tmp_path / "depth.safetensors").unlink()
    with pytest.raises(InputError, match="no such policy"):
        load_policy(tmp_path, "depth")


@pytest.mark.parametrize("part", COMPILED_PARTS)
def test_compiled_observations_are_those_of_replay(part):
    traces = synthetic_traces(beam=4, max_depth=6)
    prior = fit_suffix_prior(traces)[0]
    spec = ObservationSpec((part, "length"), 4, 6, (1, 2, 5, 12, 60), suffix_prior=prior)
    live, out = live_observation(spec), np.empty(spec.width, np.float32)
    for position in (0, 7, 40):
        for depth in range(7):
            scores = traces.scores[position].copy()
            lengths, entropy = traces.context_length[position : position + 1], np.float32(0.3 * depth)
            recent = np.roll(traces.recent[position], depth)
            view = DraftView(scores[None], depth, lengths, entropy[None], suffix=prior.after(recent[None]))
            assert observe(live, scores, depth, lengths[0], entropy, recent, out) == spec.width
            assert np.allclose(out, spec.observe(view)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("hidden", [16, 8000])
@pytest.mark.parametrize("kind", ["depth", "size"])
def test_compiled_decisions_are_those_of_the_network(kind, hidden):
    """Wherever the two best actions differ by more than rounding; also where torch takes batches."""
    policy, traces = random_policy(kind, hidden=hidden), synthetic_traces(beam=4, max_depth=6)
    assert policy.network.large == (hidden > 2000)
    decide, chosen = LiveDecision(policy), set()
    for position in range(60):
        scores = torch.from_numpy(traces.scores[position].copy())
        length = int(traces.context_length[position])
        depth, recent = position % 7, traces.recent[position]
        state = DraftState(6, 4, scores, depth=depth, context_length=length, recent=recent)
        suffix = policy.spec.suffix_prior.after(recent[None])
        view = DraftView(scores.numpy()[None], depth, np.array([length]), suffix=suffix)
        logits = policy.network.logits(policy.spec.observe(view))[0]
        if np.diff(np.sort(logits)[-2:])[0] > 1e-4:
            assert decide(state) == logits.argmax()
            chosen.add(decide(state))
    assert len(chosen) > 1


def test_large_networks_through_torch_are_the_same_function():
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(300, 400)).astype(np.float32)
    network = PolicyNetwork([(weight, np.zeros(300)), (rng.normal(size=(2, 300)), np.ones(2))])
    x = rng.normal(size=(3, 400)).astype(np.float32)
    hidden = np.maximum(x @ weight.T, 0)
    assert network.large
    assert np.allclose(network.logits(x), hidden @ network.layers[1][0].T + 1, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("hidden", [(), (32,), (64, 64), (400, 300)])
def test_one_observation_is_decided_as_a_batch_is(hidden):
    rng = np.random.default_rng(0)
    widths = (44, *hidden, 12)
    layers = [(rng.normal(size=(o, i)) / i**0.5, rng.normal(size=o)) for i, o in pairwise(widths)]
    network = PolicyNetwork(layers)
    x = rng.normal(size=(200, 44)).astype(np.float32)
    batch = network.logits(x).argmax(axis=1).tolist()
    assert len(set(batch)) > 3 and [network.choose(row) for row in x] == batch
    assert network.weights == sum(a * b for a, b in pairwise(widths))


@pytest.mark.parametrize("first_decision,interval", [(0, 1), (1, 1), (0, 2), (1, 2)])
def test_controller_in_the_simulator_equals_the_vectorised_replay(world, first_decision, interval):
    """Same cycles and seconds for the same policies, answer by answer and all at once."""
    depth = random_policy("depth", 6, first_decision=first_decision, interval=interval)
    size = random_policy("size", 0)
    ours = evaluate(world, depth, size)
    theirs = simulate(PolicyController(depth, size), world.traces, world.profile)
    order = np.lexsort([ours.position])
    assert len(set(theirs.log.depth)) > 1 and len(set(theirs.log.size)) > 2
    assert np.array_equal(ours.depth[order], theirs.log.depth)
    drafted = theirs.log.depth > 0
    assert np.array_equal(ours.size[order][drafted], theirs.log.size[drafted])
    assert np.array_equal(ours.tokens[order], theirs.log.tokens)
    assert np.isclose(ours.seconds.sum(), theirs.seconds.sum())
    free = simulate(PolicyController(depth, size), world.traces, with_free_decisions(world.profile))
    decisions = decisions_up_to(theirs.log.depth, asked_depths(first_decision, interval, world.max_depth))
    charged = decisions * world.profile.depth_policy + drafted * world.profile.size_policy
    assert np.allclose(theirs.log.seconds - free.log.seconds, charged) and charged.sum() > 0


def test_a_decision_costs_what_networks_of_its_size_were_measured_to(world):
    """Twice: the world keeps the measured tables, whatever networks it charged before."""
    depth, size = random_policy("depth", 3), random_policy("size", 4)
    profile = world.profile
    timed = {"depth_policy": ([100, 300], (1.0, 3.0)), "size_policy": ([100, 500], (2.0, 8.0))}
    for name, (axis, decisions) in timed.items():
        table = LatencyTable(axis, [[ms] * len(profile.context_lengths) for ms in decisions])
        profile = profile.replace_table(name, table)
    measured = ReplayWorld(world.traces, profile, SIZES)
    unpaid = ReplayWorld(world.traces, with_free_decisions(profile), SIZES)
    # Above the largest depth network that was timed, the larger one of the other kind tells how time grows.
    for weights, factor in ((50, 1), (100, 1), (200, 2), (400, 5.5), (500, 8), (900, 18)):
        charged = measured.with_networks({"depth": weights, "size": 100})
        assert charged.latency.decisions.depth == pytest.approx(1e-3 * factor)
        assert charged.latency.decisions.size == pytest.approx(2e-3)
        ours, free = evaluate(charged, depth, size), evaluate(unpaid, depth, size).seconds.sum()
        asked = np.minimum(ours.depth + 1, world.max_depth).sum()
        drafted = (ours.depth > 0).sum()
        assert ours.seconds.sum() == pytest.approx(free + 1e-3 * (factor * asked + 2 * drafted))
    controller = PolicyController(depth, size)
    charged = evaluate(measured.with_networks(controller.weights), depth, size)
    simulated = simulate(controller, world.traces, profile)
    assert simulated.seconds.sum() == pytest.approx(charged.seconds.sum())


@pytest.mark.parametrize("device_type", ["cpu", "cuda"])
@pytest.mark.parametrize("seen", [OBSERVED, PLANNED])
def test_a_cycle_planned_beside_a_gpu_costs_one_decision(world, device_type, seen):
    """Elsewhere, or with a look at the draft, every decision is charged; a plain step is a decision, too."""
    profile = replace(world.profile, device_type=device_type)
    own = ReplayWorld(world.traces, profile, SIZES)
    depth, size = (random_policy(kind, 6, spec=replace(SPEC, parts=seen)) for kind in ("depth", "size"))
    ours = evaluate(own.charged_for(depth, size), depth, size)
    theirs = simulate(PolicyController(depth, size), own.traces, profile)
    free = simulate(PolicyController(depth, size), own.traces, with_free_decisions(profile))
    made = theirs.log.depth
    assert len(set(made)) > 1 and np.isclose(ours.seconds.sum(), theirs.seconds.sum())
    expected = np.full(len(made), profile.depth_policy)
    if device_type == "cpu" or seen == OBSERVED:
        decisions = decisions_up_to(made, asked_depths(0, 1, own.max_depth))
        expected = decisions * profile.depth_policy + (made > 0) * profile.size_policy
    assert np.allclose(theirs.log.seconds - free.log.seconds, expected)
    # A constant beside a policy is not asked; what is left of a pair decides whether it plans.
    alone = evaluate(own.charged_for(3, size), 3, size)
    unpaid = ReplayWorld(world.traces, with_free_decisions(profile), SIZES)
    assert np.allclose(alone.seconds - evaluate(unpaid, 3, size).seconds, profile.size_policy)


@pytest.mark.parametrize("compiled", [True, False])
def test_plans_are_made_without_a_look_at_the_draft(monkeypatch, compiled):
    """On a GPU a look waits for it."""
    monkeypatch.setattr(devices, "has_numba", lambda: compiled)
    pair = [random_policy(kind, 2, spec=replace(SPEC, parts=PLANNED)) for kind in ("depth", "size")]
    assert PolicyController(*pair).blind and not PolicyController(pair[0], random_policy("size")).blind
    traces = synthetic_traces()
    state = DraftState(6, 4, torch.from_numpy(traces.scores[0]), context_length=50)
    plans = []
    for hidden in (False, True):
        if hidden:
            monkeypatch.delattr(DraftState, "score_array")
        controller, plan = PolicyController(*pair), []
        for position in range(0, len(traces), 9):
            state.recent[:] = traces.recent[position]
            for state.depth in range(6):
                plan.append((controller.continue_drafting(state), controller.choose_size(state)))
            controller.accepted(0)
        plans.append(plan)
    assert plans[0] == plans[1] and len(set(plans[0])) > 4


def test_constants_equal_the_static_grid(world):
    grid = static_grid(world.traces, world.profile, (0, 2, 5), (4, 12))
    plain = grid.setting(0, 4).throughput()
    steps = world.profile.plain_step(world.context_length)
    assert np.isclose(evaluate(world, 0, 4).throughput, len(steps) / steps.sum())
    for depth in (2, 5):
        for size in (4, 12):
            expected = grid.setting(depth, size).throughput()
            assert np.isclose(evaluate(world, depth, size).throughput, expected)
            assert np.isclose(evaluate(world, depth, size).speedup, expected / plain)
            assert PolicyController(depth, size).name == "ltd"


def test_the_best_constant_beside_a_policy_is_the_best(world):
    size = random_policy("size", 4)
    speedups = [evaluate(world, depth, size).speedup for depth in range(7)]
    assert best_beside(world, "depth", size, tuple(range(7))) == (np.argmax(speedups), max(speedups))


def test_task_speedups_are_those_of_the_tasks_alone(world):
    speedups = evaluate(world, 2, 4).task_speedups
    assert set(speedups) == {"chat", "code"} and speedups["chat"] != pytest.approx(speedups["code"], rel=1e-3)
    for task, speedup in speedups.items():
        alone = ReplayWorld(of_tasks(world.traces, (task,), ""), world.profile, SIZES)
        assert speedup == pytest.approx(evaluate(alone, 2, 4).speedup)


def test_a_decision_takes_less_time_than_in_numpy():
    """Some ten microseconds, where numpy takes twenty."""
    traces = synthetic_traces(beam=10, max_depth=8, sequences=1)
    spec = ObservationSpec(OBSERVED, 10, 8, SIZES, suffix_prior=fit_suffix_prior(traces)[0])
    policy, observer = random_policy("depth", spec=spec), LiveObserver(spec)
    controller = PolicyController(policy, random_policy("size", spec=spec))
    state = DraftState(8, 10, torch.from_numpy(traces.scores[5]), context_length=100)
    ways = (controller.continue_drafting, lambda state: policy.network.choose(observer.observe(state)))
    times = []
    for _ in range(300):
        controller.accepted(0)
        observer.clear()
        for depth in (4, 5):
            state.depth, taken = depth, []
            for decide in ways:
                start = time.perf_counter()
                decide(state)
                taken.append(time.perf_counter() - start)
        times.append(taken)
    compiled, in_numpy = np.min(times, axis=0)
    print(f"{1e6 * compiled:.0f} µs a decision, {1e6 * in_numpy:.0f} in numpy")
    assert compiled < in_numpy
