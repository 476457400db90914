"""Losslessness: whatever the controller decides, the tokens are those of autoregressive decoding."""

import pytest
import torch

from engine_models import (
    ARCHITECTURES,
    FORWARDS,
    RandomController,
    random_drafter,
    random_model,
    random_target,
)
from ltd.engine.controllers import StaticController
from ltd.engine.decoding import decode, decode_autoregressive
from ltd.engine.target import TargetModel
from ltd.errors import InputError

PROMPT = [3, 14, 15, 9, 2, 6, 5, 3]
CONTROLLERS = {
    "one": lambda: StaticController(1, 1),
    "static": lambda: StaticController(3, 8),
    "largest": lambda: StaticController(5, 64),
    "plain": lambda: StaticController(0, 1),
    "random": RandomController,
    "mostly plain": lambda: RandomController(seed=3, stop=0.7),
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_autoregressive_decoding_is_that_of_transformers(architecture):
    model = random_model(architecture)
    target = TargetModel(model, max_context=160)
    ours = decode_autoregressive(target, PROMPT, max_new_tokens=80).tokens
    theirs = model.generate(torch.tensor([PROMPT]), max_new_tokens=80, do_sample=False)[0, len(PROMPT) :]
    assert ours == theirs.tolist()


@pytest.mark.parametrize(
    ("architecture", "forward"),
    [(name, forward) for name in ARCHITECTURES for forward in ("compiled", "lean")] + [("qwen3", "model")],
)
def test_greedy_output_is_autoregressive_output(architecture, forward):
    cycles = accepted = 0
    for seed, prompt in enumerate(([7], PROMPT)):
        target = random_target(architecture, seed, **FORWARDS[forward])
        vocabulary, compiled = 15 if seed else None, forward == "compiled"
        drafter = random_drafter(target, seed, beam=8, draft_vocab=vocabulary, compiled=compiled)
        expected = decode_autoregressive(target, prompt, max_new_tokens=50).tokens
        for make in CONTROLLERS.values():
            result = decode(target, drafter, make(), prompt, max_new_tokens=50)
            assert result.tokens == expected
            cycles += len(result.cycles)
            accepted += sum(cycle.accepted for cycle in result.cycles)
    assert cycles > 300 and accepted > 50


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_decoding_with_weights_in_half_precision_is_lossless_too(architecture):
    shapes = {"half_weights": True, "hidden_size": 384, "intermediate_size": 400, "vocab": 50}
    target = random_target(architecture, compiled=True, **shapes)
    assert target.packed_layers
    drafter = random_drafter(target, compiled=True)
    expected = decode_autoregressive(target, PROMPT, max_new_tokens=60).tokens
    for make in CONTROLLERS.values():
        assert decode(target, drafter, make(), PROMPT, max_new_tokens=60).tokens == expected


def test_bfloat16_differs_only_at_near_ties():
    """The first token that differs has a logit within a few roundings of the best one's."""
    model = random_model("qwen3").to(torch.bfloat16)
    target = TargetModel(model, max_context=160, max_tree=64)
    drafter = random_drafter(target)
    expected = decode_autoregressive(target, PROMPT, max_new_tokens=100).tokens
    for make in CONTROLLERS.values():
        tokens = decode(target, drafter, make(), PROMPT, max_new_tokens=100).tokens
        first = next(
            (i for i, pair in enumerate(zip(tokens, expected, strict=True)) if len(set(pair)) > 1), None
        )
        if first is not None:
            logits, _ = target.prefill(PROMPT + expected[:first])
            margin = 8 * torch.finfo(torch.bfloat16).eps * logits.abs().max()
            assert (logits[expected[first]] - logits[tokens[first]]).abs() <= margin


@pytest.mark.parametrize("options", [{"temperature": 1.0}, {"temperature": 0.7, "top_k": 9, "top_p": 0.8}])
def test_sampled_output_is_the_same_for_every_controller(options):
    target = random_target("qwen2")
    drafter = random_drafter(target)
    outputs = []
    for seed in range(3):
        expected = decode_autoregressive(target, PROMPT, max_new_tokens=40, seed=seed, **options).tokens
        outputs.append(expected)
        for make in CONTROLLERS.values():
            assert (
                decode(target, drafter, make(), PROMPT, max_new_tokens=40, seed=seed, **options).tokens
                == expected
            )
    assert outputs[0] != outputs[1] != outputs[2]


def test_end_of_sequence_inside_an_accepted_path():
    """Every token of an answer in turn plays the end-of-sequence token; nothing after it is returned or
    counted.
    """
    target = random_target()
    drafter = random_drafter(target)
    full = decode(target, drafter, StaticController(4, 40), PROMPT, max_new_tokens=60, temperature=1.5)
    cut_inside = 0
    for end in set(full.tokens):
        expected = full.tokens[: full.tokens.index(end) + 1]
        received = []
        options = {"max_new_tokens": 60, "temperature": 1.5, "eos_ids": [end], "on_tokens": received.extend}
        result = decode(target, drafter, StaticController(4, 40), PROMPT, **options)
        assert result.tokens == received == expected
        assert 1 + sum(cycle.tokens for cycle in result.cycles) == len(expected)
        cut_inside += bool(result.cycles) and result.cycles[-1].accepted == result.cycles[-1].tokens
    assert cut_inside


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 20])
def test_exactly_max_new_tokens(limit):
    target = random_target()
    drafter = random_drafter(target)
    full = decode_autoregressive(target, PROMPT, max_new_tokens=40).tokens
    result = decode(target, drafter, StaticController(5, 64), PROMPT, max_new_tokens=limit)
    assert result.tokens == full[:limit]
    assert 1 + sum(cycle.tokens for cycle in result.cycles) == limit


@pytest.mark.parametrize("room", [0, 1, 2, 6])
def test_context_limit_ends_the_answer(room):
    """Prompt and answer fill the context, plus the one token that needs no place in the cache."""
    prompt = (PROMPT * 10)[: 64 - room]
    target = random_target(max_context=64)
    drafter = random_drafter(target)
    expected = decode_autoregressive(target, prompt, max_new_tokens=50).tokens
    assert len(expected) == room + 1
    for make in CONTROLLERS.values():
        assert decode(target, drafter, make(), prompt, max_new_tokens=50).tokens == expected


def test_draft_cache_has_a_row_for_every_token_but_the_newest():
    target = random_target()
    drafter = random_drafter(target)
    lengths = []

    class Watcher(RandomController):
        def continue_drafting(self, state):
            assert state.context_length == target.length == drafter.length + drafter.pending
            lengths.append(target.length) if state.depth == 0 else None
            return super().continue_drafting(state)

    result = decode(target, drafter, Watcher(), PROMPT, max_new_tokens=60)
    emitted = [cycle.tokens for cycle in result.cycles]
    assert lengths == [len(PROMPT) + sum(emitted[:index]) for index in range(len(emitted))]
    assert lengths == [cycle.context_length for cycle in result.cycles]


def test_drafts_do_not_depend_on_how_the_context_was_reached():
    """After plain steps, rejected trees and accepted paths the next tree is that of a fresh start."""
    target = random_target("mistral")
    used, fresh = random_drafter(target), random_drafter(target)
    result = decode(target, used, RandomController(seed=5), PROMPT, max_new_tokens=40)
    context = PROMPT + result.tokens
    used.extend()
    _, taps = target.prefill(context[:-1])
    fresh.prefill(taps, torch.tensor(context[:-1]))
    fresh.extend(taps[-1:], torch.tensor(context[-1:]))
    for _ in range(4):
        used.expand()
        fresh.expand()
    torch.testing.assert_close(used.state.scores, fresh.state.scores, rtol=1e-4, atol=1e-4)
    assert torch.equal(used.select(30).tokens, fresh.select(30).tokens)


def test_records_add_up():
    target = random_target()
    result = decode(target, random_drafter(target), RandomController(), PROMPT, max_new_tokens=100)
    phases = sum(c.draft_ms + c.verify_ms + c.policy_ms + c.rest_ms for c in result.cycles) / 1e3
    assert phases == pytest.approx(result.seconds, rel=0.02)
    for cycle in result.cycles:
        assert cycle.tokens == cycle.accepted + 1 or cycle is result.cycles[-1]
        assert cycle.accepted <= min(cycle.depth, cycle.verified) <= cycle.verified <= cycle.size
        assert (cycle.depth == 0) == (cycle.size == 0) == (cycle.draft_ms == 0)


def test_wrong_requests_are_refused():
    target = random_target()
    drafter = random_drafter(target)
    for options, message in [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 5, "temperature": -1.0}, "temperature"),
        ({"max_new_tokens": 5, "top_k": 0}, "top_k"),
        ({"max_new_tokens": 5, "top_p": 0.0}, "top_p"),
    ]:
        with pytest.raises(InputError, match=message):
            decode(target, drafter, StaticController(1, 1), PROMPT, **options)
    with pytest.raises(InputError, match="size 65 is not between 1 and 64"):
        decode(target, drafter, StaticController(2, 65), PROMPT, max_new_tokens=5)
    with pytest.raises(InputError, match="batch size 1"):
        decode(target, drafter, StaticController(1, 1), torch.zeros(2, 3), max_new_tokens=5)
    with pytest.raises(InputError, match="beam 99"):
        random_drafter(target, beam=99)
