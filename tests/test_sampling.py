"""Sampling keeps the target's distribution: chi-square tests that a known wrong rule fails."""

import numpy as np
import pytest
import torch

from engine_models import random_drafter, random_model, sequence_logits
from ltd.engine.compiled.sampling import CompiledSampler, fill_noise, sample_rows
from ltd.engine.compiled.tree import accepted_path, greedy_path, largest
from ltd.engine.controllers import StaticController
from ltd.engine.decoding import decode, decode_autoregressive
from ltd.engine.noise import gumbel_noise, noise_stream, signed, uniform_noise
from ltd.engine.sampling import (
    SamplingOptions,
    TensorSampler,
    accepted_mask,
    accepted_rows,
    choose_tokens,
)
from ltd.engine.target import TargetModel
from ltd.engine.tree import DraftTree
from ltd.errors import InputError

VOCAB = 10
DRAWS = 50_000
LEVEL = 1e-3  # of a test with a fixed seed
TREES = {
    # For each row its parent and token; row 0 is the root.
    "chain": ([0, 0, 1, 2], [0, 4, 7, 1]),
    "bush": ([0, 0, 0, 0, 0], [0, 9, 2, 5, 3]),
    "mixed": ([0, 0, 0, 1, 1, 2, 3, 3], [0, 8, 3, 1, 8, 0, 5, 6]),
}


def chi_square_p(counts, probabilities):
    """p-value of observed counts against exact probabilities, cells expecting under 5 pooled."""
    expected = probabilities.double() * counts.sum()
    small = expected < 5
    observed = torch.cat([counts[~small].double(), counts[small].sum()[None].double()])
    expected = torch.cat([expected[~small], expected[small].sum()[None]])
    observed, expected = observed[expected > 0], expected[expected > 0]
    statistic = ((observed - expected) ** 2 / expected).sum()
    return torch.special.gammaincc((torch.tensor(len(expected) - 1.0).double()) / 2, statistic / 2).item()


def make_tree(parents, tokens):
    ancestors, depths = torch.eye(len(parents), dtype=torch.bool), [0]
    for row in range(1, len(parents)):
        ancestors[row] |= ancestors[parents[row]]
        depths.append(depths[parents[row]] + 1)
    return DraftTree(torch.tensor(tokens), torch.tensor(depths), torch.tensor(parents), ancestors)


def random_process():
    """Logits of the first token [V], and of the second given the first [V, V]."""
    generator = torch.Generator().manual_seed(11)
    return torch.randn(VOCAB, generator=generator), torch.randn(VOCAB, VOCAB, generator=generator)


def kept_logits(logits, options):
    """What sampling may choose from, by the definitions: tokens that top-k and top-p leave out are -inf."""
    logits = logits.float() / options.temperature
    if options.top_k is not None and options.top_k < logits.shape[-1]:
        threshold = logits.topk(options.top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < threshold, float("-inf"))
    if options.top_p is not None:
        ordered, order = logits.sort(dim=-1, descending=True, stable=True)
        probabilities = ordered.softmax(dim=-1)
        beyond = probabilities.cumsum(dim=-1) - probabilities >= options.top_p
        logits = logits.masked_fill(beyond.scatter(-1, order, beyond), float("-inf"))
    return logits


@pytest.fixture(scope="module")
def noise():
    """Gumbel noise [DRAWS, 2, V] of two output positions: one seed a draw."""
    streams = torch.tensor([signed(noise_stream(seed)) for seed in range(DRAWS)])
    rows = [gumbel_noise(streams, torch.full_like(streams, position), VOCAB) for position in range(2)]
    return torch.stack(rows, dim=1)


def first_two(accept, chosen, second, noise):
    """First two output tokens of every draw: the tree's where its path is long enough, else of a plain
    step.
    """
    first = chosen[:, 0]
    taken = accept[:, 1:].any(1)
    plain = (second[first] + noise[:, 1]).argmax(-1)
    child_rows = accept[:, 1:].int().argmax(1) + 1
    return first * VOCAB + torch.where(taken, chosen.gather(1, child_rows[:, None])[:, 0], plain)


def exact_joint(first, second):
    return (first.softmax(-1)[:, None] * second.softmax(-1)).flatten()


@pytest.mark.parametrize("shape", TREES)
def test_acceptance_keeps_the_joint_distribution(shape, noise):
    tree = make_tree(*TREES[shape])
    first, second = random_process()
    # A row at depth 1 continues its own token; deeper rows only need some logits.
    logits = torch.stack([first, *second[tree.tokens[1:]]])
    chosen = (logits + noise[:, tree.depths.clamp(max=1)]).argmax(-1)
    accepted = accepted_mask(tree.tokens, tree.parents, tree.ancestors, chosen)
    tokens = first_two(accepted, chosen, second, noise)
    counts = tokens.bincount(minlength=VOCAB * VOCAB)
    assert chi_square_p(counts, exact_joint(first, second)) > LEVEL


@pytest.mark.parametrize("shape", TREES)
def test_compiled_paths_are_those_of_the_tensor_rule(shape):
    tree = make_tree(*TREES[shape])
    fields = tree.tokens.numpy(), tree.parents.numpy()
    lengths = set()
    for seed in range(200):
        logits = torch.randn(len(tree.tokens), VOCAB, generator=torch.Generator().manual_seed(seed))
        chosen = logits.argmax(-1)
        expected = accepted_rows(tree.tokens, tree.parents, tree.ancestors, chosen)
        rows, tokens = greedy_path(*fields, logits.numpy())
        assert rows.tolist() == expected.tolist() and tokens.tolist() == chosen[expected].tolist()
        assert accepted_path(*fields, chosen.numpy()).tolist() == expected.tolist()
        lengths.add(len(rows))
    assert len(lengths) > 1


def test_the_wrong_rule_fails_the_same_test(noise):
    """Top-k proposals verified with min(1, p / q) of the draft's softmax, residual max(p - q, 0)."""
    first, second = random_process()
    p = first.softmax(-1)
    q = (first + torch.randn(VOCAB, generator=torch.Generator().manual_seed(1)) * 0.5).softmax(-1)
    proposal = q.argmax()
    accepted = torch.rand(DRAWS, generator=torch.Generator().manual_seed(2)) < p[proposal] / q[proposal]
    residual = ((p - q).clamp(min=0).log() + noise[:, 0]).argmax(-1)
    tokens = torch.where(accepted, proposal, residual) * VOCAB
    tokens += (second[tokens // VOCAB] + noise[:, 1]).argmax(-1)
    counts = tokens.bincount(minlength=VOCAB * VOCAB)
    assert chi_square_p(counts, exact_joint(first, second)) < 1e-6


@pytest.fixture(scope="module")
def small_target():
    return TargetModel(
        random_model("llama", vocab=VOCAB, layers=3), max_context=16, max_tree=20, packed=False
    )


def exact_three(target, prompt):
    """Exact probabilities [V^3] of the first three tokens after the prompt."""
    grid = torch.cartesian_prod(torch.arange(VOCAB), torch.arange(VOCAB))
    prompts = torch.tensor(prompt).expand(len(grid), -1)
    logits = sequence_logits(target, torch.cat([prompts, grid], dim=1))
    log_probs = logits.log_softmax(-1)
    last = len(prompt) - 1
    one = log_probs[torch.arange(len(grid)), last, grid[:, 0]]
    two = log_probs[torch.arange(len(grid)), last + 1, grid[:, 1]]
    return ((one + two)[:, None] + log_probs[:, last + 2]).exp().flatten()


def test_whole_runs_keep_the_joint_distribution(small_target):
    prompt = [1, 5, 2]
    drafter = random_drafter(small_target, beam=4, max_depth=2, compiled=True)
    counts = torch.zeros(VOCAB**3)
    accepted = 0
    for seed in range(3000):
        result = decode(
            small_target,
            drafter,
            StaticController(2, 9),
            prompt,
            max_new_tokens=3,
            temperature=1.0,
            seed=seed,
        )
        one, two, three = result.tokens
        counts[(one * VOCAB + two) * VOCAB + three] += 1
        accepted += sum(cycle.accepted for cycle in result.cycles)
    assert accepted > 500
    assert chi_square_p(counts, exact_three(small_target, prompt)) > LEVEL


def test_same_seed_same_tokens_other_seed_other_tokens(small_target):
    runs = [
        decode_autoregressive(small_target, [1], max_new_tokens=12, temperature=1.0, seed=seed).tokens
        for seed in (0, 0, 1)
    ]
    assert runs[0] == runs[1] != runs[2]


CPU = torch.device("cpu")
SAMPLERS = {
    "compiled": lambda options, vocab: CompiledSampler(options, vocab),
    "tensor": lambda options, vocab: TensorSampler(options, vocab, 4, CPU),
}


def test_the_first_of_equals_is_the_largest():
    """As torch's argmax on a CPU has it."""
    assert largest(np.float32([1, 3, 3])) == 1
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        logits = torch.randint(4, (3, 40), generator=generator).float()  # most rows have equals
        best = logits.argmax(dim=-1)
        chain = np.array([0, best[0], best[1]]), np.array([-1, 0, 1])
        assert greedy_path(*chain, logits.numpy())[1].tolist() == best.tolist()


@pytest.mark.parametrize("kind", SAMPLERS)
def test_noise_depends_on_position_and_seed_alone(kind):
    options, logits = SamplingOptions(temperature=1.0, seed=3), torch.zeros(4, 500)
    ahead = SAMPLERS[kind](options, 500)
    for position in (0, 1, 5, 3, 4, 30):
        single = [SAMPLERS[kind](options, 500) for _ in range(4)]  # none has looked at another position
        chosen = [each.choose(logits[:1], position + depth).item() for depth, each in enumerate(single)]
        chain = make_tree([0, 0, 1, 2], [0, *chosen[:3]])
        rows, tokens = ahead.follow(logits, position, chain, levels=3)
        assert rows.tolist() == [0, 1, 2, 3] and tokens.tolist() == chosen


def test_every_seed_has_its_own_stream():
    seeds = [*range(10_000), -1, 2**62, 2**63]
    assert len({noise_stream(seed) for seed in seeds}) == len(seeds)


@pytest.mark.parametrize(("stream", "position"), [(1234567, 0), (2**64 - 1, 3), (5, 2**20)])
def test_kernel_and_tensors_hash_alike(stream, position):
    noise = np.empty(1000, np.float32)
    fill_noise(noise, np.uint64(stream), position)
    expected = uniform_noise(torch.tensor([signed(stream)]), torch.tensor([position]), 1000)[0]
    assert noise.tolist() == expected.tolist()
    assert 0 < noise.min() < 0.01 and 0.99 < noise.max() <= 1


def test_hashed_numbers_are_those_of_splitmix64():
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    noise = uniform_noise(torch.tensor([1234567]), torch.tensor([0]), 5)[0]
    np.testing.assert_allclose(noise[1:], [number / 2**64 for number in published], rtol=1e-6)


ROUNDED_TO_ONE = {"seed": 0, "position": 16218, "token": 1089}  # a number of the hash, in float32


def test_a_token_without_waiting_time_is_chosen_only_where_none_else_is_left():
    vocab, token, position = 4096, ROUNDED_TO_ONE["token"], ROUNDED_TO_ONE["position"]
    streams = torch.tensor([signed(noise_stream(ROUNDED_TO_ONE["seed"]))])
    assert uniform_noise(streams, torch.tensor([position]), vocab)[0, token] == 1
    assert gumbel_noise(streams, torch.tensor([position]), vocab).isfinite().all()
    for lead, top_k, top_p, alone in (
        (9.0, None, 0.5, True),
        (9.0, 1, None, True),
        (110.0, None, None, True),
        (9.0, None, None, False),
        (80.0, 2, None, False),
    ):
        logits = torch.zeros(1, vocab)
        logits[0, token] = lead
        options = SamplingOptions(1.0, top_k, top_p, seed=ROUNDED_TO_ONE["seed"])
        chosen = [make(options, vocab).choose(logits, position).item() for make in SAMPLERS.values()]
        assert chosen[0] == chosen[1] and (chosen[0] == token) == alone


TRUNCATIONS = [(None, None), (7, None), (None, 0.8), (40, 0.6), (1, None), (None, 1e-9), (10**6, 1.0)]


@pytest.mark.parametrize(("top_k", "top_p"), TRUNCATIONS)
@pytest.mark.parametrize("temperature", [1.0, 0.3, 2.5])
def test_sampled_is_the_gumbel_maximum_of_what_is_kept(temperature, top_k, top_p):
    options, vocab, rows = SamplingOptions(temperature, top_k, top_p), 300, 400
    logits = torch.randn(rows, vocab, generator=torch.Generator().manual_seed(2)) * 3
    logits = logits.round(decimals=1)  # many are tied
    streams, positions = torch.arange(rows), torch.full((rows,), 7)
    noise = gumbel_noise(streams, positions, vocab)
    scores = kept_logits(logits, options) + noise
    best = scores.max(dim=-1).values
    for chosen in (
        choose_tokens(logits, noise, options),
        sample_rows(logits, streams.tolist(), positions.tolist(), options),
    ):
        assert (best - scores.gather(1, chosen[:, None])[:, 0] < 1e-4).all()
        assert (chosen == scores.argmax(-1)).float().mean() > 0.99


@pytest.mark.parametrize(("top_k", "top_p"), TRUNCATIONS[:4])
def test_sampling_has_the_exact_distribution(top_k, top_p):
    options, draws, vocab = SamplingOptions(1.0, top_k, top_p), 200_000, 50
    logits = torch.randn(vocab, generator=torch.Generator().manual_seed(4)) * 2
    positions = torch.arange(draws)
    noise = gumbel_noise(torch.tensor([1]), positions, vocab)
    exact = kept_logits(logits, options).softmax(-1)
    for tokens in (
        choose_tokens(logits.expand(draws, -1), noise, options),
        sample_rows(logits.expand(draws, -1), [1] * draws, positions.tolist(), options),
    ):
        counts = tokens.bincount(minlength=vocab)
        assert not counts[exact == 0].any()
        assert chi_square_p(counts, exact) > LEVEL
        assert chi_square_p(counts, logits.div(1.05).softmax(-1)) < 1e-6  # a rule that is slightly wrong


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", [SamplingOptions(0.8, seed=2), SamplingOptions(1.0, 5, 0.9, seed=2)])
@pytest.mark.parametrize("shape", TREES)
def test_sampling_on_the_path_is_sampling_at_every_row(shape, options, dtype):
    tree, lengths = make_tree(*TREES[shape]), set()
    compiled, tensor = (make(options, VOCAB) for make in SAMPLERS.values())
    for position in range(200):
        generator = torch.Generator().manual_seed(position)
        logits = torch.randn(len(tree.tokens), VOCAB, generator=generator).to(dtype)
        places = zip(logits, (position + tree.depths).tolist(), strict=True)
        chosen = [tensor.choose(row[None], place) for row, place in places]
        expected = accepted_rows(tree.tokens, tree.parents, tree.ancestors, torch.cat(chosen))
        for sampler in (compiled, tensor):
            rows, tokens = sampler.follow(logits, position, tree, int(tree.depths.max()))
            assert rows.tolist() == expected.tolist()
            assert tokens.tolist() == [chosen[row].item() for row in rows.tolist()]
        lengths.add(len(rows))
    assert len(lengths) > 1


@pytest.mark.parametrize("kind", SAMPLERS)
@pytest.mark.parametrize("temperature", [1e-30, 1.0])
def test_what_is_no_number_ends_in_a_token(kind, temperature):
    nan, inf = float("nan"), float("inf")
    sampler = SAMPLERS[kind](SamplingOptions(temperature, 3, 0.9), 4)
    for row in ([1.0, -inf, 9.0, -inf], [nan] * 4, [-inf] * 4, [1.0, nan, 2.0, 0.0], [0.0, inf, 1.0, 2.0]):
        assert 0 <= sampler.choose(torch.tensor([row]), 0).item() < 4
    assert sampler.choose(torch.tensor([[1.0, -inf, 90.0, -inf]]), 0).item() == 2


@pytest.mark.parametrize(
    "options",
    [{"seed": 1.5}, {"top_k": 5.0}, {"top_k": 0}, {"temperature": -1.0}]
    + [{"temperature": float(value)} for value in ("inf", "nan")],
)
def test_options_that_cannot_be_are_refused(options):
    with pytest.raises(InputError, match=next(iter(options))):
        SamplingOptions(**options)
    assert type(SamplingOptions(seed=np.int64(7)).seed) is int


def test_top_k_and_top_p_keep_what_they_say():
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    truncations = [(2, None), (None, 0.65), (None, 0.4), (3, 0.9), (9, 1.0), (None, 1e-9)]
    kept = [
        kept_logits(logits, SamplingOptions(temperature=1.0, top_k=k, top_p=p)).isfinite().tolist()
        for k, p in truncations
    ]
    assert [sum(row) for row in kept] == [2, 2, 1, 3, 4, 1]
    assert all(row == sorted(row, reverse=True) for row in kept)
    many = logits.expand(400, -1)
    positions = torch.arange(400)
    noise = gumbel_noise(torch.tensor([1]), positions, 4)
    for (k, p), row in zip(truncations, kept, strict=True):
        options = SamplingOptions(temperature=1.0, top_k=k, top_p=p)
        for drawn in (
            choose_tokens(many, noise, options),
            sample_rows(many, [1] * 400, positions.tolist(), options),
        ):
            assert set(drawn.tolist()) == set(range(sum(row)))
    halved = kept_logits(logits, SamplingOptions(temperature=0.5))
    torch.testing.assert_close(halved.softmax(-1), torch.tensor([0.16, 0.09, 0.04, 0.01]) / 0.3)
