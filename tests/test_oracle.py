"""The clairvoyant optimum equals exhaustive search on tiny answers, and nothing beats it on longer ones."""

from functools import cache

import numpy as np
import pytest

from ltd.engine.tree import pool_size
from ltd.errors import InputError
from ltd.replay import oracle as oracle_module
from ltd.replay.oracle import oracle
from ltd.replay.static_grid import static_grid
from ltd.replay.table import ReplayTable
from synthetic import synthetic_profile, synthetic_traces

SIZES = (1, 2, 3, 5, 8, 20)


def exhaustive(traces, profile, sizes):
    """Least seconds of every answer by trying all choices, with the profile itself and no dense tables."""
    table = ReplayTable(traces)

    def of_answer(start, end):
        @cache
        def least(position, rows):
            if position == end:
                return 0.0
            context = traces.context_length[position]
            best = profile.cycle_seconds(0, 1, context) + least(position + 1, rows + 1)
            for depth in range(1, traces.max_depth + 1):
                for size in sizes:
                    tokens = int(table.tokens(position, depth, size))
                    seconds = profile.cycle_seconds(depth, size, context, rows)
                    best = min(best, seconds + least(position + tokens, tokens))
            return best

        plain = sum(profile.autoregressive_step(traces.context_length[start:end]))
        return min(least(start, 1), plain)

    starts = traces.starts.tolist()
    return [of_answer(a, b) for a, b in zip(starts, [*starts[1:], len(traces)], strict=True)]


@pytest.mark.parametrize(("prefix_weight", "longest"), [(1.0, 9), (60.0, 9), (1.0, 2)])
def test_equals_exhaustive_search(prefix_weight, longest, monkeypatch):
    traces = synthetic_traces(seed=3, sequences=4, answer_tokens=(1, longest), beam=3, max_depth=3)
    profile = synthetic_profile(beam=3, max_depth=3)
    prefix = profile.tables["draft_prefix"]
    # With dear prefix rows it pays to skip and to choose whom to leave rows to: the rows belong to the state.
    heavier = (np.array(prefix.ms) - np.array(prefix.ms[0]) * 0.9) * prefix_weight
    profile = profile.replace_table("draft_prefix", type(prefix)(prefix.axis, heavier.tolist()))
    monkeypatch.setattr(oracle_module, "GROUP_BYTES", 150)  # several groups
    result = oracle(traces, profile, SIZES)
    np.testing.assert_allclose(result.seconds, exhaustive(traces, profile, SIZES), rtol=1e-12)
    assert set(result.log.depth) > {0} if prefix_weight > 1 else set(result.log.depth) != {0}


def seconds_of(log, profile):
    """Of every cycle; of answers that are never drafted for, those of autoregressive steps."""
    seconds, rows = [], 1
    for i, depth in enumerate(log.depth):
        if i == 0 or log.sequence[i] != log.sequence[i - 1]:
            rows = 1
        if log.depth[log.sequence == log.sequence[i]].any():
            seconds.append(profile.cycle_seconds(depth, log.size[i], log.context_length[i], rows))
        else:
            seconds.append(profile.autoregressive_step(log.context_length[i]))
        rows = log.tokens[i] if depth else rows + 1
    return seconds


@pytest.mark.parametrize("machine", [{}, {"verify_slope": 40.0}], ids=["drafting pays", "it never does"])
def test_its_walk_adds_up(machine):
    traces, profile = synthetic_traces(seed=1), synthetic_profile(**machine)
    result = oracle(traces, profile, SIZES)
    log = result.log
    assert log.depth.any() != bool(machine)
    np.testing.assert_array_equal(np.bincount(log.sequence, log.tokens), traces.answer_tokens)
    position = (
        traces.starts[log.sequence] + log.context_length - traces.context_length[traces.starts][log.sequence]
    )
    table = ReplayTable(traces)
    tokens = table.tokens(position, log.depth, log.size)
    np.testing.assert_array_equal(tokens, log.tokens)
    assert result.acceptance_length() == pytest.approx(len(traces) / len(log.tokens))
    np.testing.assert_array_equal(log.accepted, table.accepted(position, log.depth, log.size))
    np.testing.assert_allclose(log.seconds, seconds_of(log, profile), rtol=1e-12)
    drafted = [pool_size(traces.beam, depth) for depth in log.depth]
    np.testing.assert_array_equal(log.verified, np.minimum(log.size, drafted))


def test_where_no_tree_pays_it_is_plain_decoding():
    traces, profile = synthetic_traces(seed=2), synthetic_profile(verify_slope=40.0)
    plain = static_grid(traces, profile, [0], [1]).setting(0, 1)
    np.testing.assert_allclose(oracle(traces, profile, SIZES).seconds, plain.seconds, rtol=1e-12)


def test_no_static_setting_is_faster_and_adapting_gains():
    traces, profile = synthetic_traces(seed=2, sequences=12), synthetic_profile()
    grid = static_grid(traces, profile, range(7), SIZES)
    bound = oracle(traces, profile, SIZES)
    assert (bound.seconds <= grid.seconds * (1 + 1e-12)).all()
    per_task = grid.best_per_task()
    assert grid.best()[2] <= per_task.throughput() < bound.throughput()


def test_fewer_choices_are_never_faster():
    traces, profile = synthetic_traces(seed=2), synthetic_profile()
    everything = oracle(traces, profile, SIZES)
    assert (oracle(traces, profile, SIZES[:2]).seconds >= everything.seconds * (1 - 1e-12)).all()
    one = oracle(traces, profile, (3,), depths=(2,))
    assert (one.seconds >= everything.seconds * (1 - 1e-12)).all()
    assert set(one.log.depth) <= {0, 2} and set(one.log.size) <= {0, 3}


def test_unknown_depth_or_size_is_refused():
    traces, profile = synthetic_traces(sequences=2), synthetic_profile()
    for depths, sizes in (((7,), SIZES), (None, (0, 1)), (None, ()), ((0,), SIZES)):
        with pytest.raises(InputError, match="depths 1 to 6, sizes from 1"):
            oracle(traces, profile, sizes, depths)
    with pytest.raises(InputError, match=r"tables\.verify: 61"):
        oracle(traces, profile, (1, 61))
