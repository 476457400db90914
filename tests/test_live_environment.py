"""The live back end: on the profile's clock it is the replay, and it emits the target's own tokens."""

from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from ltd.engine.compiled.verification import CompiledVerification
from ltd.engine.controllers import StaticController
from ltd.engine.decoding import decode
from ltd.errors import InputError
from ltd.record_traces import RecordTracesOptions, TraceRecorder
from ltd.rl import environments, live_walk
from ltd.rl.choices import FixedDepth, FixedSize
from ltd.rl.live_walk import LiveWorld
from ltd.rl.observations import ObservationSpec
from ltd.rl.replay_walk import ReplayWorld
from ltd.rl.rewards import Reward
from ltd.rl.vector_environment import DepthVecEnv, SizeVecEnv
from ltd.texts.responses import Responses
from saved_engine import save_engine
from synthetic import synthetic_profile
from tiny_engine import tiny_answers, tiny_drafter, tiny_head, tiny_target

BEAM, DEPTH, SIZES = 3, 5, (1, 2, 4, 8, 16)
SPEC = ObservationSpec(("levels", "mass", "one_hot_depth", "length", "entropy"), BEAM, DEPTH, SIZES)


@pytest.fixture(scope="module", params=[0.0, 0.8])
def worlds(request):
    """The same answers replayed and live, as a function of the profile."""
    target = tiny_target()
    head = tiny_head(target)
    answers = [a for a in tiny_answers(target, 8, request.param, max_new_tokens=12) if len(a.answer) > 1]
    options = RecordTracesOptions(
        target="", draft="", responses="", output="", state="", beam=BEAM, max_depth=DEPTH, chunk=64,
        temperature=request.param,
    )  # fmt: skip
    traces = TraceRecorder(target, head, options).record(
        answers, {"target_hash": "target", "draft_hash": "draft"}
    )
    profile = synthetic_profile(beam=BEAM, max_depth=DEPTH)
    engine = target, tiny_drafter(head, BEAM, DEPTH)
    live = LiveWorld(*engine, Responses.from_sequences(answers), profile, SIZES, request.param)
    return ReplayWorld(traces, profile, SIZES), live


@pytest.fixture
def profiles_clock(worlds, monkeypatch):
    """Time stands still, except that every call of the engine takes what the profile says."""
    live = worlds[1]
    target, drafter, profile = live.decoder.target, live.decoder.drafter, live.profile
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(live_walk, "time", SimpleNamespace(perf_counter=lambda: clock.now))

    def charge(owner, name, seconds):
        original = getattr(owner, name)

        def timed(*arguments):
            clock.now += float(seconds(drafter.state, *arguments))
            return original(*arguments)

        monkeypatch.setattr(owner, name, timed)

    def verification(state, _, size):
        nodes = min(size, state.pool)
        return profile.verify(nodes, state.context_length) + profile.rest(nodes, state.context_length)

    charge(CompiledVerification, "step", lambda *_: profile.plain_step(target.length))
    charge(CompiledVerification, "select", verification)
    charge(drafter, "extend", lambda state: profile.draft_prefix(drafter.pending, state.context_length))
    charge(drafter, "expand", lambda state: profile.draft_step(state.depth + 1, state.context_length))
    charge(target, "prefill", lambda *_: 1.0)


def depth_environment(world, **schedule):
    size = FixedSize(4, decisions=1)
    return DepthVecEnv(world, SPEC, Reward("throughput", world.step_seconds), size, lanes=1, **schedule)


def size_environment(world, depth=None):
    reward = Reward("marginal", world.step_seconds, rate=1.3)
    return SizeVecEnv(world, SPEC, reward, depth, lanes=1, whole_answers=True)


class NowAndThen:
    """Two levels, and a plain step at every third root."""

    def go_on(self, walk, lanes):
        drafts = (walk.depth[lanes] > 0) | (walk.position[lanes] % 3 > 0)
        return drafts & (walk.depth[lanes] < 2)


ENVIRONMENTS = {
    "depth": lambda world: depth_environment(world, first_decision=0, whole_answers=True),
    "depth, interval": lambda world: depth_environment(world, first_decision=1, interval=2),
    "size": lambda world: size_environment(world),
    "size, plain steps": lambda world: size_environment(world, NowAndThen()),
}


@pytest.mark.parametrize("kind", ENVIRONMENTS)
def test_on_the_profiles_clock_live_is_replay(worlds, profiles_clock, kind):
    replay, live = map(ENVIRONMENTS[kind], worlds)
    rng, ends, paid = np.random.default_rng(0), 0, set()
    for seed in range(2):
        for env in (replay, live):
            env.reseed(seed)
        seen = replay.reset(), live.reset()
        for _ in range(40):
            np.testing.assert_allclose(seen[1], seen[0], atol=1e-4)
            assert live.walk.position == replay.walk.position
            action = rng.integers(replay.action_space.n, size=1)
            (*seen, rewards, dones), (*live_seen, live_rewards, live_dones) = (
                env.step(action)[:3] for env in (replay, live)
            )
            seen = *seen, *live_seen
            np.testing.assert_allclose(live_rewards, rewards, rtol=1e-5)
            assert live_dones == dones
            ends += int(dones[0])
            paid.add(round(float(rewards[0]), 4))
    assert ends >= 3 and len(paid) > 10


@pytest.mark.parametrize("worlds", [0.0], indirect=True)
def test_a_reset_in_mid_cycle_drafts_afresh(worlds):
    _, live = worlds
    env = depth_environment(live, first_decision=1)
    first = env.reset().copy()
    env.step(np.array([1]))
    assert live.decoder.drafter.state.depth == 2
    np.testing.assert_array_equal(env.reset(), first)
    assert live.decoder.drafter.state.depth == 1


@pytest.mark.parametrize("worlds", [0.0], indirect=True)
@pytest.mark.parametrize("name", ["ltd/Depth-v0", "ltd/Size-v0"])
@pytest.mark.filterwarnings("ignore:.*Box observation space")
def test_gymnasium_accepts_the_live_environments(name, tmp_path_factory, worlds):
    folder = tmp_path_factory.mktemp("engine")
    target, draft = save_engine(folder)
    Responses.from_sequences(worlds[1].answers).save(folder / "answers.safetensors")
    worlds[1].profile.save(folder / "profile.json")
    env = gymnasium.make(
        name,
        backend="live",
        target=str(target),
        draft=draft,
        responses=folder / "answers.safetensors",
        profile=folder / "profile.json",
        sizes=SIZES,
        device="cpu",
    )
    check_env(env.unwrapped, skip_render_check=True)
    env.reset(seed=1)
    paid = [env.step(0)[1] for _ in range(5)]
    assert min(paid) > 0 and len(set(paid)) == 5, "measured times differ from cycle to cycle"


@pytest.mark.parametrize("worlds", [0.0], indirect=True)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backend": "dead"}, "backend: 'dead' is unknown; choose from replay, live"),
        ({"draft": None}, "draft: missing; the back end live needs target, draft, responses"),
        ({"temprature": 1.0}, "temprature: neither .* of the back end live, which takes target, draft, resp"),
        ({"traces": "train.safetensors"}, "traces: neither an option of this environment nor of the back"),
        ({"responses": Responses.from_sequences([])}, "responses: no answer of two tokens"),
        ({"profile": synthetic_profile(beam=4, max_depth=DEPTH)}, "beam: 4, but the drafter has 3"),
        ({"sizes": (1, 4000)}, "sizes: 4000 exceeds the largest tree"),
    ],
)
def test_wrong_sources_are_refused(worlds, changes, message):
    _, live = worlds
    sources = {
        "backend": "live",
        "profile": live.profile,
        "sizes": SIZES,
        "target": live.decoder.target,
        "draft": live.decoder.drafter,
        "responses": Responses.from_sequences(live.answers),
    }
    with pytest.raises(InputError, match=message):
        environments.open_world(**sources | changes)


@pytest.mark.parametrize("worlds", [0.0], indirect=True)
def test_live_decoding_has_one_lane(worlds):
    with pytest.raises(InputError, match="lanes: 2 asked for; live decoding has 1"):
        DepthVecEnv(worlds[1], SPEC, Reward("throughput", 1.0), FixedSize(4, 1), lanes=2)


def test_cycles_are_those_of_the_decoding_loop(worlds):
    _, live = worlds
    target, drafter = live.decoder.target, live.decoder.drafter
    env = SizeVecEnv(live, SPEC, Reward("acceptance", 1.0), FixedDepth(4), lanes=1, whole_answers=True)
    for start, answer in zip(live.starts, live.answers, strict=True):
        prompt = answer.tokens[: answer.prompt_length]
        options = {"temperature": live.decoder.temperature, "seed": answer.seed_key}
        generation = decode(
            target, drafter, StaticController(4, SIZES[3]), prompt, max_new_tokens=12, **options
        )
        env.walk.place(np.array([0]), start[None])
        env.reset()
        for number, cycle in enumerate(generation.cycles, start=1):
            before = live.decoder.context.tolist()
            assert len(before) == cycle.context_length + 1
            assert before == [*prompt.tolist(), *generation.tokens[: len(before) - len(prompt)]]
            _, rewards, dones, _ = env.step(np.array([3]))
            assert rewards[0] == cycle.tokens
            assert dones[0] == (number == len(generation.cycles))
