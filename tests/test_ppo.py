"""Training: it learns, follows its schedules, resumes exactly, and every stage writes whole folders."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ltd.errors import InputError
from ltd.replay.traces import Traces, of_tasks
from ltd.rl import KINDS, co_adaptation
from ltd.rl.co_adaptation import (
    Trained,
    Workshop,
    evaluate_pair,
    met_observations,
    rehearse_pair,
    retrained_kind,
    train_chain,
    train_policy_of,
)
from ltd.rl.evaluation import best_static, evaluate
from ltd.rl.observations import ObservationSpec
from ltd.rl.policies import Policy, PolicyNetwork
from ltd.rl.policy_folders import validate_pair
from ltd.rl.policy_settings import PolicySettings, with_overrides
from ltd.rl.ppo import (
    action_statistics,
    actor_layers,
    build,
    critic_layers,
    export_network,
    learning_rate,
    segment_ends,
    train,
)
from ltd.rl.presets import PRESETS, with_preset
from ltd.rl.rehearsal import CRITICS_STRIDE, outcomes, rehearsal_loss, stopping_values
from ltd.rl.replay_walk import ReplayWorld
from ltd.rl.rewards import Reward
from ltd.rl.training_state import State, Training
from synthetic import synthetic_profile, synthetic_traces

SIZES = (1, 2, 4, 8, 16)
TINY = {
    "sizes": SIZES,
    "size_steps": 4096,
    "depth_steps": 8192,
    "lanes": 64,
    "rollout": 1024,
    "minibatch": 256,
    "epochs": 4,
    "learning_rate": 3e-3,
    "validations": 4,
    "rehearsal": 0,
    "rounds": 1,
}


def workshop(**overrides):
    settings = PolicySettings(**TINY | overrides)
    worlds = [
        ReplayWorld(synthetic_traces(seed=seed, sequences=16), synthetic_profile(), settings.sizes)
        for seed in (1, 2)
    ]
    return Workshop(*worlds, settings, {"traces": "t"})


# PPO alone needs more steps than one that starts from a rehearsal.
STARTS = (
    {"size_steps": 16384, "depth_steps": 32768},
    {"rehearsal": 200, "size_steps": 1024, "depth_steps": 1024},
)


@pytest.mark.parametrize("overrides", STARTS)
def test_a_chain_beats_the_best_static_setting(overrides):
    shop = workshop(**overrides)
    pair, evaluations = train_chain(shop, 1, seed=0)
    static = evaluate(shop.validation, *best_static(shop.validation)).speedup
    assert len(evaluations) == 2
    assert evaluate_pair(shop.validation, pair).speedup == max(e.speedup for e in evaluations)
    assert max(e.speedup for e in evaluations) > static


def test_same_seed_same_policy_and_a_killed_training_resumes_exactly(tmp_path):
    class Killed(Exception):
        pass

    def kill_after(validations):
        def report(row):
            validations.append(row)
            if len(validations) == 4:
                raise Killed

        return report

    undisturbed = train_policy_of(workshop(), "size", {}, seed=3)
    state = State(tmp_path / "state", "this training")
    with pytest.raises(Killed):
        train_policy_of(workshop(), "size", {}, seed=3, state=state, report=kill_after([]))
    resumed_rows = []
    resumed = train_policy_of(workshop(), "size", {}, seed=3, state=state, report=resumed_rows.append)
    assert len(resumed_rows) == 2  # two of four checkpoints were kept
    assert resumed.training.curves == undisturbed.training.curves
    for ours, theirs in zip(resumed.policy.network.layers, undisturbed.policy.network.layers, strict=True):
        assert np.array_equal(ours[0], theirs[0]) and np.array_equal(ours[1], theirs[1])
    other = train_policy_of(workshop(), "size", {}, seed=3, state=State(tmp_path / "state", "another"))
    assert len(other.training.curves) == 5  # not resumed from a checkpoint of something else
    state.forget()
    assert not (tmp_path / "state").exists()


def test_a_start_from_chance_is_never_kept():
    """However well it does by chance; one that was trained before may be."""
    shop = workshop()
    falling = iter(range(100, 0, -1))

    def best_steps(previous):
        env = shop.environment("size", {}, 0)
        trained = train(
            env, "size", shop.settings, lambda _: {"speedup": next(falling)}, seed=0, previous=previous
        )
        assert [row["steps"] for row in trained.curves][:2] == [0, first]
        return trained.best_steps, trained

    first = segment_ends(shop.settings.size_steps, shop.settings)[0]
    kept, trained = best_steps(None)
    assert kept == first
    assert best_steps(trained)[0] == 0


def test_exported_actor_acts_as_the_model_it_comes_from():
    shop = workshop()
    model = build(shop.environment("depth", {}, 0), "depth", shop.settings, 1024, 0, None)
    network = export_network(actor_layers(model))
    x = np.random.default_rng(0).normal(size=(200, network.inputs)).astype(np.float32)
    assert np.array_equal(network.logits(x).argmax(axis=1), model.predict(x, deterministic=True)[0])


def test_settings_are_the_models():
    varied = {"gae_lambda": 0.7, "entropy_coefficient": 0.03, "clip_range": 0.11, "epochs": 3}
    shop = workshop(**varied, size_gamma=0.5)
    model = build(shop.environment("size", {}, 0), "size", shop.settings, 1024, 0, None)
    assert (model.gamma, model.gae_lambda, model.ent_coef) == (0.5, 0.7, 0.03)
    assert (model.clip_range(1), model.n_epochs) == (0.11, 3)


def test_another_seed_starts_from_another_actor():
    shop = workshop()
    env = shop.environment("size", {}, 0)
    actors = [actor_layers(build(env, "size", shop.settings, 1024, seed, None)) for seed in (0, 1, 0)]
    assert torch.equal(actors[0][0].weight, actors[2][0].weight)
    assert not torch.equal(actors[0][0].weight, actors[1][0].weight)


def same_network(first, second):
    pairs = zip(first.layers, second.layers, strict=True)
    return all(np.array_equal(a, b) for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True))


def test_actor_and_critic_go_on_from_those_that_were_kept():
    shop = workshop(size_steps=2048, validations=2)
    env, rising = shop.environment("size", {}, 0), iter(range(100))
    start = build(env, "size", shop.settings, 1024, 0, None)
    begun = Training(export_network(actor_layers(start)), export_network(critic_layers(start)))
    goes_on = build(env, "size", shop.settings, 1024, 5, begun)
    assert same_network(export_network(actor_layers(goes_on)), begun.actor)
    assert same_network(export_network(critic_layers(goes_on)), begun.critic)
    kept = train(env, "size", shop.settings, lambda _: {"speedup": next(rising)}, seed=0, previous=begun)
    assert kept.best_steps == 2048
    assert not same_network(kept.actor, begun.actor) and not same_network(kept.critic, begun.critic)


def test_iterations_retrain_size_and_depth_in_turn():
    assert [retrained_kind(iteration) for iteration in (1, 2, 3)] == ["size", "depth", "size"]


def test_a_chain_trains_every_policy_from_a_seed_of_its_own_and_returns_the_best_pair(monkeypatch):
    """The second pair does best: what the first retraining of a size policy made, beside the first depth."""
    shop, trainings, speedups = workshop(), [], iter([1.0, 3.0, 2.0])

    def noted(workshop, kind, previous, *, seed):
        trainings.append((kind, seed))
        return (kind, seed)

    monkeypatch.setattr(co_adaptation, "train_policy_of", noted)
    monkeypatch.setattr(
        co_adaptation, "evaluate_pair", lambda world, pair: SimpleNamespace(speedup=next(speedups))
    )
    pair, evaluations = train_chain(shop, 2, seed=7)
    assert [kind for kind, _ in trainings] == ["size", "depth", "size", "depth"]
    assert len({seed for _, seed in trainings}) == 4
    assert [evaluation.speedup for evaluation in evaluations] == [1, 3, 2]
    assert pair == {"size": trainings[2], "depth": trainings[1]}


def test_a_fixed_size_stands_for_a_policy_that_takes_time():
    assert workshop().environment("depth", {}, 0).size.decisions == 1


def test_mean_of_ratios_is_over_cycles():
    evaluation = evaluate(workshop().validation, 4, 8)
    ratios = evaluation.tokens / evaluation.seconds * evaluation.world.step_seconds
    assert evaluation.mean_of_ratios == pytest.approx(ratios.mean())
    ratio_of_means = evaluation.throughput * evaluation.world.step_seconds
    assert evaluation.mean_of_ratios != pytest.approx(ratio_of_means, rel=1e-3)


def test_marginal_rate_follows_the_attained_throughput():
    shop = workshop()
    trained = train_policy_of(shop, "size", {}, seed=0)
    first, last = trained.training.curves[0], trained.training.curves[-1]
    assert first["rate"] == 1.0 and last["rate"] != 1.0
    assert 0.93 < last["rate"] / last["speedup"] < 1.03


def test_the_rate_starts_at_what_the_pair_attains():
    shop = workshop(rehearsal=200)
    pair = rehearse_pair(shop)
    trained = train_policy_of(shop, "size", pair, seed=0)
    attained = evaluate_pair(shop.training, pair).throughput * shop.training.step_seconds
    assert attained > 1.05 and trained.training.curves[0]["rate"] == pytest.approx(attained)
    # What a cycle of the pair is worth to it is what the cycle takes, but for the rows of the prefix pass.
    evaluation = evaluate_pair(shop.training, pair)
    worth = shop.environment("depth", pair, 0).reward.worth[evaluation.position, evaluation.tokens]
    np.testing.assert_allclose(worth, evaluation.seconds, rtol=0.03)


def test_every_update_learns():
    """The first is half a rollout old, and so is the last: of a single one, too."""
    shop = workshop(warm_up=0.0)
    for rollouts in (1, 4):
        model = build(shop.environment("size", {}, 0), "size", shop.settings, rollouts * 1024, 0, None)
        rates = []
        for update in range(1, rollouts + 1):
            model.num_timesteps = update * 1024
            rates.append(model.lr_schedule(0.0) / shop.settings.learning_rate)
        assert rates == pytest.approx([1 - (update + 0.5) / rollouts for update in range(rollouts)])


def test_learning_rate_warms_up_and_decays_to_zero():
    settings = PolicySettings(warm_up=0.1, learning_rate=1.0)
    assert [round(learning_rate(p, settings), 3) for p in (0, 0.05, 0.1, 0.55, 1)] == [0, 0.5, 1, 0.5, 0]
    assert segment_ends(10_000, PolicySettings(rollout=2048, minibatch=256, validations=2)) == [4096, 10240]
    assert segment_ends(100, PolicySettings()) == [8192]


def test_collapse_shows_in_the_statistics():
    x = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    constant = PolicyNetwork([(np.zeros((4, 3)), np.asarray([9.0, 0, 0, 0]))])
    informed = PolicyNetwork([(np.eye(4, 3) * 50, np.zeros(4))])
    assert action_statistics(constant, x)["mutual_information"] < 1e-6
    assert action_statistics(constant, x)["action_entropy"] < 0.01
    assert action_statistics(informed, x)["mutual_information"] > 0.5


def test_statistics_are_of_all_decisions_made():
    """Every cycle drafts one level: a policy that goes on at depth 0 and stops at 1 tells them apart."""
    shop = workshop(depth_observation=("one_hot_depth",), depth_network=(), critic_network=(4,))
    spec = shop.spec("depth")
    weight = np.zeros((2, spec.width), np.float32)
    weight[1, :2] = 20, -20  # to go on, at depths 0 and 1
    depth = shop.policy("depth", PolicyNetwork([(weight, np.zeros(2, np.float32))]))
    evaluation = evaluate(shop.validation, depth, 4)
    assert set(evaluation.depth) == {1}
    met = met_observations(evaluation, depth)
    assert np.array_equal(met[:, :2].sum(axis=0), [len(met) / 2, len(met) / 2])
    assert action_statistics(depth.network, met)["mutual_information"] == pytest.approx(np.log(2), rel=1e-3)


def test_a_policy_that_is_never_asked_has_no_statistics():
    shop = workshop()
    size = shop.policy("size", PolicyNetwork([(np.zeros((5, shop.spec("size").width)), np.zeros(5))]))
    met = met_observations(evaluate(shop.validation, 0, size), size)
    assert met.shape[0] == 0 and set(action_statistics(size.network, met).values()) == {0.0}


def test_exact_values_of_stopping_equal_enumeration():
    """Two decisions, three stops: probabilities, entropies, values by hand."""
    logits, rewards = torch.randn(5, 2, 2), torch.randn(5, 3)
    p = logits.softmax(-1)
    stop = torch.stack([p[:, 0, 0], p[:, 0, 1] * p[:, 1, 0], p[:, 0, 1] * p[:, 1, 1]], dim=1)
    probabilities, reach, value = stopping_values(p.log(), rewards)
    second = p[:, 1, 0] * rewards[:, 1] + p[:, 1, 1] * rewards[:, 2]
    first = p[:, 0, 0] * rewards[:, 0] + p[:, 0, 1] * second
    assert torch.allclose(probabilities, stop, atol=1e-6)
    assert torch.allclose(value, torch.stack([first, second], dim=1), atol=1e-5)
    assert torch.allclose(reach, torch.stack([torch.ones(5), p[:, 0, 1]], dim=1), atol=1e-6)


@pytest.mark.parametrize("first_decision", [0, 1])
def test_rehearsal_expects_what_the_replay_table_holds(first_decision):
    """With actors that are certain, the expected tokens and seconds are those of the static setting."""
    shop = workshop(first_decision=first_decision)
    world, specs = shop.training, {kind: shop.spec(kind) for kind in KINDS}
    certain = {"size": torch.tensor([0, 0, 99.0, 0, 0]), "depth": torch.tensor([0, 99.0])}
    actors = {kind: lambda x, kind=kind: certain[kind].expand(*x.shape[:-1], -1) for kind in KINDS}
    critics = dict.fromkeys(KINDS, lambda x: torch.zeros(*x.shape[:-1], 1))
    reward, positions = Reward("acceptance", 1.0), np.arange(len(world.traces))
    known = outcomes(world, specs, shop.settings, positions)
    loss, (tokens, seconds) = rehearsal_loss(actors, critics, known, reward, 0.0)
    expected = world.table.tokens(positions, 6, SIZES[2])
    times = world.latency.cycle_seconds(6, SIZES[2], world.context_length, 3, 6 - first_decision, 1)
    assert np.allclose(tokens, expected)
    assert np.allclose(seconds, times)
    values = [world.table.tokens(positions, 6, SIZES[2])] * (6 - first_decision)
    errors = 0.5 * (np.square(values).sum(axis=0) + expected**2)
    assert np.isclose(float(loss), errors[::CRITICS_STRIDE].mean() - expected.mean(), rtol=1e-4)


def test_entropy_of_a_decision_counts_as_often_as_it_is_made():
    """Of even actors: to go on or not as often as a draft gets there, a size unless nothing was drafted."""
    shop = workshop()
    world, specs = shop.training, {kind: shop.spec(kind) for kind in KINDS}
    actions = {"size": len(SIZES), "depth": 2}
    actors = {kind: lambda x, n=n: torch.zeros(*x.shape[:-1], n) for kind, n in actions.items()}
    critics = dict.fromkeys(KINDS, lambda x: torch.zeros(*x.shape[:-1], 1))
    known = outcomes(world, specs, shop.settings, np.arange(50))
    losses = [
        float(rehearsal_loss(actors, critics, known, Reward("acceptance", 1.0), weight)[0])
        for weight in (0.0, 1.0)
    ]
    reached = sum(0.5**depth for depth in range(world.max_depth))
    expected = np.log(2) * reached + np.log(len(SIZES)) * (1 - 0.5)
    assert losses[0] - losses[1] == pytest.approx(expected, rel=1e-4)


def test_critics_teach_the_actors_nothing():
    """Expected values are their targets alone: how wrong a critic is changes no gradient of an actor."""
    shop = workshop()
    specs = {kind: shop.spec(kind) for kind in KINDS}
    known = outcomes(shop.training, specs, shop.settings, np.arange(50))
    logits = {
        "size": torch.zeros(len(SIZES), requires_grad=True),
        "depth": torch.zeros(2, requires_grad=True),
    }
    actors = {kind: lambda x, kind=kind: logits[kind].expand(*x.shape[:-1], -1) for kind in KINDS}
    gradients = []
    for value in (0.0, 100.0):
        critics = dict.fromkeys(KINDS, lambda x, value=value: torch.full((*x.shape[:-1], 1), value))
        loss, _ = rehearsal_loss(actors, critics, known, Reward("acceptance", 1.0), 0.0)
        gradients.append(torch.autograd.grad(loss, list(logits.values())))
    for good, bad in zip(*gradients, strict=True):
        torch.testing.assert_close(good, bad)


def test_presets_hold_the_paper():
    paper = with_preset(PolicySettings(), "paper")
    assert (paper.size_steps, paper.depth_steps) == (100_000, 1_000_000)
    assert (paper.rollout, paper.minibatch, paper.epochs) == (2048, 256, 20)
    assert (paper.size_gamma, paper.depth_gamma, paper.reward) == (0.9, 0.999, "throughput")
    assert with_preset(PolicySettings(), "paper-short").depth_steps == 100_000
    assert with_preset(PolicySettings(), "default") == PolicySettings()
    for name in PRESETS:
        with_preset(PolicySettings(), name)


@pytest.mark.parametrize(
    "overrides,complaint",
    [
        ({"sizes": (4, 2)}, "rl.sizes"),
        ({"reward": "speed"}, "rl.reward: 'speed' is unknown"),
        ({"depth_observation": ("all",)}, "rl.depth_observation: 'all' is unknown"),
        ({"rollout": 1000}, "rl.rollout: 1000: expected a multiple"),
        ({"learning": 1}, "best.json: learning: no setting of policy training"),
        ({"rehearsal": 1, "whole_answers": True}, "rl.rehearsal"),
        ({"fixed_size": 40}, "rl.fixed_size: 40 is more than 38, the largest of rl.sizes"),
        ({"fixed_size": -1}, "rl.fixed_size: -1: expected 0 or more"),
        ({"validations": 0}, "rl.validations: 0: expected 1 or more"),
        ({"lanes": 0}, "rl.lanes: 0: expected 1 or more"),
    ],
)
def test_wrong_settings_give_one_line(overrides, complaint):
    with pytest.raises(InputError, match=complaint):
        with_overrides(PolicySettings(), overrides, "best.json")


def made_policy(kind, parts, weight, bias, **schedule):
    """One linear layer of given weights."""
    spec, actions = ObservationSpec(parts, 4, 6, SIZES), SIZES if kind == "size" else (0, 1)
    network = PolicyNetwork([(np.array(weight), np.array(bias))])
    return Trained(Policy(kind, network, spec, actions, **schedule), Training(network, network))


def test_validation_tells_a_constant_policy_from_one_that_adapts():
    world = workshop().validation
    # Goes on while a tenth of the depth, which it observes, is below 0.25; always the third size.
    stopper = made_policy("depth", ("depth",), [[0], [-1]], [-0.25, 0])
    pair = {"depth": stopper, "size": made_policy("size", ("depth",), np.zeros((5, 1)), np.eye(5)[2])}
    validation = validate_pair(world, pair)
    assert validation["size"]["is_constant"]
    assert validation["size"]["histogram"] == {str(size): float(size == SIZES[2]) for size in SIZES}
    best = max(SIZES, key=lambda size: evaluate(world, stopper.policy, size).speedup)
    assert validation["size"]["best_constant"] == {
        "action": best,
        "speedup": evaluate(world, stopper.policy, best).speedup,
    }
    settings = [(depth, size) for depth in range(7) for size in SIZES]
    depth, size = max(settings, key=lambda setting: evaluate(world, *setting).speedup)
    assert (validation["static"]["depth"], validation["static"]["size"]) == (depth, size)
    assert validation["depth"]["is_constant"]  # stops at depth 3 whatever is drafted
    assert validation["depth"]["histogram"]["3"] == 1
    width = ObservationSpec(("levels",), 4, 6, SIZES).width
    weight = np.stack([np.zeros(width), np.ones(width)])
    adapting = made_policy("depth", ("levels",), weight, [0.6, 0], first_decision=1)
    validation = validate_pair(world, pair | {"depth": adapting})
    shares = validation["depth"]["histogram"]
    assert not validation["depth"]["is_constant"] and sum(share > 0.02 for share in shares.values()) > 1
    assert sum(shares.values()) == pytest.approx(1)


def test_policies_train_on_the_chosen_tasks_alone():
    traces = synthetic_traces(sequences=6)
    code = of_tasks(traces, ("code",), "t.safetensors")
    assert set(code.tasks) == {"code"} and len(code.sequences) == 3
    rows = np.isin(traces.sequence, [1, 3, 5])
    assert np.array_equal(code.scores, traces.scores[rows])
    assert np.array_equal(code.starts, np.flatnonzero(np.diff(code.sequence, prepend=-1)))
    assert isinstance(code, Traces)
    with pytest.raises(InputError, match=r"rl.train_tasks: 'maths' has no answers in t.safetensors"):
        of_tasks(traces, ("maths",), "t.safetensors")
