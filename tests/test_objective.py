"""What the rewards lead to, on a problem whose optimum is known in closed form.

The draft is a chain of 10 tokens. At every root, with even odds, all of it is accepted or nothing is, and the
draft's probabilities tell which. A cycle that verifies 3, 7 or 10 nodes takes 1, 2.2 or 3.6 steps of time:

    size where all is accepted   its own ratio     tokens / time over both kinds of root
    3                            4 / 1   = 4       (1 + 4) / (1 + 1)   = 2.5
    7                            8 / 2.2 = 3.64    (1 + 8) / (1 + 2.2) = 2.8125, the optimum
    10                           11 / 3.6 = 3.06   (1 + 11) / (1 + 3.6) = 2.61

The mean of ratios prefers the first. Tokens - rate * time prefers the second at the rate it attains, but the
third at the rate 1 that training starts from.
"""

import numpy as np
import pytest

from dinkelbach import best_actions
from ltd.replay.latency import LatencyTable
from ltd.replay.traces import NO_RANK, Traces
from ltd.rl.choices import FixedDepth, PolicySize
from ltd.rl.evaluation import evaluate_choices
from ltd.rl.observations import ObservationSpec
from ltd.rl.policies import Policy
from ltd.rl.policy_settings import PolicySettings
from ltd.rl.ppo import train
from ltd.rl.replay_walk import ReplayWorld
from ltd.rl.rewards import Reward
from ltd.rl.vector_environment import SizeVecEnv
from synthetic import synthetic_profile

DEPTH, SIZES = 10, (3, 7, 10)
SPEC = ObservationSpec(("nodes",), 1, DEPTH, SIZES)


def chain_traces(seed=0, answers=16, tokens=400):
    """Roots where the whole chain is accepted or nothing of it, drawn independently."""
    rng = np.random.default_rng(seed)
    count = answers * tokens
    easy = rng.random(count) < 0.5
    chain = np.arange(DEPTH)
    left = np.tile(np.arange(tokens, 0, -1), answers)
    inside = easy[:, None] & (chain < left[:, None])
    ranks = np.full((count, DEPTH, DEPTH), NO_RANK, dtype=np.uint16)
    drafted = inside[:, None, :] & (chain <= chain[:, None])
    ranks[drafted] = np.broadcast_to(chain, ranks.shape)[drafted]
    return Traces(
        scores=np.where(easy, -0.1, -2.0)[:, None].astype(np.float32) * (chain + 1).astype(np.float32),
        true_node=np.where(inside, chain, -1).astype(np.int32),
        ranks=ranks,
        beams=np.zeros((count, DEPTH, 1), dtype=np.uint8),
        root=np.zeros(count, dtype=np.int32),
        context_length=np.tile(np.arange(10, 10 + tokens), answers).astype(np.int32),
        sequence=np.repeat(np.arange(answers, dtype=np.int32), tokens),
        tokens_left=left.astype(np.int32),
        beam=1,
        max_depth=DEPTH,
        temperature=0.0,
        target_hash="target",
        draft_hash="draft",
        sequences=[{"task": "chat", "question_id": i, "turn": 0} for i in range(answers)],
    )


@pytest.fixture(scope="module")
def world():
    """A step takes 1 ms, a cycle as above; drafting and deciding take none."""
    profile = synthetic_profile(beam=1, max_depth=DEPTH, max_size=DEPTH)
    times = {
        "autoregressive_step": ([1], [1.0]),
        "plain_step": ([1], [1.0]),
        "verify": ([1, 3, 7, 10], [1.0, 1.0, 2.2, 3.6]),
    }
    for name, table in profile.tables.items():
        axis, ms = times.get(name, (table.axis, [0.0] * len(table.axis)))
        rows = [[value] * len(profile.context_lengths) for value in ms]
        profile = profile.replace_table(name, LatencyTable(axis, rows))
    return ReplayWorld(chain_traces(), profile, SIZES)


def attained(world, reward):
    """Tokens a step of the policy that PPO ends with, and the rate that the reward ends with."""
    settings = PolicySettings(
        sizes=SIZES, size_steps=24_576, lanes=64, rollout=2048, minibatch=512, epochs=4, learning_rate=3e-3,
        entropy_coefficient=0.02, validations=2, size_network=(16,), critic_network=(16,), rehearsal=0,
    )  # fmt: skip
    env = SizeVecEnv(world, SPEC, Reward(reward, world.step_seconds), FixedDepth(DEPTH), lanes=64)
    throughputs = []

    def validate(network):
        size = PolicySize(Policy("size", network, SPEC, SIZES), world)
        throughputs.append(evaluate_choices(world, FixedDepth(DEPTH), size).speedup)
        return {"speedup": throughputs[-1]}

    train(env, "size", settings, validate, seed=0)
    return throughputs[-1], env.reward.rate


def test_marginal_reward_attains_the_optimum_and_the_mean_of_ratios_does_not(world):
    tokens, steps = np.array([[1.0, 1.0, 1.0], [4.0, 8.0, 11.0]]), np.array([[1.0, 2.2, 3.6]] * 2)
    optimum, actions = best_actions(tokens, steps)
    assert optimum == pytest.approx(2.8125) and actions.tolist() == [0, 1]
    speedup, rate = attained(world, "marginal")
    assert speedup == pytest.approx(optimum, rel=0.01)
    # The rate is that of the last rollout, which still explores.
    assert rate == pytest.approx(optimum, rel=0.1)
    assert attained(world, "throughput")[0] == pytest.approx(2.5, rel=0.01)


def test_a_machine_without_cycles_takes_the_rate_of_all():
    reward = Reward("marginal", 0.5)
    reward.attain(np.array([6.0, 0.0, 2.0]), np.array([2.0, 0.0, 2.0]))
    np.testing.assert_allclose(reward.rate, [1.5, 1.0, 0.5])
