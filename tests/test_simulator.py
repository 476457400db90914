"""Replay against live decoding: the same lengths cycle by cycle, and on a fake clock the same seconds."""

from types import SimpleNamespace

import numpy as np
import pytest

from ltd.engine import decoding, phases
from ltd.engine.compiled.verification import CompiledVerification
from ltd.engine.controllers import StaticController
from ltd.errors import InputError
from ltd.record_traces import RecordTracesOptions, TraceRecorder
from ltd.replay.dense_latency import dense_for
from ltd.replay.simulator import simulate
from ltd.replay.static_grid import static_grid
from ltd.replay.table import ReplayTable
from synthetic import synthetic_profile, synthetic_traces
from tiny_engine import tiny_answers, tiny_drafter, tiny_head, tiny_target

BEAM, DEPTH = 3, 5
HASHES = {"target_hash": "target", "draft_hash": "draft"}


class RandomController:
    """Any depth and size; sees only what it is shown, so that two runs agree when they are shown the same."""

    name = "random"

    def __init__(self, seed):
        self.seed = seed

    def begin(self, prompt_length):
        self.rng = np.random.default_rng([self.seed, prompt_length])

    def continue_drafting(self, state):
        assert len(state.scores) == 39 and state.scores[state.pool :].isinf().all()
        assert state.scores[: state.pool].isfinite().all()
        return self.rng.random() < 0.75

    def choose_size(self, state):
        return int(self.rng.integers(1, 50))

    def accepted(self, count):
        self.rng = np.random.default_rng([self.rng.integers(1 << 30), count])


class ThresholdController(StaticController):
    """Adapts to scores, entropy and what was accepted before."""

    def __init__(self, seed):
        super().__init__(DEPTH, 6)
        self.last = 0

    def continue_drafting(self, state):
        if state.depth == 0:
            return self.last != 1 or state.context_length % 3 > 0
        return state.entropy() > 0.8 and float(state.scores[: state.pool].max()) > -0.9

    def choose_size(self, state):
        return int((state.scores > -2.5).sum()) + 1

    def accepted(self, count):
        self.last = count


@pytest.fixture(scope="module")
def engine():
    target = tiny_target()
    head = tiny_head(target)
    return target, head, tiny_drafter(head, BEAM, DEPTH)


@pytest.fixture(scope="module", params=[0.0, 0.8])
def recorded(request, engine):
    target, head, _ = engine
    answers = tiny_answers(target, 10, request.param)
    answers = [answer for answer in answers if len(answer.answer) > 1]
    options = RecordTracesOptions(
        target="", draft="", responses="", output="", state="", beam=BEAM, max_depth=DEPTH, chunk=7,
        temperature=request.param,
    )  # fmt: skip
    return answers, TraceRecorder(target, head, options).record(answers, HASHES)


def decode_all(engine, recorded, controller):
    target, _, drafter = engine
    answers, traces = recorded
    for answer in answers:
        yield decoding.decode(
            target,
            drafter,
            controller,
            answer.tokens[: answer.prompt_length],
            max_new_tokens=60,
            temperature=traces.temperature,
            seed=answer.seed_key,
        )


@pytest.mark.parametrize("controller", [RandomController(0), RandomController(1), ThresholdController(0)])
def test_live_cycles_accept_what_the_table_says(engine, recorded, controller):
    answers, traces = recorded
    table, cycles, lengths = ReplayTable(traces), 0, set()
    for start, answer, generation in zip(
        traces.starts, answers, decode_all(engine, recorded, controller), strict=True
    ):
        assert generation.tokens == answer.answer.tolist()
        for cycle in generation.cycles:
            position = start + cycle.context_length - answer.prompt_length
            assert traces.context_length[position] == cycle.context_length
            assert table.accepted(position, cycle.depth, cycle.size) == cycle.accepted
            assert table.tokens(position, cycle.depth, cycle.size) == cycle.tokens
            cycles += 1
            lengths.add(cycle.accepted)
    assert cycles > 150 and {0, 1, 2} <= lengths


class FakeClock:
    """Time stands still, except that every phase of the engine takes what the profile says."""

    def __init__(self, monkeypatch, engine, profile):
        self.now = 0.0
        target, _, drafter = engine
        fake = SimpleNamespace(perf_counter=lambda: self.now)
        monkeypatch.setattr(phases, "time", fake)
        monkeypatch.setattr(decoding, "time", fake)
        self.patch, self.profile, self.drafter = monkeypatch.setattr, profile, drafter
        self.charge(CompiledVerification, "step", lambda _: profile.plain_step(target.length))
        self.charge(CompiledVerification, "select", lambda _, size: self.selecting(size))
        self.charge(CompiledVerification, "verify", lambda _: profile.verify(*self.tree))
        self.charge(
            drafter, "extend", lambda: profile.draft_prefix(drafter.pending, drafter.state.context_length)
        )
        self.charge(
            drafter,
            "expand",
            lambda: profile.draft_step(drafter.state.depth + 1, drafter.state.context_length),
        )

        self.charge(drafter, "note_levels", self.drafting)

    def drafting(self, depth):
        """A tree that was drafted in one call, all decisions about it included."""
        drafter, profile, context = self.drafter, self.profile, self.drafter.state.context_length
        deciding = min(depth + 1, drafter.max_depth) * profile.depth_policy
        if not depth:
            return deciding
        steps = sum(profile.draft_step(level, context) for level in range(2, depth + 1))
        return deciding + profile.size_policy + profile.draft_prefix(drafter.pending, context) + steps

    def selecting(self, size):
        """All that is no pass; notes nodes and context of the verification that follows."""
        state = self.drafter.state
        self.tree = min(size, state.pool), state.context_length
        return self.profile.rest(*self.tree)

    def charge(self, owner, name, seconds):
        original = getattr(owner, name)

        def timed(*arguments):
            self.now += float(seconds(*arguments))
            return original(*arguments)

        self.patch(owner, name, timed)


def deciding_by_networks(controller):
    """The same decisions, charged at every depth."""
    controller.weights, controller.asked = {"depth": 1, "size": 1}, lambda depth: True
    return controller


@pytest.mark.parametrize("make", [RandomController, ThresholdController, lambda seed: StaticController(3, 9)])
def test_live_run_on_the_profiles_clock_takes_the_simulated_time(engine, recorded, make, monkeypatch):
    _, traces = recorded
    profile = synthetic_profile(beam=BEAM, max_depth=DEPTH)
    controller = make(2)
    clock = FakeClock(monkeypatch, engine, profile)
    clock.charge(controller, "continue_drafting", lambda state: profile.depth_policy)
    clock.charge(controller, "choose_size", lambda state: profile.size_policy)
    live = list(decode_all(engine, recorded, controller))
    result = simulate(deciding_by_networks(make(2)), traces, profile)
    np.testing.assert_array_equal([len(g.tokens) - 1 for g in live], result.tokens)
    np.testing.assert_array_equal([len(g.cycles) for g in live], result.cycles)
    np.testing.assert_allclose([g.seconds for g in live], result.seconds, rtol=1e-9)
    records = [cycle for g in live for cycle in g.cycles]
    for column in ("context_length", "depth", "size", "verified", "accepted", "tokens"):
        np.testing.assert_array_equal(
            [getattr(cycle, column) for cycle in records], getattr(result.log, column)
        )
    parts = [c.draft_ms + c.verify_ms + c.policy_ms + c.rest_ms for c in records]
    np.testing.assert_allclose(parts, result.log.seconds * 1e3, rtol=1e-9)
    for cycle in records:
        of_tree = cycle.verified, cycle.context_length
        expected = (
            (profile.verify(*of_tree), profile.rest(*of_tree))
            if cycle.depth
            else (profile.plain_step(cycle.context_length), 0)
        )
        assert (cycle.verify_ms, cycle.rest_ms) == pytest.approx([1e3 * float(s) for s in expected])


def test_grid_equals_one_simulation_a_setting():
    traces, profile = synthetic_traces(seed=4), synthetic_profile()
    depths, sizes = range(7), (1, 2, 5, 13, 40)
    grid = static_grid(traces, profile, depths, sizes)
    for row, depth in enumerate(depths):
        for column, size in enumerate(sizes):
            # Whoever never drafts decodes plainly.
            one = simulate(StaticController(depth, size) if depth else None, traces, profile)
            np.testing.assert_allclose(grid.seconds[row, column], one.seconds, rtol=1e-12)
            np.testing.assert_array_equal(grid.cycles[row, column], one.cycles)
            assert grid.throughput("code")[row, column] == pytest.approx(one.throughput("code"))


def test_best_setting_is_the_fastest():
    traces, profile = synthetic_traces(seed=4), synthetic_profile()
    grid = static_grid(traces, profile, range(7), range(1, 41))
    depth, size, throughput = grid.best()
    assert throughput == grid.throughput().max() == pytest.approx(grid.setting(depth, size).throughput())
    assert grid.best("code")[:2] != grid.best("chat")[:2], "the tasks of these traces differ in certainty"
    per_task = grid.best_per_task()
    for task in ("chat", "code"):
        assert per_task.throughput(task) == pytest.approx(grid.best(task)[2])
    # Where drafting costs more than it can bring, plain decoding is the best static setting.
    dear = profile.tables["draft_prefix"]
    dear = profile.replace_table("draft_prefix", type(dear)(dear.axis, (np.array(dear.ms) + 9).tolist()))
    assert static_grid(traces, dear, range(7), (1, 2)).best()[0] == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t, p: static_grid(t, p, (7,), (1,)), "depths"),
        (lambda t, p: static_grid(t, p, (1,), (0, 1)), "sizes"),
        (lambda t, p: static_grid(t, p, (6,), (61,)), "tables.verify: 61"),
        (lambda t, p: simulate(StaticController(6, 61), t, p), "tables.verify: size 61"),
        (lambda t, p: static_grid(t, p, (1,), (1,)).best("maths"), "task 'maths'"),
        (lambda t, p: simulate(ThresholdController(0), t, p), "no entropy"),
    ],
)
def test_wrong_settings_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call(synthetic_traces(sequences=2), synthetic_profile())


def test_contexts_beyond_the_profile_are_told():
    with pytest.warns(UserWarning, match=r"100% of the positions .* 256 tokens, .* latency\.context_lengths"):
        dense_for(synthetic_traces(sequences=2, prompt_tokens=(300, 320)), synthetic_profile(), 8)
