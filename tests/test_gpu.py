"""On a real GPU: graphs decode what plain steps and the CPU decode, and nothing waits but decisions."""

from contextlib import contextmanager
from copy import deepcopy

import numpy as np
import pytest
import torch

from engine_models import (
    ARCHITECTURES,
    RandomController,
    check_near_best,
    check_same,
    fusable,
    random_head,
    random_model,
    random_target,
)
from ltd import devices
from ltd.engine.controllers import StaticController
from ltd.engine.decoding import decode, decode_autoregressive
from ltd.engine.draft_loop import DraftLoop
from ltd.engine.loading import make_drafter
from ltd.engine.phases import PhaseClock
from ltd.engine.sampling import SamplingOptions
from ltd.engine.target import TargetModel
from ltd.engine.verification import make_verification
from ltd.rl.observations import ObservationSpec
from ltd.rl.policies import Policy, PolicyNetwork
from ltd.rl.policy_controller import LiveObserver, PolicyController
from ltd.rl.policy_settings import PLANNED
from ltd.rl.suffix_prior import LEVELS, SuffixPrior

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")
PROMPT = [3, 14, 15, 9, 2, 6, 5, 3]
CONTROLLERS = (StaticController(1, 1), StaticController(5, 64), RandomController(seed=7))


# In bfloat16 the kernels of `ltd.engine.gpu` serve these, and no smaller ones.
TILED = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 128}
TILED_TARGET = TILED | {"hidden_size": 128, "attention_bias": False, "mlp_bias": False, "vocab": 128}


def gpu_engine(architecture="llama", dtype=torch.float32, max_context=300, tiled=False):
    """A target on the GPU, and a drafter that knows the tokens of its answer: some drafts are accepted."""
    model = random_model(architecture, **(TILED_TARGET if tiled else {})).to("cuda", dtype)
    target = TargetModel(model, max_context=max_context, max_tree=64)
    answer = decode_autoregressive(target, PROMPT, max_new_tokens=60).tokens
    count = 64 if tiled else 9
    head = random_head(target, draft_vocab=count, **(TILED if tiled else {}))
    known = list(dict.fromkeys([*answer, *range(target.vocab_size)]))[:count]
    head.set_draft_vocabulary(torch.tensor(sorted(known)))
    drafter = make_drafter(head.to("cuda"), beam=5, max_depth=5, max_context=max_context)
    return target, drafter


@contextmanager
def nothing_waits():
    """Refuse operations that make the host wait for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_float32_decodes_what_plain_steps_and_the_cpu_decode(architecture):
    target, drafter = gpu_engine(architecture)
    assert target.bucketed and target.forward.passes.captures
    expected = decode_autoregressive(target, PROMPT, max_new_tokens=120).tokens
    on_cpu = decode_autoregressive(random_target(architecture, max_context=300), PROMPT, max_new_tokens=120)
    assert expected == on_cpu.tokens
    captured = len(target.forward.passes._graphs), len(drafter.passes._graphs)
    accepted = 0
    for controller in CONTROLLERS:
        generation = decode(target, drafter, controller, PROMPT, max_new_tokens=120)
        assert generation.tokens == expected
        accepted += sum(cycle.accepted for cycle in generation.cycles)
    assert accepted > 0, "nothing was kept but roots"
    assert captured == (len(target.forward.passes._graphs), len(drafter.passes._graphs))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_differs_at_near_ties_alone(dtype):
    target, drafter = gpu_engine(dtype=dtype)
    accepted = 0
    for controller in CONTROLLERS:
        generation = decode(target, drafter, controller, PROMPT, max_new_tokens=120)
        check_near_best(target, PROMPT, generation.tokens)
        accepted += sum(cycle.accepted for cycle in generation.cycles)
    assert accepted > 0, "nothing was kept but roots"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kernels_of_our_own_decode_what_plain_steps_do(architecture):
    """Up to near-ties; in plain steps and small trees the products are ours, in large ones a library's."""
    target, drafter = gpu_engine(architecture, torch.bfloat16, tiled=True)
    assert target.forward.kernels and drafter.kernels
    plain = TargetModel(target.model, max_context=300, max_tree=64, bucketed=False)
    accepted = 0
    for controller in CONTROLLERS:
        generation = decode(target, drafter, controller, PROMPT, max_new_tokens=120)
        check_near_best(plain, PROMPT, generation.tokens)
        accepted += sum(cycle.accepted for cycle in generation.cycles)
    assert accepted > 0, "nothing was kept but roots"
    steps = decode_autoregressive(target, PROMPT, max_new_tokens=120).tokens
    check_near_best(plain, PROMPT, steps)


def test_samples_are_those_of_plain_steps():
    target, drafter = gpu_engine()
    options = {"max_new_tokens": 100, "temperature": 0.8, "top_k": 12, "top_p": 0.95, "seed": 5}
    expected, accepted = decode_autoregressive(target, PROMPT, **options).tokens, 0
    for controller in CONTROLLERS:
        generation = decode(target, drafter, controller, PROMPT, **options)
        assert generation.tokens == expected
        accepted += sum(cycle.accepted for cycle in generation.cycles)
    assert accepted > 0, "nothing was kept but roots"


def test_long_answers_pass_from_bucket_to_bucket():
    target, drafter = gpu_engine("qwen3", max_context=500)
    expected = decode_autoregressive(target, PROMPT, max_new_tokens=480).tokens
    generation = decode(target, drafter, RandomController(seed=3), PROMPT, max_new_tokens=480)
    assert generation.tokens == expected
    assert sum(cycle.accepted for cycle in generation.cycles) > 0, "nothing was kept but roots"


class Watcher(RandomController):
    """Looks at some drafts, and compares what it sees with what the GPU holds; of every other tree at depth 2
    alone, so that an array fetched for the tree before would show.
    """

    looks = trees = 0

    def continue_drafting(self, state):
        self.trees += state.depth == 0
        if state.depth and (state.depth == 2 or self.trees % 2):
            self.looks += 1
            drafted = slice(state.pool)
            assert torch.equal(torch.from_numpy(state.score_array)[drafted], state.scores[drafted].cpu())
            log_probs = state.draft_logits.double().log_softmax(dim=-1)
            assert state.entropy() == pytest.approx(float(-(log_probs.exp() * log_probs).sum()), rel=1e-4)
        return super().continue_drafting(state)


@pytest.mark.parametrize("tiled", [False, True])
def test_controllers_see_the_draft_in_progress(tiled):
    target, drafter = gpu_engine(dtype=torch.bfloat16 if tiled else torch.float32, tiled=tiled)
    watcher = Watcher(seed=11)
    decode(target, drafter, watcher, PROMPT, max_new_tokens=120)
    assert watcher.looks > 20
    # Also outside of decoding, as the timer does.
    drafter.defer(drafter._pending_taps[:1], torch.ones(1, dtype=torch.int64, device="cuda"))
    drafter.extend()
    watcher.trees = 1
    watcher.continue_drafting(drafter.state)


SIZES = (1, 2, 4, 8, 16, 32, 60)
SPEC = ObservationSpec(("levels", "one_hot_depth", "length", "entropy"), 5, 5, SIZES)


class Observer(RandomController):
    """Notes what policies would have seen."""

    def __init__(self):
        super().__init__(seed=5)
        self.live, self.seen = LiveObserver(SPEC), []

    def continue_drafting(self, state):
        if state.depth:
            self.seen.append(self.live.observe(state).copy())
        return super().continue_drafting(state)

    def accepted(self, count):
        self.live.clear()


def random_policies(seed, seen):
    """A pair with random weights; what was seen [n, width] gives the scale, and the mean of it is a draw."""
    generator, pair = np.random.default_rng(seed), {}
    middle, width = np.mean(seen, axis=0), np.std(seen, axis=0) + 1e-3
    for kind, actions in (("depth", (0, 1)), ("size", SIZES)):
        first, second = (generator.normal(size=s) for s in ((16, SPEC.width), (len(actions), 16)))
        first /= width
        hidden = np.maximum((np.array(seen) - middle) @ first.T, 0)
        layers = [(first, -first @ middle), (second, -second @ hidden.mean(axis=0))]
        pair[kind] = Policy(kind, PolicyNetwork(layers), SPEC, actions, first_decision=1)
    return PolicyController(**pair)


@pytest.mark.parametrize("seed", range(3))
def test_policies_decide_on_the_gpu_what_they_decide_on_a_cpu(monkeypatch, seed):
    """With kernels of Numba and with numpy; sampled: greedy answers of random weights repeat themselves."""
    options = {"max_new_tokens": 120, "temperature": 1.0, "seed": 2}
    target, drafter = gpu_engine()
    on_cpu = random_target(max_context=300)
    cpu_drafter = make_drafter(deepcopy(drafter.head).cpu(), beam=5, max_depth=5, max_context=300)
    observer = Observer()
    decode(on_cpu, cpu_drafter, observer, PROMPT, **options)
    policies = random_policies(seed, observer.seen)
    expected = decode(on_cpu, cpu_drafter, policies, PROMPT, **options)
    shapes = [(cycle.depth, cycle.size) for cycle in expected.cycles]
    assert len(set(shapes)) > 3
    for compiled in (True, False):
        monkeypatch.setattr(devices, "has_numba", lambda compiled=compiled: compiled)
        policies = random_policies(seed, observer.seen)
        generation = decode(target, drafter, policies, PROMPT, **options)
        assert [(cycle.depth, cycle.size) for cycle in generation.cycles] == shapes


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("tiled", [False, True])
@torch.inference_mode()
def test_only_decisions_wait_for_the_gpu(tiled, temperature):
    target, drafter = gpu_engine(dtype=torch.bfloat16 if tiled else torch.float32, tiled=tiled)
    logits, taps = target.prefill(PROMPT)
    drafter.prefill(taps, target.token_tensor(PROMPT))
    token = logits.argmax()[None]
    drafter.defer(taps[-1:], token)
    verification = make_verification(target, drafter, SamplingOptions(temperature))
    verification.begin(token)
    for position in range(1, 6):
        with nothing_waits():
            drafter.extend()
            for _ in range(drafter.max_depth - 1):
                drafter.expand()
            verification.select(40)
            verification.verify()
            if temperature:
                verification._sample(position)
        count = len(verification.follow(position))  # the one wait of a cycle: how many were accepted
        with nothing_waits():
            verification.keep(count)


@pytest.mark.parametrize("compiled", [True, False])
@torch.inference_mode()
def test_planned_cycles_are_drafted_without_waiting(monkeypatch, compiled):
    """Policies that see nothing of the draft decide beside it."""
    monkeypatch.setattr(devices, "has_numba", lambda: compiled)
    target, drafter = gpu_engine()
    nothing_known = SuffixPrior(np.empty(0, np.int64), np.zeros((1, len(LEVELS)), np.float32))
    spec = ObservationSpec(PLANNED, 5, 5, SIZES, suffix_prior=nothing_known)
    to_three_levels = np.zeros((2, spec.width))
    to_three_levels[0, 3] = 1
    depth = Policy("depth", PolicyNetwork([(to_three_levels, np.array([0, 0.5]))]), spec, (0, 1))
    weights = np.random.default_rng(0).normal(size=(len(SIZES), spec.width))
    size = Policy("size", PolicyNetwork([(weights, np.zeros(len(SIZES)))]), spec, SIZES)
    clock = PhaseClock(target.device)
    loop = DraftLoop(drafter, PolicyController(depth, size), clock)
    logits, taps = target.prefill(PROMPT)
    drafter.prefill(taps, target.token_tensor(PROMPT))
    token = logits.argmax()[None]
    drafter.defer(taps[-1:], token)
    verification = make_verification(target, drafter, SamplingOptions())
    verification.begin(token)
    clock.start()
    for position in range(1, 6):
        with nothing_waits():
            drafted, chosen = loop()
            verification.select(chosen)
            verification.verify()
        assert drafted == 3
        verification.keep(len(verification.follow(position)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 2, 65])
@torch.inference_mode()
def test_fused_operations_are_the_written_ones(rows, dtype):
    for function, arguments in fusable(rows, 4, 2, 16, device="cuda", dtype=dtype):
        check_same(function, function.__wrapped__, arguments)
