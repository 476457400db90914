"""On a real GPU: graphs decode what plain steps and the CPU decode, and nothing waits but decisions."""

from contextlib import contextmanager

import pytest
import torch

from engine_models import (
    ARCHITECTURES,
    RandomController,
    check_equal_but_for_near_ties,
    check_same,
    fusable,
    random_head,
    random_model,
    random_target,
)
from ltd.engine.controllers import StaticController
from ltd.engine.decoding import decode, decode_autoregressive
from ltd.engine.loading import make_drafter
from ltd.engine.sampling import SamplingOptions, TokenSampler
from ltd.engine.target import TargetModel
from ltd.engine.verification import make_verification

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
    expected = decode_autoregressive(target, PROMPT, max_new_tokens=120).tokens
    for controller in CONTROLLERS:
        tokens = decode(target, drafter, controller, PROMPT, max_new_tokens=120).tokens
        check_equal_but_for_near_ties(target, PROMPT, tokens, expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kernels_of_our_own_decode_what_plain_steps_do(architecture):
    """Up to near-ties; in plain steps and small trees the products are ours, in large ones a library's."""
    target, drafter = gpu_engine(architecture, torch.bfloat16, tiled=True)
    assert target.forward.kernels and drafter.kernels
    plain = TargetModel(target.model, max_context=300, max_tree=64, bucketed=False)
    expected = decode_autoregressive(plain, PROMPT, max_new_tokens=120).tokens
    accepted = 0
    for controller in CONTROLLERS:
        generation = decode(target, drafter, controller, PROMPT, max_new_tokens=120)
        check_equal_but_for_near_ties(plain, PROMPT, generation.tokens, expected)
        accepted += sum(cycle.accepted for cycle in generation.cycles)
    assert accepted > 0, "nothing was kept but roots"
    steps = decode_autoregressive(target, PROMPT, max_new_tokens=120).tokens
    check_equal_but_for_near_ties(plain, PROMPT, steps, expected)


def test_samples_are_those_of_plain_steps():
    target, drafter = gpu_engine()
    options = {"max_new_tokens": 100, "temperature": 0.8, "top_k": 12, "top_p": 0.95, "seed": 5}
    expected = decode_autoregressive(target, PROMPT, **options).tokens
    for controller in CONTROLLERS:
        assert decode(target, drafter, controller, PROMPT, **options).tokens == expected


def test_long_answers_pass_from_bucket_to_bucket():
    target, drafter = gpu_engine("qwen3", max_context=500)
    expected = decode_autoregressive(target, PROMPT, max_new_tokens=480).tokens
    assert decode(target, drafter, RandomController(seed=3), PROMPT, max_new_tokens=480).tokens == expected


@pytest.mark.parametrize("tiled", [False, True])
@torch.inference_mode()
def test_only_decisions_wait_for_the_gpu(tiled):
    target, drafter = gpu_engine(dtype=torch.bfloat16 if tiled else torch.float32, tiled=tiled)
    logits, taps = target.prefill(PROMPT)
    drafter.prefill(taps, target.token_tensor(PROMPT))
    token = logits.argmax()[None]
    drafter.defer(taps[-1:], token)
    sampler = TokenSampler(SamplingOptions(), target.vocab_size, drafter.max_depth, target.device)
    verification = make_verification(target, drafter, sampler)
    verification.begin(token)
    for position in range(1, 6):
        with nothing_waits():
            drafter.extend()
            for _ in range(drafter.max_depth - 1):
                drafter.expand()
            verification.select(40)
            verification.verify()
        count = len(verification.follow(position))  # the one wait of a cycle: how many were accepted
        with nothing_waits():
            verification.keep(count)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 2, 65])
@torch.inference_mode()
def test_fused_operations_are_the_written_ones(rows, dtype):
    for function, arguments in fusable(rows, 4, 2, 16, device="cuda", dtype=dtype):
        check_same(function, function.__wrapped__, arguments)
