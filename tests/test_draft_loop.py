"""Trees drafted by one compiled call, decisions included, against those drafted level by level."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from engine_models import random_drafter, random_target
from ltd.baselines import c2t, ddd, disco, specdecpp, svip
from ltd.baselines.gammatune import GammaController, GammaSettings
from ltd.baselines.threshold import ThresholdController, ThresholdSettings
from ltd.engine.compiled.clock import seconds_now
from ltd.engine.compiled.draft_loop import (
    CHOOSING,
    DECIDING,
    FIRST_LEVEL,
    CompiledDraftLoop,
    static_decisions,
)
from ltd.engine.controllers import StaticController
from ltd.engine.decoding import decode, decode_autoregressive
from ltd.engine.draft_loop import DraftLoop, make_draft_loop
from ltd.engine.phases import PhaseClock
from ltd.errors import InputError
from ltd.opponents.calibration import PLACES, Calibration
from ltd.opponents.marginal_rule import MarginalRule, count_of_regressors
from ltd.opponents.rule_controller import RuleController
from ltd.rl import COMPILED_PARTS
from ltd.rl.observations import ObservationSpec
from ltd.rl.policies import Policy, PolicyNetwork
from ltd.rl.policy_controller import PolicyController
from ltd.rl.suffix_prior import LEVELS, TOKENS, SuffixPrior

BEAM, DEPTH, SIZES = 4, 5, (1, 2, 4, 8, 16)
# Every two of the model's 23 tokens are known.
PARENTS, CHILDREN = np.divmod(np.arange(23 + 23 * 23), 23)
MEANS = np.random.default_rng(0).uniform(-2, 2, (1 + len(PARENTS), len(LEVELS)))
SUFFIXES = SuffixPrior(PARENTS * TOKENS + CHILDREN + 1, MEANS.astype(np.float32))
PROMPT = [3, 14, 15, 9, 2, 6, 5, 3]


@pytest.fixture(scope="module")
def engine():
    target = random_target(compiled=True, max_context=300)
    return target, random_drafter(target, beam=BEAM, max_depth=DEPTH, draft_vocab=12, compiled=True)


def network_of(inputs, outputs, seed=0, hidden=16):
    rng = np.random.default_rng(seed)
    return PolicyNetwork(
        [
            (rng.normal(size=(hidden, inputs)), rng.normal(size=hidden)),
            (rng.normal(size=(outputs, hidden)) / 4, np.zeros(outputs)),
        ]
    )


def policy(kind, seed, parts=COMPILED_PARTS, **schedule):
    """Random weights, with a bias that balances what a random draft looks like."""
    spec = ObservationSpec(parts, BEAM, DEPTH, SIZES, suffix_prior=SUFFIXES)
    actions = SIZES if kind == "size" else (0, 1)
    return Policy(kind, network_of(spec.width, len(actions), seed), spec, actions, **schedule)


def threshold(rule, least, network=None):
    settings = ThresholdSettings(least, (1, 2, 4), DEPTH, 8)
    return ThresholdController(rule.name, settings, rule.signal(network), network)


def marginal_rule(seed):
    rng = np.random.default_rng(seed)
    knots = np.linspace(-8, 0, 9)
    return MarginalRule(
        beam=BEAM,
        max_depth=DEPTH,
        sizes=SIZES,
        first_decision=0,
        interval=1,
        calibration=Calibration(knots, np.sort(rng.uniform(size=(DEPTH, PLACES, len(knots))), axis=-1)),
        suffix_prior=SUFFIXES,
        seconds=np.sort(rng.uniform(0, 2, (1 + DEPTH, 300, len(SIZES))), axis=-1),
        forecast=rng.normal(size=(DEPTH, count_of_regressors(BEAM, len(SIZES)))),
        rate=1.0,
    )


# By a seed: some decide alike everywhere, and the first that does not is taken.
CONTROLLERS = {
    "policies": lambda seed: PolicyController(policy("depth", seed), policy("size", seed + 1)),
    "other policies": lambda seed: PolicyController(
        policy("depth", seed, COMPILED_PARTS[3:6]), policy("size", seed, COMPILED_PARTS[:2])
    ),
    "policies, at intervals": lambda seed: PolicyController(
        policy("depth", seed, first_decision=1, interval=2), policy("size", 2)
    ),
    "depth policy": lambda seed: PolicyController(policy("depth", seed), 7),
    "size policy": lambda seed: PolicyController(4, policy("size", seed)),
    "gammatune": lambda seed: GammaController("gammatune", GammaSettings(2, 0.4, 1 + seed, DEPTH, 8)),
    "ddd": lambda seed: threshold(ddd.RULE, -0.2 * seed),
    "svip": lambda seed: threshold(svip.RULE, 0.6 - 0.02 * seed),
    "disco": lambda seed: threshold(disco.RULE, 0.05 * seed, network_of(BEAM + 2, 1, 3)),
    "specdecpp": lambda seed: threshold(specdecpp.RULE, 0.9 - 0.04 * seed, acceptance_head()),
    "c2t": lambda seed: c2t.PruningController("c2t", c2t.PruningSettings(0.5, 3, 9), network_of(2, 1, seed)),
    "marginal rule": lambda seed: RuleController(marginal_rule(seed)),
}
CONSTANTS = {
    "static": lambda: StaticController(3, 6),
    "plain": lambda: StaticController(0, 1),
    "more than there are": lambda: StaticController(2, 64),
    "a pair of constants": lambda: PolicyController(2, 5),
}


def acceptance_head():
    torch.manual_seed(0)
    return specdecpp.AcceptanceHead(48, 24).eval()


class LevelByLevel:
    """Hides that a controller's decisions can be compiled."""

    def __init__(self, controller):
        self.name, self.begin, self.accepted = controller.name, controller.begin, controller.accepted
        self.continue_drafting, self.choose_size = controller.continue_drafting, controller.choose_size


def choices(result):
    return [(cycle.depth, cycle.size, cycle.verified, cycle.tokens) for cycle in result.cycles]


def decisions_of(engine, controller):
    """Depths and sizes by level and in one call, which are the same, as are the tokens and those of plain
    decoding.
    """
    target, drafter = engine
    chosen = set()
    for start in range(3):
        prompt = PROMPT[start:]
        result = decode(target, drafter, controller, prompt, max_new_tokens=60)
        by_level = decode(target, drafter, LevelByLevel(controller), prompt, max_new_tokens=60)
        assert choices(result) == choices(by_level)
        assert result.tokens == by_level.tokens
        assert result.tokens == decode_autoregressive(target, prompt, max_new_tokens=60).tokens
        chosen |= {(cycle.depth, cycle.size) for cycle in result.cycles}
    return chosen


@pytest.mark.parametrize("name", CONTROLLERS)
def test_one_call_drafts_and_decides_as_many_do(name, engine):
    assert any(len(decisions_of(engine, CONTROLLERS[name](seed))) > 1 for seed in range(20))


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_are_drafted_in_one_call_too(name, engine):
    target, drafter = engine
    controller, clock = CONSTANTS[name](), PhaseClock(target.device)
    assert isinstance(make_draft_loop(drafter, controller, clock), CompiledDraftLoop)
    assert type(make_draft_loop(drafter, LevelByLevel(controller), clock)) is DraftLoop
    assert len(decisions_of(engine, controller)) == 1


def test_a_size_beyond_the_pool_takes_all_nodes(engine):
    result = decode(*engine, CONSTANTS["more than there are"](), PROMPT, max_new_tokens=20)
    assert {cycle.verified for cycle in result.cycles} == {BEAM + BEAM * BEAM}


@pytest.mark.parametrize("name", ["policies", "size policy", "marginal rule"])
@pytest.mark.parametrize("tree", [(BEAM + 1, DEPTH), (BEAM - 1, DEPTH), (BEAM, DEPTH + 1)])
def test_trees_that_a_controller_does_not_know_are_refused(name, tree, engine):
    target, _ = engine
    drafter = random_drafter(target, beam=tree[0], max_depth=tree[1], draft_vocab=12, compiled=True)
    with pytest.raises(InputError, match=f"fitted to trees of beam {BEAM} and depth {DEPTH}, those here"):
        decode(target, drafter, CONTROLLERS[name](0), PROMPT, max_new_tokens=5)


def test_shallower_trees_than_a_controller_knows_are_drafted(engine):
    target, _ = engine
    drafter = random_drafter(target, beam=BEAM, max_depth=2, draft_vocab=12, compiled=True)
    for name in ("policies", "marginal rule"):
        controller = CONTROLLERS[name](0)
        result = decode(target, drafter, controller, PROMPT, max_new_tokens=20)
        assert choices(result) == choices(
            decode(target, drafter, LevelByLevel(controller), PROMPT, max_new_tokens=20)
        )


def test_policies_that_look_at_hidden_states_decide_level_by_level(engine):
    target, drafter = engine
    spec = ObservationSpec(("hidden",), BEAM, DEPTH, SIZES, hidden_size=target.hidden_size)
    pair = Policy("depth", network_of(spec.width, 2), spec, (0, 1)), policy("size", 2)
    controller = PolicyController(*pair)
    assert type(make_draft_loop(drafter, controller, PhaseClock(target.device))) is DraftLoop
    result = decode(target, drafter, controller, PROMPT, max_new_tokens=40)
    assert result.tokens == decode_autoregressive(target, PROMPT, max_new_tokens=40).tokens
    assert len({cycle.depth for cycle in result.cycles}) > 1


def test_a_tree_after_more_plain_steps_than_a_prefix_pass_has_rows(engine):
    """What waits for the head is then passed over in parts, whether a tree follows or not."""
    target, drafter = engine
    expected = decode_autoregressive(target, PROMPT, max_new_tokens=150).tokens
    schedule = [(0, 1)] * (2 * drafter.prefix_rows + 5) + [(3, 8)] * 3

    class Scheduled(StaticController):
        def __init__(self):
            super().__init__(0, 1)
            self.left = list(schedule)

        def compiled_decisions(self):
            return static_decisions(*self.left[0] if self.left else (2, 4))

        def accepted(self, count):
            self.left = self.left[1:]

    result = decode(target, drafter, Scheduled(), PROMPT, max_new_tokens=150)
    assert result.tokens == expected
    assert [cycle.depth for cycle in result.cycles][-1] > 0
    assert len(result.cycles) > len(schedule)


@pytest.mark.parametrize("deferred", [1, 64, 133])
def test_a_tree_is_the_same_whatever_waited_for_its_prefix_pass(deferred, engine):
    """All rows in one call, in parts of a prefix pass, or each in a call of its own."""
    target, drafter = engine
    alone = random_drafter(target, beam=BEAM, max_depth=DEPTH, draft_vocab=12, compiled=True)
    tokens = torch.randint(target.vocab_size, (5 + deferred,), generator=torch.Generator().manual_seed(0))
    taps = target.prefill(tokens)[1]
    for each in (drafter, alone):
        each.prefill(taps[:5], tokens[:5])
    # A row's token is the one behind its taps.
    behind = torch.cat([tokens[5:], tokens[:1]])
    drafter.defer(taps[-deferred - 1 : -1], behind[:deferred])
    make_draft_loop(drafter, StaticController(3, 8), PhaseClock(target.device))()
    for row in range(deferred):
        alone.extend(taps[row + 4 : row + 5], behind[row : row + 1])
    alone.expand()
    alone.expand()
    assert drafter.length == alone.length == 4 + deferred
    pool = drafter.state.pool
    assert pool == alone.state.pool
    torch.testing.assert_close(drafter.state.scores[:pool], alone.state.scores[:pool], rtol=1e-4, atol=1e-4)
    assert torch.equal(drafter.select(20).tokens, alone.select(20).tokens)


class Deeper(StaticController):
    """Overrides one decision and not the kernels."""

    def continue_drafting(self, state):
        return state.depth < self.depth + 1


class DeeperProxy:
    """Overrides one decision of a controller that it stands before."""

    def __init__(self, depth, size):
        self.controller = StaticController(depth, size)

    def __getattr__(self, name):
        return getattr(self.controller, name)

    def continue_drafting(self, state):
        return state.depth < self.controller.depth + 1


def deeper_object(depth, size):
    """One decision is put into the object itself."""
    controller = StaticController(depth, size)
    controller.continue_drafting = lambda state: state.depth < depth + 1
    return controller


@pytest.mark.parametrize("deeper", [Deeper, DeeperProxy, deeper_object])
def test_who_decides_otherwise_than_its_kernels_is_asked_itself(deeper, engine):
    target, drafter = engine
    clock, controller = PhaseClock(target.device), deeper(2, 4)
    assert type(make_draft_loop(drafter, controller, clock)) is DraftLoop
    result = decode(target, drafter, controller, PROMPT, max_new_tokens=30)
    assert {cycle.depth for cycle in result.cycles} == {3}


def test_seconds_of_a_call_are_told_apart(engine):
    target, drafter = engine
    controller = CONTROLLERS["policies"](0)
    begun = time.perf_counter()
    result = decode(target, drafter, controller, PROMPT, max_new_tokens=60)
    total = time.perf_counter() - begun
    phases = np.array([(c.draft_ms, c.verify_ms, c.policy_ms, c.rest_ms) for c in result.cycles])
    assert (phases[:, 1:] > 0).all() and (phases >= 0).all()
    assert phases.sum() / 1000 <= total
    assert abs(phases.sum() / 1000 - result.seconds) < 0.1 * result.seconds


def test_a_call_writes_what_each_of_its_parts_took(engine):
    target, drafter = engine
    tokens = torch.tensor(PROMPT)
    taps = target.prefill(tokens)[1]
    drafter.prefill(taps, tokens)
    loop = make_draft_loop(drafter, CONTROLLERS["size policy"](0), PhaseClock(target.device))
    for deepest, expected in ((0, 0), (3, 3), (None, 4)):
        drafter.defer(taps[-1:], tokens[-1:])
        begun = time.perf_counter()
        loop.clock.start()
        depth, size = loop(deepest)
        loop.clock.finish(record := SimpleNamespace())
        total = time.perf_counter() - begun
        seconds = loop.seconds
        assert record.policy_ms == pytest.approx(1e3 * (seconds[DECIDING] + seconds[CHOOSING]))
        assert record.draft_ms >= 1e3 * seconds[FIRST_LEVEL:].sum()
        assert depth == expected and (size in SIZES) == (depth > 0)
        assert (seconds[FIRST_LEVEL : FIRST_LEVEL + depth] > 0).all()
        assert not seconds[FIRST_LEVEL + depth :].any()
        assert seconds[DECIDING] > 0 and (seconds[CHOOSING] > 0) == (depth > 0)
        assert seconds.sum() < total


def test_the_clock_of_kernels_is_that_of_python():
    for _ in range(3):
        before, now, after = time.perf_counter(), seconds_now(), time.perf_counter()
        assert before <= now <= after
