"""Training-time test against sequential decoding, alignment of the loss, draft vocabulary, acceptance."""

import pytest
import torch
from ltd.eagle3 import Eagle3Config, Eagle3Head
from ltd.eagle3_training import (
    acceptance,
    chain_rows,
    choose_draft_vocabulary,
    unroll,
    unroll_hits,
    unroll_loss,
)

VOCAB, DRAFT_VOCAB, WIDTH = 30, 11, 16
CONFIG = Eagle3Config(
    hidden_size=WIDTH,
    target_hidden_size=WIDTH,
    intermediate_size=20,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=6,
    rms_norm_eps=1e-6,
    vocab_size=VOCAB,
    draft_vocab_size=DRAFT_VOCAB,
    rope_theta=10000.0,
    max_position_embeddings=64,
    tap_layers=(1, 2, 3),
)
PROMPTS, LENGTHS = torch.tensor([3, 1, 5]), torch.tensor([12, 9, 8])


@pytest.fixture
def head():
    torch.manual_seed(0)
    head = Eagle3Head(CONFIG, torch.randn(VOCAB, WIDTH)).double()
    head.set_draft_vocabulary(torch.arange(4, 4 + 2 * DRAFT_VOCAB, 2))
    return head


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(3, 12, WIDTH, dtype=torch.float64, generator=generator)
    return features, torch.randint(VOCAB, (3, 12), generator=generator)


def decode_chain(head, features, tokens, row, steps):
    """The chain that starts at `row`, decoded step by step with a key-value cache, for one sequence."""
    mask = torch.ones(row + 1, row + 1, dtype=torch.bool).tril()[None, None]
    positions = torch.arange(row + 1)[None]
    hidden, past = head(features[None, : row + 1], tokens[None, 1 : row + 2], positions, mask)
    outputs = [hidden[0, -1]]
    for step in range(1, steps):
        mask = torch.ones(1, 1, 1, past[0].shape[2] + 1, dtype=torch.bool)
        read, position = tokens[row + 1 + step].view(1, 1), torch.tensor([[row + step]])
        hidden, new = head(outputs[-1].view(1, 1, -1), read, position, mask, past)
        past = tuple(torch.cat([old, fresh], dim=2) for old, fresh in zip(past, new, strict=True))
        outputs.append(hidden[0, -1])
    return torch.stack(outputs)


def test_unroll_equals_sequential_decoding(head, batch):
    features, tokens = batch
    rows, exists = chain_rows(PROMPTS, LENGTHS)
    outputs = unroll(head, features, tokens, rows, steps=5)
    compared = 0
    for i in range(3):
        for a in range(int(exists[i].sum())):
            steps = min(5, int(exists[i].sum()) - a)
            reference = decode_chain(head, features[i], tokens[i], int(rows[i, a]), steps)
            ours = torch.stack([outputs[s][i, a] for s in range(steps)])
            torch.testing.assert_close(ours, reference, rtol=0, atol=1e-12)
            compared += steps
    assert compared == sum(min(5, n - a) for n in (8, 7, 2) for a in range(n))


def test_unroll_does_not_see_later_tokens(head, batch):
    features, tokens = batch
    rows, _ = chain_rows(PROMPTS, LENGTHS)
    before = unroll(head, features, tokens, rows, steps=3)
    features, tokens = features.clone(), tokens.clone()
    features[0, 6:] += 1.0
    tokens[0, 7:] = (tokens[0, 7:] + 1) % VOCAB
    after = unroll(head, features, tokens, rows, steps=3)
    last = 6 - int(rows[0, 0])  # chains that start before row 6 saw features up to 5 and tokens up to 6
    for step in range(3):
        same = (after[step][0] == before[step][0]).all(-1)
        assert same[: last - step].all() and not same[last - step :].any()


def test_chains_cover_exactly_the_drafted_tokens():
    rows, exists = chain_rows(PROMPTS, LENGTHS)
    for i, (prompt, length) in enumerate(zip(PROMPTS.tolist(), LENGTHS.tolist(), strict=True)):
        predicted = (rows[i][exists[i]] + 2).tolist()  # by the first step
        assert predicted == list(range(prompt + 1, length))


def test_answers_without_a_second_token_have_no_chain():
    rows, exists = chain_rows(torch.tensor([3, 3]), torch.tensor([4, 6]))
    assert exists.sum(1).tolist() == [0, 2] and rows.min() >= 2


def test_loss_reaches_the_second_and_the_last_answer_token_and_no_other(head, batch):
    """The teacher's gradient shows which rows take part; published trainers miss the first."""
    features, tokens = batch
    rows, exists = chain_rows(PROMPTS, LENGTHS)
    outputs = unroll(head, features, tokens, rows, steps=3)
    teacher = torch.rand(*exists.shape, DRAFT_VOCAB, dtype=torch.float64).requires_grad_()
    loss, per_step = unroll_loss(head, outputs, teacher, exists, step_weight=0.8)
    loss.backward()
    assert torch.equal(teacher.grad.abs().sum(-1) > 0, exists)
    assert per_step.shape == (3,)


def test_loss_is_the_weighted_mean_over_rows(head, batch):
    features, tokens = batch
    rows, exists = chain_rows(PROMPTS, LENGTHS)
    outputs = unroll(head, features, tokens, rows, steps=4)
    counted = exists & (torch.arange(exists.numel()).view_as(exists) % 3 != 0)
    teacher = torch.rand(*exists.shape, DRAFT_VOCAB, dtype=torch.float64).softmax(-1)
    expected, total = 0.0, 0.0
    for step in range(4):
        terms = [
            -(teacher[i, a + step] * head.logits(outputs[step][i, a]).log_softmax(-1)).sum()
            for i in range(3)
            for a in range(outputs[step].shape[1])
            if counted[i, a + step]
        ]
        expected += 0.5**step * torch.stack(terms).mean()
        total += 0.5**step
    loss, _ = unroll_loss(head, outputs, teacher, counted, step_weight=0.5)
    torch.testing.assert_close(loss, expected / total)


def test_draft_vocabulary_by_count_then_id():
    answers = [torch.tensor([7, 7, 3, 9]), torch.tensor([9, 5, 7])]
    assert choose_draft_vocabulary(answers, 12, 3).tolist() == [3, 7, 9]
    assert choose_draft_vocabulary(answers, 12, 6).tolist() == [0, 1, 3, 5, 7, 9]
    assert choose_draft_vocabulary([torch.tensor([4000])], 5000, 100).tolist() == [*range(99), 4000]


def test_hits_compare_with_the_answer(head, batch):
    features, tokens = batch
    rows, exists = chain_rows(PROMPTS, LENGTHS)
    outputs = unroll(head, features, tokens, rows, steps=2)
    first = head.to_target(head.logits(outputs[0][0, 2]).argmax())
    tokens[0, rows[0, 2] + 2] = first  # read by later steps and chains only
    hits, valid = unroll_hits(head, outputs, tokens, rows, exists, steps=2)
    assert hits[0, 2, 0] and valid[..., 0].equal(exists)
    tokens[0, rows[0, 2] + 2] = (first + 1) % VOCAB
    assert not unroll_hits(head, outputs, tokens, rows, exists, steps=2)[0][0, 2, 0]


def test_acceptance_counts_up_to_the_first_miss():
    hits = torch.tensor([[1, 1, 0], [0, 1, 1], [1, 0, 0]], dtype=torch.bool)
    valid = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 0, 0]], dtype=torch.bool)
    per_step, length = acceptance(hits, valid)
    torch.testing.assert_close(per_step, torch.tensor([2 / 3, 1.0, 0.5]))
    assert length == pytest.approx(1 + (2 + 0 + 1) / 3)
