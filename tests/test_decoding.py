"""Losslessness: whatever the controller decides, the tokens are those of autoregressive decoding."""

import time
import warnings

import pytest
import torch

from engine_models import (
    ARCHITECTURES,
    FORWARDS,
    UNEVEN,
    RandomController,
    check_near_best,
    random_drafter,
    random_engine,
    random_model,
    random_target,
    suited_drafter,
    trained_tokenizer,
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
WAYS = ("compiled", "lean", "bucketed")  # of computing; see FORWARDS


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


@pytest.mark.parametrize("forward", ["compiled", "lean"])
@pytest.mark.parametrize("architecture", UNEVEN)
def test_heads_that_do_not_divide_the_hidden_size(architecture, forward):
    shape = UNEVEN[architecture]
    assert shape["hidden_size"] % shape["num_attention_heads"]
    target, drafter = random_engine(forward, architecture, beam=8, draft_vocab=15, **shape)
    expected = target.model.generate(torch.tensor([PROMPT]), max_new_tokens=50, do_sample=False)
    accepted = 0
    for make in CONTROLLERS.values():
        result = decode(target, drafter, make(), PROMPT, max_new_tokens=50)
        assert PROMPT + result.tokens == expected[0].tolist()
        accepted += sum(cycle.accepted for cycle in result.cycles)
    assert accepted > 20


@pytest.mark.parametrize("forward", ["compiled", "bucketed"])
@pytest.mark.parametrize("depth", [12, 14])
def test_deep_trees_of_the_smallest_and_the_largest_size(depth, forward):
    target = random_target(max_tree=256, max_context=64, **FORWARDS[forward])
    expected = decode_autoregressive(target, PROMPT, max_new_tokens=40).tokens
    drafter = suited_drafter(forward, target, 10, depth, draft_vocab=12, known=expected)
    for size in (1, 256):
        result = decode(target, drafter, StaticController(depth, size), PROMPT, max_new_tokens=40)
        assert result.tokens == expected
        assert {(cycle.depth, cycle.verified) for cycle in result.cycles} == {(depth, size)}
    assert sum(cycle.accepted for cycle in result.cycles) > 10


@pytest.mark.parametrize(
    ("forward", "dtype"),
    [("lean", torch.float16), ("lean", torch.bfloat16), ("bucketed", torch.bfloat16)],
    ids=["float16", "bfloat16", "bfloat16 as on a GPU"],
)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_16_bits_differ_only_at_near_ties(architecture, forward, dtype):
    accepted = 0
    for seed in range(3):
        target, drafter = random_engine(forward, architecture, seed, beam=8, draft_vocab=15, dtype=dtype)
        for name in ("largest", "random"):
            result = decode(target, drafter, CONTROLLERS[name](), PROMPT, max_new_tokens=20)
            accepted += sum(cycle.accepted for cycle in result.cycles)
            check_near_best(target, PROMPT, result.tokens)
    assert accepted > 10


@pytest.mark.parametrize("forward", WAYS)
def test_a_prompt_may_end_in_mid_word(forward):
    text, tokenizer = "The quick brown fox jum", trained_tokenizer()
    prompt = tokenizer(text)["input_ids"]
    whole = tokenizer(text + "ps")["input_ids"]
    assert whole[: len(prompt)] != prompt  # the rest of the word makes it other tokens
    target = random_target(vocab=len(tokenizer), **FORWARDS[forward])
    expected = decode_autoregressive(target, prompt, max_new_tokens=40).tokens
    drafter = suited_drafter(forward, target, 10, draft_vocab=12, known=expected)
    result = decode(target, drafter, CONTROLLERS["largest"](), prompt, max_new_tokens=40)
    assert result.tokens == expected and sum(cycle.accepted for cycle in result.cycles)
    assert tokenizer.decode(prompt + result.tokens).startswith(text)


@pytest.mark.parametrize("forward", FORWARDS)
@pytest.mark.parametrize("options", [{"temperature": 1.0}, {"temperature": 0.7, "top_k": 9, "top_p": 0.8}])
def test_sampled_output_is_the_same_for_every_controller(options, forward):
    target, drafter = random_engine(forward, "qwen2")
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


@pytest.mark.parametrize("forward", ["compiled", "lean"])
def test_end_of_sequence_inside_an_accepted_path(forward):
    """Every token of an answer in turn plays the end-of-sequence token; nothing after it is returned or
    counted.
    """
    target, drafter = random_engine(forward)
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


@pytest.mark.parametrize("forward", WAYS)
@pytest.mark.parametrize("limit", [1, 2, 3, 7, 20])
def test_exactly_max_new_tokens(limit, forward):
    target, drafter = random_engine(forward)
    full = decode_autoregressive(target, PROMPT, max_new_tokens=40).tokens
    result = decode(target, drafter, StaticController(5, 64), PROMPT, max_new_tokens=limit)
    assert result.tokens == full[:limit]
    assert 1 + sum(cycle.tokens for cycle in result.cycles) == limit


@pytest.mark.parametrize("forward", WAYS)
@pytest.mark.parametrize("room", [0, 1, 2, 6])
def test_context_limit_ends_the_answer(room, forward):
    """Prompt and answer fill the context, plus the one token that needs no place in the cache."""
    prompt = (PROMPT * 10)[: 64 - room]
    target, drafter = random_engine(forward, max_context=64)
    said = f"answer cut after {room + 1} tokens: .* context of 64; a larger"
    with pytest.warns(UserWarning, match=said) as warned:
        expected = decode(target, None, None, prompt, max_new_tokens=50).tokens
    assert warned[0].filename == __file__
    assert len(expected) == room + 1
    for make in CONTROLLERS.values():
        assert decode(target, drafter, make(), prompt, max_new_tokens=room + 1).tokens == expected


@pytest.mark.parametrize("forward", WAYS)
def test_draft_cache_has_a_row_for_every_token_but_the_newest(forward):
    target, drafter = random_engine(forward)
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


@pytest.fixture(params=[torch.bfloat16, torch.float64])
def default_type(request):
    """Torch's default number type is another one until the test ends; sets it when called."""
    usual = torch.get_default_dtype()
    yield lambda: torch.set_default_dtype(request.param)
    torch.set_default_dtype(usual)


@pytest.mark.parametrize("forward", FORWARDS)
@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.8, "seed": 1}])
def test_number_types_are_not_torchs_default(forward, sampling, default_type):
    target, drafter = random_engine(forward, draft_vocab=8)
    expected = decode(target, drafter, StaticController(3, 9), PROMPT, max_new_tokens=20, **sampling).tokens
    default_type()
    way = {"compiled": False, "bucketed": False} | FORWARDS[forward]
    again = TargetModel(target.model, max_context=target.max_context, max_tree=64, **way)
    sizes = {"beam": drafter.beam, "max_depth": drafter.max_depth, "max_context": drafter.max_context}
    other = type(drafter)(drafter.head, **sizes)
    answer = decode(again, other, StaticController(3, 9), PROMPT, max_new_tokens=20, **sampling)
    assert answer.tokens == expected
    other.extend()
    assert other.state.scores.dtype == other.state.draft_logits.dtype == torch.float32


def test_sizes_beyond_the_largest_tree_are_refused(monkeypatch):
    """Before the prompt is read where the controller says what it may ask for."""
    target = random_target()
    drafter, silent = random_drafter(target), RandomController(stop=0.0)
    silent.choose_size = lambda state: 65
    for controller, prefill in ((StaticController(2, 65), None), (silent, target.prefill)):
        monkeypatch.setattr(target, "prefill", prefill)
        with pytest.raises(InputError, match="size 65 is not between 1 and 64"):
            decode(target, drafter, controller, PROMPT, max_new_tokens=5)


def test_the_prompt_is_read_before_the_clock_of_the_answer_starts(monkeypatch):
    target = random_target()
    prefill = target.prefill

    def slow(prompt):
        time.sleep(0.2)
        return prefill(prompt)

    monkeypatch.setattr(target, "prefill", slow)
    result = decode(target, random_drafter(target), StaticController(2, 4), PROMPT, max_new_tokens=2)
    phases = sum(c.draft_ms + c.verify_ms + c.policy_ms + c.rest_ms for c in result.cycles) / 1e3
    assert result.prefill_seconds > 0.2
    assert phases <= result.seconds < phases + 0.1


def test_an_answer_that_ends_with_the_last_token_that_fits_is_not_cut():
    target = random_target()
    room = target.max_context - len(PROMPT) + 1
    answer = decode_autoregressive(target, PROMPT, max_new_tokens=room, eos_ids=[]).tokens
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = decode_autoregressive(
            target,
            PROMPT,
            max_new_tokens=room + 1,
            eos_ids=[],
            stop=lambda tokens: len(tokens) == room,
        )
    assert whole.tokens == answer


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
    for parts in ((target, drafter, None), (target, None, StaticController(1, 1))):
        with pytest.raises(InputError, match="a drafter needs a controller and a controller a drafter"):
            decode(*parts, PROMPT, max_new_tokens=4)
    for token in (-1, target.vocab_size):
        with pytest.raises(InputError, match=rf"prompt: token {token} is not among the model's"):
            decode(target, drafter, StaticController(1, 1), [1, token], max_new_tokens=4)
    deep = StaticController(drafter.max_depth + 1, 4)
    with pytest.raises(InputError, match=f"drafted to depth {drafter.max_depth}; raise max_depth to"):
        decode(target, drafter, deep, PROMPT, max_new_tokens=4)
    with pytest.raises(InputError, match="batch size 1"):
        decode(target, drafter, StaticController(1, 1), torch.zeros(2, 3), max_new_tokens=5)
    with pytest.raises(InputError, match="beam 99"):
        random_drafter(target, beam=99)
