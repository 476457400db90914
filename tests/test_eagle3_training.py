"""Training-time test against sequential decoding, alignment of the loss, draft vocabulary, acceptance."""

import pytest
import torch

from ltd.draft_head import training
from ltd.draft_head.eagle3 import Eagle3Config, Eagle3Head
from ltd.draft_head.training import (
    acceptance,
    choose_draft_vocabulary,
    plan_chains,
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


def chains_of(step_weight=1.0, steps=5):
    generator = torch.Generator().manual_seed(2)
    return plan_chains(PROMPTS, LENGTHS, steps, step_weight, generator)


def test_a_cpu_attends_in_float32_where_products_are_bfloat16(head, batch, monkeypatch):
    seen, attention = [], training._attention

    def watched(queries, keys, values, blocked, chain_keys, chain_values):
        attended = attention(queries, keys, values, blocked, chain_keys, chain_values)
        seen.extend([queries, keys, values, *chain_keys, *chain_values, attended])
        return attended

    monkeypatch.setattr(training, "_attention", watched)
    features, tokens = batch
    with torch.autocast("cpu", torch.bfloat16):
        assert head.float().midlayer.self_attn.q_proj(torch.zeros(1, 2 * WIDTH)).dtype == torch.bfloat16
        unroll(head, features.float(), tokens, chains_of(), False)
    assert len(seen) > 20 and {states.dtype for states in seen} == {torch.float32}


@pytest.mark.parametrize("step_weight", [1.0, 0.6])
def test_unroll_equals_sequential_decoding(step_weight, head, batch):
    features, tokens = batch
    chains = chains_of(step_weight)
    outputs = unroll(head, features, tokens, chains)
    compared = 0
    for i in range(3):
        for a, (row, depth) in enumerate(
            zip(chains.rows[i].tolist(), chains.depths[i].tolist(), strict=True)
        ):
            if depth:
                reference = decode_chain(head, features[i], tokens[i], row, depth)
                ours = torch.stack([outputs[s][i, a] for s in range(depth)])
                torch.testing.assert_close(ours, reference, rtol=0, atol=1e-12)
                compared += depth
    whole = sum(min(5, n - a) for n in (8, 7, 2) for a in range(n))
    assert compared == whole if step_weight == 1 else 17 <= compared < whole


def test_unroll_does_not_see_later_tokens(head, batch):
    features, tokens = batch
    chains = chains_of(steps=3)
    before = unroll(head, features, tokens, chains)
    features, tokens = features.clone(), tokens.clone()
    features[0, 6:] += 1.0
    tokens[0, 7:] = (tokens[0, 7:] + 1) % VOCAB
    after = unroll(head, features, tokens, chains)
    for step in range(3):
        same = (after[step][0] == before[step][0]).all(-1)
        early = chains.rows[0, : len(same)] + step < 6  # has read features up to 5 and tokens up to 6
        alive = chains.alive(step)[0]
        assert torch.equal(same & alive, early & alive) and (same & alive).any()


def test_chains_cover_exactly_the_drafted_tokens():
    chains = chains_of()
    for i, (prompt, length) in enumerate(zip(PROMPTS.tolist(), LENGTHS.tolist(), strict=True)):
        exists = chains.depths[i] > 0
        predicted = (chains.rows[i][exists] + 2).tolist()  # by the first step
        assert sorted(predicted) == list(range(prompt + 1, length))
        last = chains.rows[i] + 1 + chains.depths[i]  # predicted by the last step
        assert (last[exists] <= length - 1).all() and last[exists].max() == length - 1


def test_answers_without_a_second_token_have_no_chain():
    chains = plan_chains(torch.tensor([3, 3]), torch.tensor([4, 6]), 5)
    assert chains.depths.tolist() == [[0, 0], [2, 1]] and chains.rows.min() >= 2


def test_steps_thin_out_by_the_step_weight():
    many = torch.full((40,), 500)
    depths = plan_chains(torch.ones_like(many), many, 10, 0.8, torch.Generator().manual_seed(0)).depths
    assert (depths.diff(dim=1) <= 0).all()
    for step in range(1, 10):
        share = (depths > step).float().mean().item()
        assert share == pytest.approx(0.8**step, abs=0.015)


def test_loss_reaches_the_second_and_the_last_answer_token_and_no_other(head, batch):
    """The teacher's gradient shows which rows take part; published trainers miss the first."""
    features, tokens = batch
    chains = chains_of(steps=3)
    teacher_rows = torch.arange(36).view(3, 12)
    teacher = torch.rand(36, DRAFT_VOCAB, dtype=torch.float64).requires_grad_()
    unroll_loss(head, unroll(head, features, tokens, chains), chains, teacher, teacher_rows).backward()
    position = torch.arange(12)
    drafted = (position >= PROMPTS[:, None]) & (position < LENGTHS[:, None] - 1)
    assert torch.equal(teacher.grad.abs().sum(-1).view(3, 12) > 0, drafted)


def test_loss_is_the_mean_over_all_steps_taken(head, batch):
    features, tokens = batch
    chains = chains_of(step_weight=0.7, steps=4)
    outputs = unroll(head, features, tokens, chains)
    teacher_rows = torch.arange(36).view(3, 12)
    teacher_rows[:, 6] = -1
    teacher = torch.rand(36, DRAFT_VOCAB, dtype=torch.float64).softmax(-1)
    terms = [
        -(teacher[12 * i + row + 1 + step] * head.logits(outputs[step][i, a]).log_softmax(-1)).sum()
        for i in range(3)
        for a, (row, depth) in enumerate(zip(chains.rows[i].tolist(), chains.depths[i].tolist(), strict=True))
        for step in range(depth)
        if row + 1 + step != 6
    ]
    loss = unroll_loss(head, outputs, chains, teacher, teacher_rows)
    torch.testing.assert_close(loss, torch.stack(terms).mean())


@pytest.mark.parametrize("multiple", [4, 32])
def test_padding_changes_neither_loss_nor_gradient(multiple, head, batch):
    """Shapes come again: every step has a multiple of so many rows, within a chain of each sequence."""
    features, tokens = batch
    teacher = torch.rand(36, DRAFT_VOCAB, dtype=torch.float64).softmax(-1)
    teacher_rows = torch.arange(36).view(3, 12)
    teacher_rows[:, 6] = -1
    seen = []
    for padded in (1, multiple):
        head.zero_grad()
        chains = plan_chains(PROMPTS, LENGTHS, 5, 0.6, torch.Generator().manual_seed(2), padded)
        outputs = unroll(head, features, tokens, chains)
        assert all(len(states[0]) % -(-padded // 3) == 0 for states in outputs)
        loss = unroll_loss(head, outputs, chains, teacher, teacher_rows, multiple=padded)
        loss.backward()
        seen.append([loss.detach(), *(p.grad.clone() for p in head.parameters() if p.grad is not None)])
    for exact, other in zip(*seen, strict=True):
        torch.testing.assert_close(other, exact)


def test_shapes_repeat_where_products_are_compiled_for_each(monkeypatch):
    for multiplies, multiple in ((True, 32), (False, 1)):
        monkeypatch.setattr(training, "multiplies_bfloat16", lambda device, answer=multiplies: answer)
        assert training.row_multiple(torch.device("cpu")) == multiple
    assert training.row_multiple(torch.device("cuda")) == 1


def test_draft_vocabulary_by_count_then_id():
    answers = [torch.tensor([7, 7, 3, 9]), torch.tensor([9, 5, 7])]
    assert choose_draft_vocabulary(answers, 12, 3).tolist() == [3, 7, 9]
    assert choose_draft_vocabulary(answers, 12, 6).tolist() == [0, 1, 3, 5, 7, 9]
    assert choose_draft_vocabulary([torch.tensor([4000])], 5000, 100).tolist() == [*range(99), 4000]


def test_hits_compare_with_the_answer(head, batch):
    features, tokens = batch
    chains = chains_of(steps=2)
    outputs = unroll(head, features, tokens, chains)
    answer = chains.rows[0, 2] + 2
    tokens[0, answer] = head.to_target(head.logits(outputs[0][0, 2]).argmax())  # read by later steps only
    hits, taken = unroll_hits(head, outputs, chains, tokens, steps=2)
    assert hits[0, 2, 0] and torch.equal(taken.sum(-1), chains.depths)
    tokens[0, answer] = (tokens[0, answer] + 1) % VOCAB
    assert not unroll_hits(head, outputs, chains, tokens, steps=2)[0][0, 2, 0]


def test_acceptance_counts_up_to_the_first_miss():
    hits = torch.tensor([[1, 1, 0], [0, 1, 1], [1, 0, 0]], dtype=torch.bool)
    valid = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 0, 0]], dtype=torch.bool)
    per_step, length = acceptance(hits, valid)
    torch.testing.assert_close(per_step, torch.tensor([2 / 3, 1.0, 0.5]))
    assert length == pytest.approx(1 + (2 + 0 + 1) / 3)
