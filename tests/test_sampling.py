"""Sampling keeps the target's distribution: chi-square tests that a known wrong rule fails."""

import numpy as np
import pytest
import torch

from engine_models import random_drafter, random_model, sequence_logits
from ltd.engine.compiled.sampling import CompiledSampler, fill_noise
from ltd.engine.compiled.tree import accepted_path, greedy_path
from ltd.engine.controllers import StaticController
from ltd.engine.decoding import decode, decode_autoregressive
from ltd.engine.sampling import (
    SamplingOptions,
    TokenSampler,
    accepted_mask,
    accepted_rows,
    fill_gumbel,
    make_sampler,
    noise_key,
    process_logits,
)
from ltd.engine.target import TargetModel
from ltd.engine.tree import DraftTree

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


def drawn_noise(draws, positions):
    """Gumbel noise [draws, positions, V] as the sampler of a GPU keys it: one seed a draw."""
    noise, generator = torch.empty(draws, positions, VOCAB), torch.Generator()
    for seed in range(draws):
        for position in range(positions):
            fill_gumbel(noise[seed, position], generator, noise_key(seed, position))
    return noise


def hashed_noise(seed, position, vocab):
    """Gumbel noise [V] float64 of the compiled sampler, whose uniform numbers it makes without logarithms."""
    uniform = np.empty(vocab, np.float32)
    fill_noise(uniform, np.uint64(noise_key(seed, 0)), position)
    return -np.log(-np.log1p(-uniform.astype(np.float64)))


@pytest.fixture(scope="module", params=["generator", "hash"])
def noise(request):
    if request.param == "generator":
        return drawn_noise(DRAWS, 2)
    hashed = [[hashed_noise(seed, position, VOCAB) for position in range(2)] for seed in range(DRAWS)]
    return torch.from_numpy(np.array(hashed, np.float32))


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


@pytest.mark.parametrize("kind", ["generator", "hash"])
def test_noise_depends_on_position_and_seed_alone(kind):
    options, cpu = SamplingOptions(temperature=1.0, seed=3), torch.device("cpu")
    ahead, single = (
        make_sampler(options, 500, 4, cpu) if kind == "hash" else TokenSampler(options, 500, 4, cpu)
        for _ in range(2)
    )
    logits = torch.zeros(4, 500)
    depths = torch.tensor([0, 1, 2, 2])
    for position in (0, 1, 5, 3):
        tokens = ahead.choose(logits, position, depths, levels=2)
        assert tokens.tolist() == [single.choose(logits[:1], position + d).item() for d in depths.tolist()]
    assert len({noise_key(seed, position) for seed in range(100) for position in range(100)}) == 10_000


def test_hashed_numbers_are_those_of_splitmix64():
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    noise = np.empty(5, np.float32)
    fill_noise(noise, np.uint64(1234567), 0)
    np.testing.assert_allclose(noise[1:], [number / 2**64 for number in published], rtol=1e-6)


TRUNCATIONS = [(None, None), (7, None), (None, 0.8), (40, 0.6), (1, None), (None, 1e-9), (10**6, 1.0)]


@pytest.mark.parametrize(("top_k", "top_p"), TRUNCATIONS)
@pytest.mark.parametrize("temperature", [1.0, 0.3, 2.5])
def test_compiled_sampling_is_the_gumbel_maximum_of_the_processed_logits(temperature, top_k, top_p):
    options, vocab, rows = SamplingOptions(temperature, top_k, top_p, seed=5), 300, 400
    logits = torch.randn(rows, vocab, generator=torch.Generator().manual_seed(2)) * 3
    logits = logits.round(decimals=1)  # many are tied
    chosen = CompiledSampler(options, vocab).choose(logits, 7, torch.arange(rows))
    noise = np.stack([hashed_noise(5, 7 + row, vocab) for row in range(rows)])
    scores = process_logits(logits, options).double() + torch.from_numpy(noise)
    best = scores.max(dim=-1).values
    assert (best - scores.gather(1, chosen[:, None])[:, 0] < 1e-4).all()
    assert (chosen == scores.argmax(-1)).float().mean() > 0.99


@pytest.mark.parametrize(("top_k", "top_p"), TRUNCATIONS[:4])
def test_compiled_sampling_has_the_exact_distribution(top_k, top_p):
    options, draws, vocab = SamplingOptions(1.0, top_k, top_p, seed=1), 200_000, 50
    logits = torch.randn(vocab, generator=torch.Generator().manual_seed(4)) * 2
    tokens = CompiledSampler(options, vocab).choose(logits.expand(draws, -1), 0, torch.arange(draws))
    counts = tokens.bincount(minlength=vocab)
    exact = process_logits(logits, options).softmax(-1)
    assert not counts[exact == 0].any()
    assert chi_square_p(counts, exact) > LEVEL
    assert chi_square_p(counts, logits.div(1.05).softmax(-1)) < 1e-6  # a rule that is slightly wrong


@pytest.mark.parametrize("options", [SamplingOptions(0.8, seed=2), SamplingOptions(1.0, 5, 0.9, seed=2)])
@pytest.mark.parametrize("shape", TREES)
def test_sampling_on_the_path_is_sampling_at_every_row(shape, options):
    tree, sampler = make_tree(*TREES[shape]), CompiledSampler(options, VOCAB)
    levels, lengths = int(tree.depths.max()), set()
    for position in range(200):
        logits = torch.randn(len(tree.tokens), VOCAB, generator=torch.Generator().manual_seed(position))
        chosen = sampler.choose(logits, position, tree.depths, levels)
        rows, tokens = sampler.follow(logits, position, tree, levels)
        expected = accepted_rows(tree.tokens, tree.parents, tree.ancestors, chosen)
        assert rows.tolist() == expected.tolist() and tokens.tolist() == chosen[expected].tolist()
        lengths.add(len(rows))
    assert len(lengths) > 1


def test_what_is_no_number_is_the_likeliest_token_or_the_first():
    logits = torch.tensor([[1.0, float("-inf"), 2.0, float("-inf")], [float("nan")] * 4])
    for temperature in (1e-30, 1e-50):
        chosen = CompiledSampler(SamplingOptions(temperature, None, 0.9), 4).choose(logits, 0)
        assert chosen.tolist() == [2, 0]


def test_top_k_and_top_p_keep_what_they_say():
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    kept = [
        process_logits(logits, SamplingOptions(temperature=1.0, top_k=k, top_p=p)).isfinite().tolist()
        for k, p in [(2, None), (None, 0.65), (None, 0.4), (3, 0.9), (9, 1.0), (None, 1e-9)]
    ]
    assert [sum(row) for row in kept] == [2, 2, 1, 3, 4, 1]
    assert all(row == sorted(row, reverse=True) for row in kept)
    halved = process_logits(logits, SamplingOptions(temperature=0.5))
    torch.testing.assert_close(halved.softmax(-1), torch.tensor([0.16, 0.09, 0.04, 0.01]) / 0.3)
