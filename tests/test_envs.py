"""Environments: Gymnasium's own check, rewards by hand, many lanes equal one, speed."""

import re
import time

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import ltd.rl.environments  # noqa: F401, registers the environments
from dinkelbach import best_actions
from ltd import replay_speed
from ltd.errors import InputError
from ltd.replay.table import ReplayTable
from ltd.rl.choices import FixedDepth, FixedSize
from ltd.rl.observations import ObservationSpec
from ltd.rl.replay_walk import ReplayWorld
from ltd.rl.rewards import Reward
from ltd.rl.vector_environment import DepthVecEnv, SizeVecEnv
from synthetic import synthetic_profile, synthetic_traces

SIZES = (1, 2, 4, 8, 16)
SPEC = ObservationSpec(("levels", "mass", "one_hot_depth", "length"), 4, 6, SIZES)


@pytest.fixture(scope="module")
def world():
    return ReplayWorld(synthetic_traces(), synthetic_profile(), SIZES)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Paths of traces and a profile, by their options."""
    folder = tmp_path_factory.mktemp("experiment")
    paths = {"traces": folder / "train.safetensors", "profile": folder / "profile.json"}
    synthetic_traces().save(paths["traces"])
    synthetic_profile().save(paths["profile"])
    return paths


def throughput(world):
    return Reward("throughput", world.step_seconds)


@pytest.mark.parametrize("name", ["ltd/Depth-v0", "ltd/Size-v0"])
@pytest.mark.filterwarnings("ignore:.*Box observation space")
def test_gymnasium_accepts_the_environments(name):
    env = gymnasium.make(name, traces=synthetic_traces(), profile=synthetic_profile(), sizes=SIZES)
    check_env(env.unwrapped, skip_render_check=True)


def test_an_episode_is_a_cycle_and_the_next_goes_on_behind_it():
    env = gymnasium.make("ltd/Depth-v0", traces=synthetic_traces(), profile=synthetic_profile(), sizes=SIZES)
    env.reset(seed=0)
    walk = env.unwrapped._lane.walk
    for _ in range(20):
        left, position = int(walk.world.tokens_left[walk.position[0]]), int(walk.position[0])
        tokens = int(walk.world.table.tokens(position, 1, 8))
        *_, reward, done, _, _ = env.step(0)
        assert done and reward > 0
        here = int(walk.position[0])
        env.reset()
        assert walk.position[0] == here
        assert here in walk.world.starts if tokens == left else here == position + tokens


@pytest.mark.parametrize(
    ("name", "option", "message"),
    [
        ("Depth", {"size": 60}, f"size: 60: expected 1 to {max(SIZES)}, the largest of sizes"),
        ("Depth", {"size": -1}, "size: -1: expected 1 to"),
        ("Depth", {"size": 0}, "size: 0: expected 1 to"),
        ("Size", {"depth": 0}, "depth: 0: expected 1 to 6, the largest depth of the trees"),
        ("Size", {"depth": -2}, "depth: -2: expected 1 to 6"),
        ("Size", {"depth": 50}, "depth: 50: expected 1 to 6"),
        ("Depth", {"interval": 0}, "rl.interval: 0: expected 1 or more"),
        ("Size", {"interval": 0}, "rl.interval: 0: expected 1 or more"),
        ("Depth", {"first_decision": 12}, "rl.first_decision: 12: expected 0 or 1"),
        ("Size", {"sizes": ()}, r"rl.sizes: \[\]: expected distinct sizes from 1 up"),
        ("Size", {"sizes": (8, 2, 500)}, r"rl.sizes: \[8, 2, 500\]: expected distinct"),
        ("Depth", {"sizes": (0, 8)}, r"rl.sizes: \[0, 8\]: expected distinct"),
        ("Depth", {"top": 0}, "rl.top: 0: expected 1 or more"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(name, option, message):
    options = {"traces": synthetic_traces(), "profile": synthetic_profile(), "sizes": SIZES} | option
    with pytest.raises(InputError, match=f"^{message}"):
        gymnasium.make(f"ltd/{name}-v0", **options)


@pytest.mark.parametrize("name", ["ltd/Depth-v0", "ltd/Size-v0"])
@pytest.mark.parametrize("option", ["observations", "temperature"])
def test_an_option_that_there_is_not_is_named(files, name, option):
    """Also one of the other back end."""
    with pytest.raises(InputError, match=f"^{option}: neither .* of the back end replay, which takes trac"):
        gymnasium.make(name, **files, **{option: 0})


def test_saving_asks_for_a_pair(files):
    with pytest.raises(InputError, match=r"^reward: 'saving' needs a pair of policies"):
        gymnasium.make("ltd/Size-v0", **files, reward="saving")


def test_drawn_depths_cost_the_decisions_of_the_schedule():
    """By depth, from 1 on; at the largest there is nothing to decide."""
    for schedule, decisions in (({}, (1, 2, 3, 4, 5, 5)), ({"interval": 2}, (1, 1, 2, 2, 3, 3))):
        env = gymnasium.make(
            "ltd/Size-v0", traces=synthetic_traces(), profile=synthetic_profile(), sizes=SIZES, **schedule
        )
        met = set()
        for seed in range(60):
            env.reset(seed=seed)
            walk = env.unwrapped._lane.walk
            met.add((int(walk.depth[0]), int(walk.decisions[0])))
        assert met == set(enumerate(decisions, start=1))


@pytest.mark.parametrize("name", ["ltd/Depth-v0", "ltd/Size-v0"])
def test_files_of_an_experiment_are_replayed(files, name):
    """As docs/environments.md opens them."""
    read = gymnasium.make(name, traces=str(files["traces"]), profile=str(files["profile"]))
    held = gymnasium.make(name, traces=synthetic_traces(), profile=synthetic_profile())
    assert np.array_equal(read.reset(seed=3)[0], held.reset(seed=3)[0])
    for action in (1, 0, 1, 1, 0):
        (seen, *paid), (expected, *owed) = (env.step(action) for env in (read, held))
        assert np.array_equal(seen, expected) and paid == owed


def test_depth_rewards_are_those_of_the_replay_table(world):
    """Drafting on pays nothing; stopping pays the cycle's tokens per autoregressive step's time."""
    env = DepthVecEnv(world, SPEC, throughput(world), FixedSize(4, decisions=1), lanes=16, first_decision=1)
    env.reset()
    table, rng = ReplayTable(world.traces), np.random.default_rng(0)
    finished = 0
    for _ in range(100):
        position, depth, rows = (x.copy() for x in (env.walk.position, env.walk.depth, env.walk.rows))
        actions = rng.integers(0, 2, 16)
        asked = env.walk.decisions + 1
        _, rewards, dones, _ = env.step(actions)
        stopped = (actions == 0) | (depth + 1 >= world.max_depth)
        reached = np.minimum(depth + actions, world.max_depth)
        tokens = table.tokens(position, reached, 4)
        context = world.traces.context_length[position]
        seconds = world.profile.cycle_seconds(reached, 4, context, rows, asked, 1)
        assert np.allclose(rewards, np.where(stopped, tokens / seconds * world.step_seconds, 0), rtol=1e-5)
        assert np.array_equal(dones, stopped)
        finished += stopped.sum()
    assert finished > 100


def test_size_rewards_are_those_of_the_replay_table(world):
    """A cycle pays for the decision about its size, beside a depth that costs none."""
    env = SizeVecEnv(world, SPEC, throughput(world), FixedDepth(2), lanes=16)
    env.reset()
    table, rng = ReplayTable(world.traces), np.random.default_rng(0)
    for _ in range(20):
        position, rows = env.walk.position.copy(), env.walk.rows.copy()
        actions = rng.integers(len(SIZES), size=16)
        size, context = np.array(SIZES)[actions], world.traces.context_length[position]
        _, rewards, _, _ = env.step(actions)
        seconds = world.profile.cycle_seconds(2, size, context, rows, 0, 1)
        assert np.allclose(rewards, table.tokens(position, 2, size) / seconds * world.step_seconds, rtol=1e-5)


def test_tokens_are_worth_what_they_are_where_the_cycle_began(world):
    worth = np.arange(len(world.traces))[:, None] * np.ones(world.max_depth + 2)
    env = SizeVecEnv(world, SPEC, Reward("saving", 1.0, worth=worth), FixedDepth(2), lanes=8)
    env.reset()
    for _ in range(20):
        began = env.walk.position.copy()
        _, rewards, _, _ = env.step(np.zeros(8, dtype=int))
        assert np.allclose(rewards, began, atol=0.1)  # a cycle takes some milliseconds


def test_cycles_before_an_update_do_not_count_in_the_next_rate(world):
    env = SizeVecEnv(world, SPEC, Reward("marginal", world.step_seconds), FixedDepth(2), lanes=8)
    env.reset()
    env.step(np.zeros(8, dtype=int))
    attained = env.tokens[0] / env.seconds[0] * world.step_seconds
    env.follow_rate()
    assert env.reward.rate == pytest.approx(attained)
    assert env.tokens[0] == env.seconds[0] == 0


def test_plain_steps_are_paid_as_such(world):
    env = DepthVecEnv(world, SPEC, Reward("time", 1.0), FixedSize(4, decisions=1), lanes=4)
    env.reset()
    position = env.walk.position.copy()
    _, rewards, _, _ = env.step(np.zeros(4, dtype=int))
    plain = world.profile.plain_step(world.traces.context_length[position])
    assert np.allclose(-rewards, plain + world.profile.depth_policy)
    assert (env.walk.rows[env.walk.position == position + 1] == 2).all()


def test_whole_answers_end_where_the_answer_ends(world):
    env = SizeVecEnv(world, SPEC, throughput(world), FixedDepth(2), lanes=32, whole_answers=True)
    env.reset()
    for _ in range(50):
        position = env.walk.position.copy()
        _, _, dones, _ = env.step(np.full(32, 2))
        tokens = world.table.tokens(position, 2, 4)
        assert np.array_equal(dones, tokens == world.traces.tokens_left[position])
        assert np.array_equal(env.walk.position[~dones], (position + tokens)[~dones])
        assert np.isin(env.walk.position[dones], world.starts).all()
        assert (env.walk.rows[dones] == 1).all()


class PlainAtTheEnd:
    """Depth 1, but plain steps where an answer has few tokens left."""

    def go_on(self, walk, lanes):
        return (walk.depth[lanes] == 0) & (walk.world.tokens_left[walk.position[lanes]] > 3)


def test_plain_steps_that_end_an_answer_end_its_episode(world):
    env = SizeVecEnv(world, SPEC, throughput(world), PlainAtTheEnd(), lanes=32, whole_answers=True)
    env.reset()
    ended = 0
    for _ in range(60):
        answer = world.traces.sequence[env.walk.position]
        _, _, dones, _ = env.step(np.zeros(32, dtype=int))
        moved = world.traces.sequence[env.walk.position] != answer
        assert dones[moved].all()
        ended += moved.sum()
    assert ended > 20


def test_a_reset_begins_new_cycles(world):
    env = DepthVecEnv(world, SPEC, throughput(world), FixedSize(4, 1), lanes=4)
    env.reset()
    env.step(np.ones(4, dtype=int))
    env.reset()
    assert not env.walk.depth.any() and not env.walk.decisions.any()


def test_random_depths_take_the_decisions_of_a_schedule(world):
    """Asked at 1, 3 and 5: up to depth 4 twice, and not at the largest, 6."""
    env = SizeVecEnv(world, SPEC, throughput(world), lanes=256, first_decision=1, interval=2)
    env.reset()
    assert np.array_equal(env.walk.decisions, np.array([0, 1, 1, 2, 2, 3, 3])[env.walk.depth])


def test_random_depths_are_uniform_from_one(world):
    env = SizeVecEnv(world, SPEC, throughput(world), lanes=64)
    env.reset()
    depths = []
    for _ in range(100):
        depths.append(env.walk.depth.copy())
        env.step(np.zeros(64, dtype=int))
    counts = np.bincount(np.concatenate(depths), minlength=world.max_depth + 1)
    assert counts[0] == 0
    expected = counts.sum() / world.max_depth
    assert ((counts[1:] - expected) ** 2 / expected).sum() < 25  # chi-square, 5 degrees of freedom


def test_a_depth_policy_that_never_drafts_does_not_hang_the_size_environment(world):
    env = SizeVecEnv(world, SPEC, throughput(world), FixedDepth(0), lanes=4)
    env.reset()
    assert (env.walk.depth == 1).all()


def test_decision_interval_drafts_on_between_decisions(world):
    env = DepthVecEnv(world, SPEC, throughput(world), FixedSize(4, 1), lanes=4, first_decision=1, interval=2)
    env.reset()
    env.step(np.ones(4, dtype=int))
    assert (env.walk.depth == 3).all() and (env.walk.decisions == 1).all()


def test_same_seed_same_lanes(world):
    runs = []
    for seed in (5, 5, 6):
        env = SizeVecEnv(world, SPEC, throughput(world), lanes=8, seed=seed)
        env.reset()
        runs.append([env.step(np.full(8, 1))[0] for _ in range(20)])
    assert np.array_equal(runs[0], runs[1]) and not np.array_equal(runs[0], runs[2])


def test_rewards():
    tokens, seconds = np.asarray([4, 1]), np.asarray([2.0, 0.5])
    expected = {"throughput": [1, 1], "acceptance": [4, 1], "time": [-4, -1], "marginal": [-2, -0.5]}
    for kind, value in expected.items():
        assert np.allclose(Reward(kind, 0.5, rate=1.5)(tokens, seconds), value), kind
    saving = Reward("saving", 0.5, rate=1.5)
    assert np.allclose(saving(tokens, seconds), expected["marginal"]), (
        "until it is known what tokens are worth"
    )
    saving.worth = np.array([[0, 1.0, 1.0, 1.0, 3.0], [0, 0.5, 0.7, 0.8, 0.9]])
    assert np.allclose(saving(tokens, seconds, positions=np.array([0, 1])), [1.5 * (3 - 2) / 0.5, 0])
    with pytest.raises(InputError, match="'speed' is unknown"):
        Reward("speed", 1.0)


def test_marginal_rate_finds_the_closed_form_optimum():
    """Hard cycles bring 1.2 tokens in 10 s whatever is done; easy ones 4 in 10 s or 8 in 22 s, equally often.

    Mean of ratios prefers the first (0.26 to 0.242); sum over sum the second (9.2 / 32 to 5.2 / 20).
    """
    tokens, seconds = np.asarray([[1.2, 1.2], [4, 8]]), np.asarray([[10.0, 10], [10, 22]])
    rate, actions = best_actions(tokens, seconds)
    assert rate == pytest.approx(9.2 / 32)
    assert actions[1] == 1
    assert np.argmax((tokens / seconds).mean(axis=0)) == 0


def look_up_fifty_times(table, lanes):
    """What steps are made of, in plain numpy: about as long as a step of 256 lanes at 300,000 a second."""
    place, level = np.arange(lanes) % len(table), np.zeros(lanes, dtype=int)
    for _ in range(50):
        found = table[place, level]
        place = np.where(found > 3, place + found, 0) % len(table)
        level = np.minimum(level + 1, table.shape[1] - 1)


def test_depth_environment_is_fast(world):
    """The target is 300,000 steps a second on two cores."""
    env = DepthVecEnv(world, SPEC, throughput(world), FixedSize(8, 1), lanes=256)
    env.reset()
    rng = np.random.default_rng(0)
    actions, table = rng.integers(0, 2, (200, 256)), rng.integers(9, size=(len(world.traces), 7))
    times = []
    for row in actions:
        begun = time.perf_counter()
        env.step(row)
        between = time.perf_counter()
        look_up_fifty_times(table, 256)
        times.append((between - begun, time.perf_counter() - between))
    step, look_ups = np.median(times, axis=0)
    print(f"{256 / step:,.0f} steps/s")
    assert step < look_ups


def test_command_says_how_fast_both_environments_are(files, capsys):
    arguments = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    replay_speed.main([*arguments, "--lanes", "4", "--steps", "5", "--repetitions", "2"])
    for name, line in zip(("depth", "size"), capsys.readouterr().out.splitlines(), strict=True):
        assert re.fullmatch(rf"{name}: [\d,]+ steps/s \(from [\d,]+ to [\d,]+\)", line)
    with pytest.raises(SystemExit, match=r"^replay_speed: lanes, steps, repetitions: expected at least 1"):
        replay_speed.main([*arguments, "--lanes", "0"])
