"""PPO: it learns, follows its schedules, resumes exactly, and tells whether a policy is a constant."""

import numpy as np
import pytest
import torch

from ltd.errors import InputError
from ltd.rl.co_adaptation import met_observations, train_policy_of
from ltd.rl.evaluation import evaluate
from ltd.rl.policies import PolicyNetwork
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
from ltd.rl.training_state import State, Training
from policy_training import workshop


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
