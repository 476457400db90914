"""Policies that observe the machine: what they see of it, that they use it, and how they are deployed."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from ltd.engine.controllers import DraftState
from ltd.errors import InputError
from ltd.replay.latency_family import Change, changed
from ltd.replay.simulator import simulate
from ltd.rl import KINDS
from ltd.rl.co_adaptation import Workshop, evaluate_pair, rehearse_pair, train_chain
from ltd.rl.evaluation import evaluate
from ltd.rl.machine import machine_numbers, settled
from ltd.rl.observations import ObservationSpec
from ltd.rl.policies import load_policy, save_policies
from ltd.rl.policy_controller import LiveObserver, PolicyController
from ltd.rl.policy_settings import COMPACT, PolicySettings
from ltd.rl.replay_walk import ReplayWorld
from ltd.rl.rewards import Reward
from ltd.rl.vector_environment import MEMORY
from ltd.rl.workshop_files import open_workshop
from synthetic import save_inputs, synthetic_profile, synthetic_traces

SIZES = (1, 2, 4, 8, 16)
MEASURED = synthetic_profile()
# Nodes for nothing: more of them never hurt. Nodes at five steps each: none is worth it.
FREE, DEAR = changed(MEASURED, Change(slower_growth=1e6, rest=1e-6)), synthetic_profile(verify_slope=5.0)
OBSERVATION = (*COMPACT, "machine")
SETTINGS = PolicySettings(
    reward="marginal",
    sizes=SIZES,
    machines=2,
    size_observation=OBSERVATION,
    depth_observation=OBSERVATION,
    rehearsal=250,
    size_steps=1024,
    depth_steps=1024,
    lanes=64,
    rollout=1024,
    minibatch=256,
    validations=1,
    rounds=0,
)


def world_on(*machines, seed=1):
    traces = synthetic_traces(seed=seed, sequences=16)
    return ReplayWorld(traces, MEASURED, SIZES, machines)


@pytest.fixture(scope="module")
def shop():
    """Training and validation on the two extreme machines."""
    return Workshop(world_on(FREE, DEAR), world_on(FREE, DEAR, seed=2), SETTINGS, {}).with_settings(SETTINGS)


@pytest.fixture(scope="module")
def rehearsed(shop):
    return rehearse_pair(shop)


@pytest.fixture(scope="module")
def pair(rehearsed):
    return {kind: trained.policy for kind, trained in rehearsed.items()}


def test_numbers_of_a_machine():
    numbers = machine_numbers(MEASURED, SIZES)
    slower = machine_numbers(changed(MEASURED, Change(slower_growth=4)), SIZES)
    drafting = machine_numbers(changed(MEASURED, Change(draft=2)), SIZES)
    assert numbers.shape == (3 + len(SIZES) - 1,) and np.abs(numbers).max() < 3
    assert np.array_equal(slower[:2], numbers[:2]) and (slower[3:] < numbers[3:]).all()
    assert np.allclose(drafting[0], 2 * numbers[0]) and np.array_equal(drafting[2:], numbers[2:])
    # Milliseconds do not matter, only what they are in steps.
    tables = {
        name: replace(table, ms=(3 * np.array(table.ms)).tolist()) for name, table in MEASURED.tables.items()
    }
    assert np.allclose(machine_numbers(replace(MEASURED, tables=tables), SIZES), numbers, atol=1e-6)


def test_one_pair_acts_as_each_machine_demands(pair):
    """Nodes for nothing: all of them. Nodes that no token can pay: one, or a plain step."""
    free, dear = (
        evaluate(world_on(machine, seed=3), *(settled(pair[kind], machine) for kind in ("depth", "size")))
        for machine in (FREE, DEAR)
    )
    whole_trees = np.minimum(free.world.latency.pool[free.depth], SIZES[-1])
    assert (free.size >= whole_trees).mean() > 0.9 and free.depth.mean() > 2
    assert (dear.size <= 1).mean() > 0.95


def test_settled_policies_choose_as_those_that_observe(pair):
    world = world_on(FREE, DEAR, seed=4)
    for place, machine in enumerate((FREE, DEAR)):
        for kind in KINDS:
            policy, fixed = pair[kind], settled(pair[kind], machine)
            assert fixed.spec.parts == COMPACT and fixed.weights == policy.weights == fixed.network.weights
            positions, depth = np.arange(len(world.traces)), 3
            observing = world.observations(policy.spec).rows(positions, depth, place)
            without = world.observations(fixed.spec).rows(positions, depth)
            expected = policy.network.logits(observing)
            assert np.allclose(fixed.network.logits(without), expected, atol=1e-4)
    assert not np.allclose(settled(pair["size"], FREE).network.layers[0][1], fixed.network.layers[0][1])


def test_a_walk_over_a_family_is_the_walks_on_its_machines(pair):
    """Answers take turns on the machines; tokens, seconds and plain time of each are those of its machine."""
    family = evaluate(world_on(FREE, DEAR, seed=5), pair["depth"], pair["size"])
    tokens, seconds = family.by_machine()
    plain = []
    for place, machine in enumerate((FREE, DEAR)):
        alone = evaluate(world_on(machine, seed=5), *(settled(pair[k], machine) for k in ("depth", "size")))
        own = alone.answer % 2 == place
        assert tokens[place] == alone.tokens[own].sum()
        assert np.isclose(seconds[place], alone.seconds[own].sum())
        plain.append(alone.plain_seconds[alone.world.traces.sequence % 2 == place].sum())
    assert np.isclose(family.speedup, sum(plain) / seconds.sum())


def test_every_machine_has_its_own_rate(shop):
    reward = Reward("marginal", 0.5, np.array([1.0, 3.0]))
    tokens, seconds = np.array([2.0, 2.0]), np.array([0.5, 0.5])
    assert np.allclose(reward(tokens, seconds, np.array([0, 1])), [1.0, -1.0])
    env = shop.environment("depth", {}, seed=0)
    env.reset()
    for step in range(40):
        env.step(np.full(env.num_envs, step % 2))
    before = env.tokens, env.seconds
    env.follow_rate()
    assert np.allclose([env.tokens, env.seconds], MEMORY * np.array(before))
    # Eight steps of the dear machine's time buy what one or two of the other's do.
    assert env.reward.rate.shape == (2,) and env.reward.rate[0] > 3 * env.reward.rate[1]


def test_a_chain_over_a_family_trains_and_validates(shop, rehearsed):
    """It starts from the rates that the pair attains, and does not lose what was rehearsed."""
    trained, evaluations = train_chain(shop, 0, seed=0, start=rehearsed)
    before, after = evaluate_pair(shop.validation, rehearsed).speedup, evaluations[0].speedup
    assert after >= 0.99 * before
    attained = np.divide(*evaluate_pair(shop.training, rehearsed).by_machine()) * shop.training.step_seconds
    assert trained["depth"].training.curves[0]["rate"] == pytest.approx(attained.mean())


def test_a_folder_names_its_machine_and_moves_to_another(pair, tmp_path):
    save_policies(tmp_path, *pair.values())
    assert np.allclose(load_policy(tmp_path, "size").machine, machine_numbers(MEASURED, SIZES))
    at_home, moved = PolicyController.load(tmp_path), PolicyController.load(tmp_path, profile=DEAR)
    assert np.array_equal(
        at_home.size.network.layers[0][1], settled(pair["size"], MEASURED).network.layers[0][1]
    )
    world = world_on(DEAR, seed=6)
    lived = simulate(moved, world.traces, DEAR)
    replayed = evaluate(world, moved.depth, moved.size)
    assert np.isclose(lived.seconds.sum(), replayed.seconds.sum())


def test_a_policy_without_a_machine_is_refused_in_one_line(pair, tmp_path):
    save_policies(tmp_path, *pair.values())
    path = tmp_path / "policy.json"
    description = json.loads(path.read_text())
    description["depth"]["machine"] = []
    path.write_text(json.dumps(description))
    with pytest.raises(
        InputError, match="depth policy: it observes the machine, its file names none"
    ) as said:
        PolicyController.load(tmp_path)
    assert "\n" not in str(said.value)
    assert PolicyController.load(tmp_path, profile=FREE).weights["depth"] > 0
    state = DraftState(max_depth=1, beam=1, scores=torch.zeros(1), context_length=3)
    with pytest.raises(InputError, match="observation part 'machine': a draft does not show it"):
        LiveObserver(pair["size"].spec).observe(state)
    with pytest.raises(InputError, match="'machine': expected once, after all other parts"):
        ObservationSpec(("machine", "levels"), 4, 6, SIZES)


def test_stages_draw_the_family_around_the_measured_machine(tmp_path):
    paths = save_inputs(tmp_path, synthetic_traces(), synthetic_traces(), MEASURED).values()
    shop = open_workshop(SETTINGS, *paths, seed=0)
    times = [[one.verify(16, 50) for one in w.family] for w in (shop.training, shop.validation)]
    assert len(times[0]) == 2 and not set(times[0]) & set(times[1])
    assert open_workshop(SETTINGS, *paths, seed=0).training.family[1].verify(16, 50) == times[0][1]
