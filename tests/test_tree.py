"""Draft trees against a plain Python construction: numbering, selection, ties, masks, and the drafts
themselves.
"""

import itertools
import math

import numpy as np
import pytest
import torch

from engine_models import random_drafter, random_head, random_target
from ltd.draft_head.eagle3 import Eagle3Head
from ltd.engine.compiled.drafting import CompiledDrafter
from ltd.engine.compiled.tree import best_children, select_tree
from ltd.engine.drafting import Drafter
from ltd.engine.sampling import accepted_rows, padded_accepted_rows
from ltd.engine.tree import (
    DraftTree,
    TreeLayout,
    padded_tree_rows,
    pool_size,
    root_paths,
    tree_rows,
)

CPU = torch.device("cpu")


def random_pool(beam, depth, seed, rounding=None):
    """Scores, tokens, paths, and the parent of every node (-1: the root), built one node at a time."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.full((pool_size(beam, depth),), float("-inf"))
    parents, paths = [-1] * beam, root_paths(beam, depth, CPU)

    def steps(count):
        values = -torch.rand(count, generator=generator) * 2
        return values if rounding is None else (values / rounding).round() * rounding

    scores[:beam] = steps(beam)
    beams = list(range(beam))
    for level in range(2, depth + 1):
        start = pool_size(beam, level - 1)
        for rank, node in enumerate(beams):
            slot = (level - 1) * beam + rank
            chain = [node]
            while parents[chain[-1]] >= 0:
                chain.append(parents[chain[-1]])
            paths[slot, 1:level] = torch.tensor(chain[::-1]) + 1
            first = start + rank * beam
            scores[first : first + beam] = scores[node] + steps(beam)
            parents += [node] * beam
        level_scores = scores[start : start + beam * beam].tolist()
        order = sorted(range(beam * beam), key=lambda i: (-level_scores[i], i))
        beams = [start + index for index in order[:beam]] if level > 1 else beams
    tokens = torch.randperm(10_000, generator=generator)[: len(scores)]
    return scores, tokens, paths, parents


@pytest.mark.parametrize("rounding", [None, 0.5])
@pytest.mark.parametrize(("beam", "depth"), [(1, 4), (3, 1), (4, 5), (10, 12)])
def test_selected_trees_are_closed_and_rightly_connected(beam, depth, rounding):
    """With `rounding`, scores tie within and across levels, zero steps included."""
    for seed in range(3):
        scores, tokens, paths, parents = random_pool(beam, depth, seed, rounding)
        layout = TreeLayout(beam, depth, CPU)
        with_root = torch.cat([torch.tensor([math.inf]), scores]), torch.cat([torch.tensor([77]), tokens])
        for size in (1, 2, 7, 60, 2000):
            nodes = sorted(sorted(range(len(scores)), key=lambda i: (-scores[i].item(), i))[:size])
            tables = layout.levels, layout.parent_slots, paths, with_root[1]
            tree = DraftTree(*tree_rows(with_root[0], size, *tables))
            compiled = select_tree(scores.numpy(), np.array(parents), tokens.numpy(), 77, size)
            fields = (tree.tokens, tree.depths, tree.parents, tree.ancestors)
            assert all(np.array_equal(*pair) for pair in zip(compiled, fields, strict=True))
            row_of = {-1: 0} | {node: row for row, node in enumerate(nodes, start=1)}
            assert tree.size == min(size, len(scores))
            assert tree.tokens.tolist() == [77, *tokens[nodes].tolist()]
            assert tree.parents.tolist() == [0] + [row_of[parents[node]] for node in nodes]
            depths, ancestors = [0], [{0}]
            for row in range(1, tree.size + 1):
                parent = tree.parents[row].item()
                depths.append(depths[parent] + 1)
                ancestors.append(ancestors[parent] | {row})
            assert tree.depths.tolist() == depths
            assert [set(row.nonzero()[:, 0].tolist()) for row in tree.ancestors] == ancestors


@pytest.mark.parametrize("rounding", [None, 0.5])
@pytest.mark.parametrize(("beam", "depth"), [(1, 4), (3, 1), (4, 5), (7, 3)])
def test_padded_trees_are_the_same_behind_rows_that_stand_alone(beam, depth, rounding):
    """Of drafts that end before the last level, in as many rows as there are nodes and in more."""
    generator, longest = torch.Generator().manual_seed(0), 0
    layout = TreeLayout(beam, depth, CPU)
    for drafted in range(1, depth + 1):
        scores, _, paths, _ = random_pool(beam, depth, drafted, rounding)
        # Siblings are different tokens, as they are in a draft.
        tokens = torch.cat([torch.arange(beam)[:1], torch.arange(beam).repeat(len(scores) // beam)])
        pool = pool_size(beam, drafted)
        scores = torch.cat([torch.tensor([math.inf]), scores])
        scores[1 + pool :] = -math.inf
        for size, more in itertools.product((1, 2, min(20, pool)), (0, 1, 9)):
            size = min(size, pool)
            rows, count = size + 1 + more, torch.tensor([size + 1])
            tables = layout.levels, layout.parent_slots, paths, tokens
            tree = tree_rows(scores[: 1 + pool], size, *tables)
            padded = padded_tree_rows(scores, count, rows, *tables)
            found = [field[more:] for field in padded]
            found[2], found[3] = found[2] - more, found[3][:, more:]
            assert all(map(torch.equal, tree, found))
            ancestors = padded[3]
            assert not ancestors[more:, :more].any() and not ancestors[:more, more + 1 :].any()
            assert torch.equal(ancestors[:more, :more], torch.eye(more, dtype=torch.bool))
            for _ in range(5):
                chosen = torch.randint(0, beam, (rows,), generator=generator)
                expected = accepted_rows(tree[0], tree[2], tree[3], chosen[more:])
                path, length = padded_accepted_rows(padded[0], *padded[2:], chosen, count, depth + 1)
                assert torch.equal(path[: length.item()] - more, expected)
                assert len(path) == depth + 1 and path.max() < rows
                longest = max(longest, len(expected))
    assert longest > min(depth, 2), "hardly anything was accepted"


def naive_levels(head: Eagle3Head, taps, tokens, beam, depth):
    """Tree levels from the head's own forward over whole paths, no cache: (path, score) per node, pool
    order.
    """

    def children(path, score):
        features, ids = head.fuse(taps), tokens
        hidden = None
        for step in range(len(path) + 1):
            rows = len(ids)
            mask = torch.ones(rows, rows, dtype=torch.bool).tril()[None, None]
            hidden, _ = head(features[None], ids[None], torch.arange(rows)[None], mask)
            if step < len(path):
                features = torch.cat([features, hidden[0, -1:]])
                ids = torch.cat([ids, torch.tensor([path[step]])])
        log_probs = head.logits(hidden[0, -1]).log_softmax(-1)
        best = log_probs.topk(beam)
        ids = head.to_target(best.indices).tolist()
        return [
            ([*path, token], score + value) for token, value in zip(ids, best.values.tolist(), strict=True)
        ]

    level = children([], 0.0)
    levels = [level]
    for _ in range(depth - 1):
        best = sorted(range(len(level)), key=lambda i: (-level[i][1], i))[:beam]
        level = [child for index in best for child in children(*level[index])]
        levels.append(level)
    return levels


@pytest.mark.parametrize("kind", [Drafter, CompiledDrafter])
@pytest.mark.parametrize("draft_vocab", [None, 11])
def test_drafts_are_those_of_the_plain_head(draft_vocab, kind):
    target = random_target("qwen2")
    head = random_head(target, draft_vocab=draft_vocab)
    drafter = kind(head, beam=3, max_depth=4, max_context=160)
    prompt = torch.tensor([3, 14, 15, 9, 2, 6])
    logits, taps = target.prefill(prompt)
    tokens = torch.cat([prompt[1:], logits.argmax()[None]])
    drafter.prefill(taps, prompt)
    drafter.extend(taps[-1:], tokens[-1:])
    for _ in range(3):
        drafter.expand()
    nodes = [node for level in naive_levels(head, taps, tokens, 3, 4) for node in level]
    torch.testing.assert_close(
        drafter.state.scores, torch.tensor([score for _, score in nodes]), rtol=1e-4, atol=1e-4
    )
    tree = drafter.select(len(nodes))
    for row, (path, _) in enumerate(nodes, start=1):
        assert tree.tokens[tree.ancestors[row]].tolist() == [tokens[-1].item(), *path]


@pytest.mark.parametrize("compiled", [False, True])
def test_many_deferred_rows_draft_the_same_tree(compiled):
    """A prefix pass over more rows than fit one chunk equals the prefill of the same context."""
    target = random_target(max_context=300)
    tokens = torch.randint(0, 23, (200,), generator=torch.Generator().manual_seed(0))
    _, taps = target.prefill(tokens[:-1])
    late, early = (random_drafter(target, compiled=compiled) for _ in range(2))
    late.prefill(taps[:5], tokens[:5])
    late.defer(taps[4:100], tokens[5:101])
    late.extend(taps[100:], tokens[101:])
    early.prefill(taps, tokens[:-1])
    early.extend(taps[-1:], tokens[-1:])
    late.expand()
    early.expand()
    assert late.length == early.length == 199
    torch.testing.assert_close(late.state.scores, early.state.scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_new_tree_has_no_scores_of_the_one_before(compiled):
    target = random_target()
    drafter = random_drafter(target, compiled=compiled)
    _, taps = target.prefill([1, 2, 3])
    drafter.prefill(taps, torch.tensor([1, 2, 3]))
    drafter.extend(taps[-1:], torch.tensor([4]))
    drafter.expand()
    drafter.expand()
    assert drafter.state.scores[: pool_size(5, 3)].isfinite().all()
    drafter.defer(taps[-1:], torch.tensor([5]))
    assert drafter.state.depth == 0 and (drafter.state.scores == float("-inf")).all()


@pytest.mark.parametrize("compiled", [False, True])
def test_entropy_is_that_of_the_best_row(compiled):
    target = random_target()
    drafter = random_drafter(target, beam=23, max_depth=2, compiled=compiled)
    _, taps = target.prefill([1, 2, 3])
    drafter.prefill(taps, torch.tensor([1, 2, 3]))
    drafter.extend(taps[-1:], torch.tensor([4]))
    level = drafter.state.scores[:23]
    assert drafter.state.entropy() == pytest.approx(-(level.exp() * level).sum().item(), rel=1e-5)
    drafter.expand()
    children = drafter.state.scores[23 : 2 * 23] - level[0]
    assert drafter.state.entropy() == pytest.approx(-(children.exp() * children).sum().item(), rel=1e-4)


def test_no_child_scores_above_its_parent():
    """Compiled sums may be taken in any order: with logits this large rounding would show."""
    generator = np.random.default_rng(0)
    scores, tokens, ids = np.empty(4, np.float32), np.empty(4, np.int64), np.arange(64)
    for _ in range(300):
        logits = generator.normal(20, 1, 64).astype(np.float32)
        logits[generator.integers(64)] += np.float32(20)
        parent = np.float32(-generator.exponential(3))
        best_children(logits, parent, ids, scores, tokens)
        assert scores[0] <= parent and scores[0] == pytest.approx(parent, abs=1e-5)
        assert (np.diff(scores) <= 0).all() and tokens[0] == logits.argmax()
