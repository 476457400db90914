"""The table of ranks against selecting the best nodes and walking down the tree."""

import numpy as np
import pytest

from ltd.replay.table import ReplayTable
from ltd.replay.traces import level_starts, pool_size, true_path_ranks
from synthetic import synthetic_traces


def parent_of(traces, index, node):
    """Pool index of the parent, from pool order and beams; -1 for the root."""
    beam = traces.beam
    if node < beam:
        return -1
    level, place = divmod(node - beam, beam * beam)  # level counts from the second
    start = pool_size(beam, level)
    return start + int(traces.beams[index, level, place // beam])


def slow_accepted(traces, index, depth, size):
    scores = traces.scores[index, : pool_size(traces.beam, depth)]
    chosen = sorted(range(len(scores)), key=lambda node: (-scores[node], node))[:size]
    for node in chosen:
        assert parent_of(traces, index, node) in [-1, *chosen], "a child is kept without its parent"
    length = 0
    while length < depth and traces.true_node[index, length] in chosen:
        length += 1
    return length


@pytest.fixture
def traces():
    return synthetic_traces(seed=5, sequences=3, beam=3, max_depth=4)


def test_accepted_equals_selection_and_descent(traces):
    table, rng = ReplayTable(traces), np.random.default_rng(0)
    for index in rng.integers(0, len(traces), 150):
        depth, size = int(rng.integers(1, 5)), int(rng.integers(1, 35))
        assert table.accepted(index, depth, size) == slow_accepted(traces, index, depth, size)


def test_ties_go_to_the_earlier_node(traces):
    scores = np.round(traces.scores)  # many equal scores
    ranks = true_path_ranks(scores, traces.true_node, traces.beam)
    for index in range(0, len(traces), 7):
        for depth in range(1, 5):
            for level in range(1, depth + 1):
                node = traces.true_node[index, level - 1]
                if node < 0:
                    assert ranks[index, depth - 1, level - 1] == 65535
                    continue
                pool = scores[index, : pool_size(traces.beam, depth)]
                order = sorted(range(len(pool)), key=lambda other: (-pool[other], other))
                assert ranks[index, depth - 1, level - 1] == order.index(node)


def test_shapes_broadcast_and_depth_zero_accepts_nothing(traces):
    table = ReplayTable(traces)
    index = np.arange(len(traces))
    grid = table.accepted(index[:, None, None], np.arange(5)[:, None], np.arange(1, 9))
    assert grid.shape == (len(traces), 5, 8)
    assert (grid[:, 0] == 0).all() and grid[:, 1:].max() > 1
    assert (np.diff(grid[:, 1:], axis=2) >= 0).all(), "a larger tree never accepts less"
    for depth in range(5):
        tokens = table.tokens(index[:, None], depth, np.arange(1, 9))
        np.testing.assert_array_equal(table.token_table(depth, np.arange(1, 9)), tokens)


def test_end_of_the_answer_cuts_the_tokens(traces):
    table = ReplayTable(traces)
    last = np.flatnonzero(traces.tokens_left == 1)
    assert len(last) == 3
    assert (table.tokens(last, 4, 30) == 1).all()
    assert (table.tokens(np.arange(len(traces)), 4, 30) <= traces.tokens_left).all()


def test_levels_tile_the_pool():
    assert level_starts(10, 3).tolist() == [0, 10, 110]
    assert pool_size(10, 0) == 0 and pool_size(10, 3) == 210
