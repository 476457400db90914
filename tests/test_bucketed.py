"""Passes of fixed shapes compute what the others do, also when only their kernels are repeated."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from engine_models import (
    ARCHITECTURES,
    RandomController,
    check_near_best,
    check_same,
    flat,
    fusable,
    margin,
    random_head,
    random_model,
    random_target,
)
from ltd.engine import bucketed_verification
from ltd.engine.bucketed_drafting import BucketedDrafter
from ltd.engine.bucketed_verification import TreePasses
from ltd.engine.decoding import decode, decode_autoregressive
from ltd.engine.drafting import Drafter
from ltd.engine.graphs import Passes, bucket, context_buckets, row_buckets
from ltd.engine.sampling import SamplingOptions
from ltd.engine.target import TargetModel
from ltd.engine.verification import make_verification
from ltd.errors import InputError

PROMPT = torch.tensor([3, 14, 15, 9, 2, 6, 5, 3])
WAITING = ("aten._local_scalar_dense", "aten.nonzero", "aten.is_nonzero", "aten.equal", "aten.item")


class Recorder(TorchDispatchMode):
    """Writes down every operation with its arguments, as a graph does; refuses those that a graph cannot."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert not str(function).startswith(WAITING), f"{function} waits for the device"
        result = function(*args, **(kwargs or {}))
        self.operations.append((function, args, kwargs or {}, result))
        return result

    def replay(self):
        """Repeat the operations on the same memory; results go to where they went the first time."""
        for function, args, kwargs, result in self.operations:
            again = function(*args, **kwargs)
            for old, new in zip(flat(result), flat(again), strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class RecordedPasses(Passes):
    """What a GPU does with graphs, on the CPU: the Python of a pass runs once."""

    def __init__(self, captures=False):
        super().__init__(torch.device("cpu"))
        self.captures, self.replays = captures, 0

    def run(self, key, function):
        if key in self._graphs:
            recorder, result = self._graphs[key]
            recorder.replay()
            self.replays += 1
            return result
        with Recorder() as recorder:
            result = function()
        self._graphs[key] = recorder, result
        return result


def engines(
    architecture="llama",
    seed=0,
    beam=5,
    max_depth=5,
    max_context=600,
    draft_vocab=None,
    dtype=torch.float32,
):
    """The same models twice: the usual way, and in recorded passes of fixed shapes.

    Of a smaller draft vocabulary the tokens of an answer come first, so that some drafts are accepted.
    """
    usual = random_target(architecture, seed, max_context=max_context, dtype=dtype)
    fixed = TargetModel(usual.model, max_context=max_context, max_tree=64, bucketed=True)
    head = random_head(usual, draft_vocab=draft_vocab)
    if draft_vocab:
        answer = decode_autoregressive(usual, PROMPT, max_new_tokens=30).tokens
        known = list(dict.fromkeys([*answer, *range(usual.vocab_size)]))[:draft_vocab]
        head.set_draft_vocabulary(torch.tensor(sorted(known)))
    settings = {"beam": beam, "max_depth": max_depth, "max_context": usual.max_context}
    drafters = Drafter(head, **settings), BucketedDrafter(head, **settings)
    fixed.forward.passes, drafters[1].passes = RecordedPasses(), RecordedPasses()
    drafters[1].tree_passes = TreePasses(fixed.forward, drafters[1])
    drafters[1].tree_passes.passes = RecordedPasses()
    for target in (usual, fixed):
        for layer in target.forward.network.layers:
            layer.fold = target is fixed
    return (usual, drafters[0]), (fixed, drafters[1])


@pytest.mark.parametrize(
    ("architecture", "sampling"),
    [
        *((name, {}) for name in ARCHITECTURES),
        ("qwen3", {"temperature": 1.0}),
        ("qwen3", {"temperature": 0.8, "top_k": 5, "top_p": 0.9}),
    ],
)
def test_replayed_passes_decode_the_same_tokens(architecture, sampling):
    (usual, _), (fixed, drafter) = engines(architecture, draft_vocab=8)
    cycles, accepted = 0, 0
    for seed in range(2):
        settings = {"max_new_tokens": 50, "seed": seed, **sampling}
        expected = decode_autoregressive(usual, PROMPT + seed, **settings)
        plain = decode_autoregressive(fixed, PROMPT + seed, **settings)
        drafted = decode(fixed, drafter, RandomController(seed), PROMPT + seed, **settings)
        assert plain.tokens == expected.tokens and drafted.tokens == expected.tokens
        cycles += len(drafted.cycles)
        accepted += sum(cycle.accepted for cycle in drafted.cycles)
    assert cycles > 40 and accepted > 10, (cycles, accepted)
    assert fixed.forward.passes.replays > 100 and drafter.passes.replays > 100


def test_buffers_are_made_in_the_type_of_the_weights_and_no_mask_is_kept():
    model, rows, context = random_target(dtype=torch.bfloat16).model, 31, 300
    with Recorder() as recorder:
        target = TargetModel(model, max_context=context, max_tree=rows - 1, bucketed=True)
        forward = target.forward
    made = [(tensor.shape, tensor.dtype) for *_, result in recorder.operations for tensor in flat(result)]
    assert (rows, rows + context) not in {shape for shape, _ in made}
    for buffer in (forward.logits, forward.taps):
        assert {dtype for shape, dtype in made if shape == buffer.shape} == {torch.bfloat16}


def test_replayed_passes_in_bfloat16_differ_only_at_near_ties():
    """What a GPU computes in; `test_decoding` has all architectures, not recorded."""
    (usual, _), (fixed, drafter) = engines("qwen3", draft_vocab=8, dtype=torch.bfloat16)
    prompt = PROMPT.tolist()
    plain = decode_autoregressive(fixed, prompt, max_new_tokens=40)
    drafted = decode(fixed, drafter, RandomController(), prompt, max_new_tokens=40)
    for answer in (plain, drafted):
        check_near_best(usual, prompt, answer.tokens)
    assert fixed.forward.passes.replays > 20 and drafter.passes.replays > 20


def test_verification_sets_its_own_mode():
    """Whoever calls, in inference mode or not: buffers were made in it."""
    _, (fixed, drafter) = engines(draft_vocab=8)
    drafter.tree_passes = None
    logits, taps = fixed.prefill(PROMPT)
    drafter.prefill(taps, PROMPT)
    token = logits.argmax()[None]
    drafter.defer(taps[-1:], token)
    verification = make_verification(fixed, drafter, SamplingOptions())
    verification.begin(token)
    expected = decode_autoregressive(fixed, PROMPT, max_new_tokens=9).tokens
    fixed.prefill(PROMPT)
    found = token.tolist()
    while len(found) < 9:
        drafter.extend()
        drafter.expand()
        assert verification.select(6) == 6
        verification.verify()
        tokens = verification.follow(len(found))
        # A sequence may end before the path does: what does not count leaves no trace.
        kept = tokens[: 1 + len(found) % 2]
        verification.keep(len(kept))
        found += kept
        verification.step()
        found += verification.follow(len(found))
        verification.keep(1)
    assert found[:9] == expected


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0}, {"temperature": 0.7, "top_k": 4}])
def test_nothing_waits_before_the_outcome_is_read(sampling):
    """Reading it, `tolist`, is no operation, so `Recorder` does not see it."""
    _, (fixed, drafter) = engines(draft_vocab=8)
    logits, taps = fixed.prefill(PROMPT)
    drafter.prefill(taps, PROMPT)
    token = logits.argmax()[None]
    drafter.defer(taps[-1:], token)
    verification = make_verification(fixed, drafter, SamplingOptions(**sampling))
    verification.begin(token)
    for position in (1, 2, 3):
        with Recorder():
            drafter.extend()
            drafter.expand()
            verification.select(6)
            verification.verify()
            verification.follow(position)
            verification.keep(1)


def test_passes_are_met_without_a_trace(monkeypatch):
    """A verification may be made behind a prefill; on a GPU it then runs passes in order to capture them."""
    _, (fixed, drafter) = engines()
    logits, taps = fixed.prefill(PROMPT)
    drafter.prefill(taps, PROMPT)
    drafter.defer(taps[-1:], logits.argmax()[None])
    cache, deferred = fixed.forward.cache, drafter.deferred_rows(1)
    kept = cache.buffer.narrow(2, cache.scratch, fixed.length)
    before = [tensor.clone() for tensor in (kept, *deferred)]
    monkeypatch.setattr(bucketed_verification, "Passes", lambda device: RecordedPasses(captures=True))
    passes = TreePasses(fixed.forward, drafter).passes
    assert len(passes._graphs) == 3 * len(fixed.forward.row_buckets)
    assert all(map(torch.equal, before, (kept, *deferred)))


def test_answers_may_cross_context_buckets():
    (usual, _), (fixed, drafter) = engines(max_depth=3, max_context=600)
    prompt = torch.randint(0, 23, (240,), generator=torch.Generator().manual_seed(3))
    expected = decode_autoregressive(usual, prompt, max_new_tokens=40)
    drafted = decode(fixed, drafter, RandomController(1), prompt, max_new_tokens=40)
    assert drafted.tokens == expected.tokens
    assert {key[-1] for key in fixed.forward.passes._graphs} == {256, 384}


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 16, 17, 40])
def test_drafted_trees_are_the_same(rows):
    """After any number of deferred rows, more than one prefix pass holds included."""
    (usual, drafter), (_, fixed) = engines()
    tokens = torch.randint(0, 23, (60,), generator=torch.Generator().manual_seed(rows))
    taps = usual.sequence_taps(tokens[None])
    for one in (drafter, fixed):
        one.prefill(taps[0, :8], tokens[:8])
        one.extend(taps[0, 7 : 7 + rows], tokens[8 : 8 + rows])
        for _ in range(4):
            one.expand()
    torch.testing.assert_close(fixed.state.scores, drafter.state.scores, rtol=1e-4, atol=1e-4)
    assert torch.equal(fixed.tokens, drafter.tokens)
    assert fixed.length == drafter.length == 7 + rows
    trees = drafter.select(20), fixed.select(20)
    assert torch.equal(trees[0].tokens, trees[1].tokens) and torch.equal(*(t.ancestors for t in trees))
    torch.testing.assert_close(fixed.state.feature, drafter.state.feature, rtol=1e-4, atol=1e-4)
    assert fixed.state.entropy() == pytest.approx(drafter.state.entropy(), rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("size", [1, 2, 7, 8, 30])
def test_padded_trees_give_the_same_logits_and_cache(size, dtype):
    (usual, drafter), (fixed, _) = engines(dtype=dtype)
    logits, taps = usual.prefill(PROMPT)
    drafter.prefill(taps, PROMPT)
    drafter.extend(taps[-1:], logits.argmax()[None])
    for _ in range(3):
        drafter.expand()
    tree, found = drafter.select(size), []
    rows = tree.ancestors[tree.depths.argmax()].nonzero()[:, 0]
    for target in (usual, fixed):
        target.prefill(PROMPT)
        passed = [result.clone() for result in target.verify(tree.tokens, tree.depths, tree.ancestors)]
        target.keep(rows, tree.size + 1)
        cache = target.forward.cache
        kept = cache.buffer[:, :, cache.scratch : cache.scratch + target.length]
        found.append((*passed, kept, *target.step(torch.tensor([4]))))
    for expected, value in zip(*found, strict=True):
        tolerance = 1e-4 if dtype == torch.float32 else margin(expected)
        torch.testing.assert_close(value, expected, rtol=0, atol=tolerance)


def test_float16_holds_the_scores_of_large_queries_and_keys():
    """Their products, before they are scaled, are beyond its largest number."""
    model = random_model("llama").to(torch.float16)
    for layer in model.model.layers:
        for module in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            module.bias.data.fill_(75.0)
    target = TargetModel(model, max_context=40, max_tree=7, bucketed=True)
    for layer in target.forward.network.layers:
        layer.fold = True
    _, taps = target.prefill(PROMPT)
    logits, more = target.step(PROMPT[:1])
    assert taps.isfinite().all() and more.isfinite().all() and logits.isfinite().all()


def test_buckets():
    assert row_buckets(65)[-2:] == (64, 65) and row_buckets(257)[-1] == 257
    assert context_buckets(1000) == (256, 384, 512, 768, 1000)
    assert context_buckets(100) == (100,)
    assert [bucket(count, (1, 4, 8)) for count in (0, 1, 2, 8)] == [1, 1, 4, 8]
    with pytest.raises(InputError, match="9 rows or tokens exceed the 8"):
        bucket(9, (1, 4, 8))


def test_what_a_gpu_fuses_is_one_graph():
    """Compilation finds no operation that it must leave to Python; what a GPU makes of it is in test_gpu."""
    for function, arguments in fusable(5, 4, 2, 16):
        compiled = torch.compile(function.__wrapped__, backend="eager", fullgraph=True)
        check_same(compiled, function, arguments)
