"""Compiled verification against the generic one: tokens, both caches, and what waits for the drafter."""

import dataclasses

import numpy as np
import pytest
import torch

from engine_models import random_drafter, random_head, random_target
from ltd.engine.compiled.verification import CompiledVerification
from ltd.engine.controllers import StaticController
from ltd.engine.decoding import decode
from ltd.engine.drafting import Drafter
from ltd.engine.lookup_drafting import LookupDrafter
from ltd.engine.ngrams import NgramModel
from ltd.engine.sampling import SamplingOptions, make_sampler
from ltd.engine.verification import Verification, make_verification
from ltd.errors import InputError

PROMPT = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6])
VOCAB = BEAM = 12
EVERY_PAIR = (2, BEAM + BEAM * BEAM)  # depth and size of a tree that holds whatever comes next
CYCLES = [(0, 1), (1, 1), (3, 9), (0, 1), (4, 30), EVERY_PAIR, (5, 3), (0, 1), (4, 90)]
SAMPLING = [
    SamplingOptions(),
    SamplingOptions(temperature=0.9, top_k=6, seed=3),
    SamplingOptions(temperature=1.1, top_k=9, top_p=0.8, seed=4),
]


def begin(kind, options):
    """A verification over the compiled engine, behind the prompt; the same for both kinds."""
    target = random_target("qwen3", vocab=VOCAB, max_tree=EVERY_PAIR[1], compiled=True)
    drafter = random_drafter(target, beam=BEAM, compiled=True)
    sampler = make_sampler(options, target.vocab_size, drafter.max_depth, target.device)
    verification = kind(target, drafter, sampler)
    logits, taps = target.prefill(PROMPT)
    drafter.prefill(taps, PROMPT)
    token = sampler.choose(logits[None], 0)
    drafter.defer(taps[-1:], token)
    verification.begin(token)
    return verification


def cycle(verification, position, depth, size, count):
    """Play a cycle and keep at most `count` of its tokens; the tokens, kept or not."""
    drafter = verification.drafter
    for level in range(depth):
        drafter.expand() if level else drafter.extend()
    if depth:
        verification.select(size)
        verification.verify()
    else:
        verification.step()
    tokens = verification.follow(position)
    verification.keep(min(count, len(tokens)))
    return tokens


def holdings(verification):
    """What target and drafter hold, as arrays."""
    target, drafter = verification.target, verification.drafter
    keys, values = target.forward.cache
    length, waiting = target.length, drafter.pending
    by_slot = keys.transpose(0, 1, 2, 4, 3).reshape(*keys.shape[:2], -1, keys.shape[3])
    kept = by_slot[:, :, :length], values[:, :, :, :length]
    deferred = drafter.deferred_taps[:waiting], drafter.deferred_tokens[:waiting]
    counts = np.array([length, waiting, drafter.length, drafter.state.depth, drafter.state.context_length])
    return [*(array.copy() for array in (*kept, *deferred, drafter.state.score_array)), counts]


@torch.inference_mode()
@pytest.mark.parametrize("most", [99, 1, 2])
@pytest.mark.parametrize("options", SAMPLING)
def test_compiled_cycles_leave_what_the_generic_ones_leave(options, most):
    """`most` tokens of a path are kept, as at the end of an answer."""
    compiled, generic = begin(CompiledVerification, options), begin(Verification, options)
    position = 1
    for depth, size in CYCLES * 2:
        tokens = cycle(compiled, position, depth, size, most)
        assert tokens == cycle(generic, position, depth, size, most)
        for ours, theirs in zip(holdings(compiled), holdings(generic), strict=True):
            assert np.array_equal(ours, theirs)
        assert len(tokens) == 3 or (depth, size) != EVERY_PAIR
        position += min(len(tokens), most)


@pytest.mark.parametrize(
    ("context", "width", "added", "said"),
    [
        (16, None, 0, "made for contexts of 16 tokens"),
        (None, 8, 0, "reads 24 numbers a token"),
        (None, None, 1, "made for a vocabulary of 12 tokens, the target has 13"),
    ],
)
def test_a_drafter_made_for_another_target_is_refused(context, width, added, said):
    target = random_target("llama", vocab=VOCAB + added, compiled=True)
    drafter = random_drafter(random_target("llama", vocab=VOCAB, compiled=True), beam=2, compiled=True)
    if context:
        drafter.max_context = context
    if width:
        drafter.head.config = dataclasses.replace(drafter.head.config, target_hidden_size=width)
    with pytest.raises(InputError, match=said):
        make_verification(target, drafter, SamplingOptions())


@pytest.mark.parametrize("held", [{"dtype": torch.bfloat16}, {"device": "meta"}], ids=["type", "device"])
def test_a_head_held_otherwise_than_the_target_is_refused(held):
    target = random_target("llama", vocab=VOCAB)
    head = random_head(target).to(**held)
    drafter = Drafter(random_head(target), beam=2, max_context=target.max_context)
    drafter.head = head
    with pytest.raises(InputError, match=r"the target in torch.float32 on cpu; load the head for this model"):
        decode(target, drafter, StaticController(2, 3), PROMPT, max_new_tokens=4)


def test_a_look_up_of_other_tokens_is_refused():
    with pytest.raises(InputError, match="made for a vocabulary of 99 tokens"):
        make_verification(random_target(vocab=VOCAB), LookupDrafter(NgramModel(99)), SamplingOptions())


def test_each_engine_has_its_verification():
    for compiled, kind in ((True, CompiledVerification), (False, Verification)):
        target = random_target(compiled=compiled)
        suited, options = (None, random_drafter(target, compiled=True)), SAMPLING[0]
        assert all(type(make_verification(target, drafter, options)) is kind for drafter in suited)
        assert type(make_verification(target, random_drafter(target), options)) is Verification


def test_compiled_caches_refuse_rows_beyond_their_slots():
    """Kernels check no bounds: a row too many would be written over something else."""
    target = random_target("qwen3", vocab=VOCAB, max_tree=4, compiled=True)
    drafter = random_drafter(target, beam=2, compiled=True)
    tokens = torch.zeros(8, dtype=torch.int64)
    _, taps = target.prefill(tokens)
    while target.length + 8 <= target.max_context:
        target.forward.append(tokens)
    with pytest.raises(IndexError, match=r"^target: \d+ rows do not fit its cache of \d+; make it with"):
        target.forward.append(tokens.repeat(2))
    while drafter.length + 8 <= drafter.max_context:
        drafter.extend(taps, tokens)
    # A whole tree fits behind whatever a prefix pass takes.
    for _ in range(drafter.max_depth - 1):
        drafter.expand()
    with pytest.raises(IndexError, match=r"^draft head: "):
        for _ in range(20):
            drafter.extend(taps, tokens)


def test_what_does_not_fit_the_arrays_of_a_verification_is_refused():
    target = random_target("qwen3", vocab=VOCAB, max_tree=4, compiled=True)
    drafter = random_drafter(target, beam=BEAM, compiled=True)
    verification = make_verification(target, drafter, SamplingOptions())
    logits, taps = target.prefill(PROMPT)
    drafter.prefill(taps, PROMPT)
    token = logits.argmax()[None]
    drafter.defer(taps[-1:], token)
    verification.begin(token)
    drafter.extend()
    with pytest.raises(IndexError, match=r"^tree: 5 nodes do not fit; .* a max_tree above 4"):
        verification.select(5)
    assert cycle(verification, 1, 0, 4, 1)
    # Steps that no draft follows leave a row each to the next prefix pass.
    drafter.pending = len(drafter.deferred_tokens)
    with pytest.raises(IndexError, match=r"^draft head: "):
        cycle(verification, 2, 0, 1, 1)
