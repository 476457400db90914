"""Drafting by look-up: the n-gram model's probabilities, its trees, and that nothing is lost with them."""

import itertools
import math

import numpy as np
import pytest
import torch

from engine_models import VOCAB, RandomController, random_target
from ltd.engine.controllers import StaticController
from ltd.engine.decoding import decode, decode_autoregressive
from ltd.engine.lookup_drafting import LookupDrafter
from ltd.engine.ngrams import NgramCounts, NgramModel
from ltd.engine.tree import pool_size
from ltd.errors import InputError

SIX = [1, 2, 3, 1, 2, 4, 1, 2, 3, 1, 2]


def model_of(tokens, **options):
    model = NgramModel(8, **options)
    model.append(tokens)
    return model


def test_probabilities_follow_witten_and_bell():
    model = model_of(SIX, order=2, context_weight=1)
    tokens, log_probs = model.children([], 3)
    assert tokens[:2] == [3, 4]
    # After 1 2 came 3 3 4, after 2 the same, and the text has 1 1 1 1 2 2 2 2 3 3 4.
    shortest = (2 + 4 / 8) / (11 + 4), (1 + 4 / 8) / (11 + 4)
    for log_prob, seen, probability in zip(log_probs, (2, 1), shortest, strict=False):
        for _ in range(2):
            probability = (seen + 2 * probability) / (3 + 2)
        assert math.exp(log_prob) == pytest.approx(probability)


def test_given_texts_and_the_present_one_add_up():
    texts = NgramCounts.of_texts([[5, 6, 7], [5, 6, 7]], order=2)
    alone, both = (NgramModel(8, order=2, texts=t, context_weight=3) for t in (None, texts))
    for model in (alone, both):
        model.append([5, 6, 1, 5, 6])
    assert alone.children([], 1)[0] == [1]
    assert both.children([], 2)[0] == [1, 7]  # three times one against two
    heavy = NgramModel(8, order=2, texts=texts, context_weight=1)
    heavy.append([5, 6, 1, 5, 6])
    assert heavy.children([], 2)[0] == [7, 1]


def test_counts_of_texts_are_those_of_reading_them():
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(0, 5, (30,), generator=generator).tolist() for _ in range(4)]
    fast, slow = NgramCounts.of_texts(texts, 3), NgramCounts(3)
    for text in texts:
        for place, token in enumerate(text):
            slow.add(text[:place], token)
    assert fast.table == slow.table


def test_probabilities_are_calibrated():
    rng = np.random.default_rng(0)
    chain = rng.dirichlet(np.full(12, 0.3), size=12)
    text = [0]
    for _ in range(6000):
        text.append(int(rng.choice(12, p=chain[text[-1]])))
    model = NgramModel(12, order=2, texts=NgramCounts.of_texts([text[:4000]], 2))
    said, right = [], []
    for previous, token in itertools.pairwise(text[4000:]):
        model.append([previous])
        (best,), (log_prob,) = model.children([], 1)
        said.append(math.exp(log_prob))
        right.append(best == token)
    said, right = np.array(said), np.array(right)
    assert abs(said.mean() - right.mean()) < 0.05
    sure = said > np.median(said)
    assert right[sure].mean() > right[~sure].mean() + 0.1


def grown(beam, depth, tokens=SIX, **options):
    drafter = LookupDrafter(NgramModel(8, **options), beam=beam, max_depth=depth)
    drafter.prefill(None, torch.tensor(tokens[:-1]))
    drafter.extend(None, torch.tensor(tokens[-1:]))
    for _ in range(depth - 1):
        drafter.expand()
    return drafter


def test_pool_beams_and_scores():
    drafter = grown(3, 3, order=2)
    state = drafter.state
    assert state.depth == 3 and state.pool == pool_size(3, 3) and state.context_length == len(SIX) - 1
    assert state.scores.isfinite().all()
    # Level 3 hangs below the best three nodes of level 2.
    level = state.scores[3:12]
    beam = torch.sort(level, descending=True, stable=True).indices[:3] + 3
    assert drafter._parents[12:].tolist() == beam.repeat_interleave(3).tolist()
    for node in (4, 13, 20):
        parent = int(drafter._parents[node])
        path = drafter._path(parent)
        tokens, log_probs = drafter.model.children(path, 3)
        child = (node - 3) % 3
        assert drafter.tokens[node] == tokens[child]
        assert state.scores[node] == np.float32(state.scores[parent]) + np.float32(log_probs[child])


@pytest.mark.parametrize("size", (1, 4, 9, 100))
def test_trees_are_closed_and_their_masks_are_their_ancestors(size):
    drafter = grown(3, 4, order=3)
    tree = drafter.select(size)
    assert tree.size == min(size, drafter.state.pool)
    assert tree.tokens[0] == SIX[-1] and tree.parents[0] == 0 and tree.depths[0] == 0
    for row in range(1, tree.size + 1):
        parent = int(tree.parents[row])
        assert parent < row and tree.depths[row] == tree.depths[parent] + 1
        expected = tree.ancestors[parent].clone()
        expected[row] = True
        assert torch.equal(tree.ancestors[row], expected)


@pytest.mark.parametrize("temperature", (0.0, 1.0))
def test_the_text_is_that_of_plain_decoding(temperature):
    target = random_target()
    drafter = LookupDrafter(NgramModel(VOCAB), beam=3, max_depth=5)
    accepted = 0
    for seed in range(2):
        prompt = torch.randint(0, VOCAB, (5 + seed,), generator=torch.Generator().manual_seed(seed))
        options = {"max_new_tokens": 40, "temperature": temperature, "seed": seed}
        plain = decode_autoregressive(target, prompt, **options)
        for controller in (StaticController(4, 12), RandomController(seed)):
            drafted = decode(target, drafter, controller, prompt, **options)
            assert drafted.tokens == plain.tokens
            accepted += sum(cycle.accepted for cycle in drafted.cycles)
    assert temperature or accepted > 20, "greedy answers of a small random model repeat themselves"


def test_entropy_counts_what_is_not_proposed_as_uniform():
    drafter = LookupDrafter(NgramModel(8, order=1, context_weight=1), beam=8, max_depth=2)
    drafter.extend(None, torch.tensor([3, 5, 3]))
    known = np.exp(drafter.state.scores[:8].numpy())
    assert drafter.state.entropy() == pytest.approx(float(-(known * np.log(known)).sum()), abs=0.01)
    narrow = LookupDrafter(NgramModel(8, order=1, context_weight=1), beam=1, max_depth=2)
    narrow.extend(None, torch.tensor([3, 5, 3]))
    assert drafter.state.entropy() < narrow.state.entropy() < math.log(8)


@pytest.mark.parametrize("beam", (0, 9))
def test_impossible_beams_are_refused(beam):
    with pytest.raises(InputError, match="vocabulary"):
        LookupDrafter(NgramModel(8), beam=beam)
    with pytest.raises(InputError, match="order 3"):
        NgramModel(8, order=3, texts=NgramCounts(2))
