"""What drafts after the newest tokens bring: by hand, for answers left out, and the same in kernels."""

import dataclasses

import numpy as np
import pytest

from ltd.engine.controllers import NO_TOKEN, RECENT, DraftState
from ltd.replay.traces import NO_RANK
from ltd.rl.live_suffix import suffix_number
from ltd.rl.replay_walk import ReplayWorld
from ltd.rl.suffix_prior import LEVELS, PSEUDO_COUNT, fit_suffix_prior
from synthetic import synthetic_profile, synthetic_traces


def traces_of(answers, accepted, max_depth=3):
    """Traces of answers, lists of tokens, where chains of `accepted` levels (a list an answer) are right."""
    count = sum(map(len, answers))
    levels = np.arange(max_depth)
    longest = np.concatenate(accepted)[:, None, None]
    ranks = np.where((levels < longest) & (levels <= levels[:, None]), levels, NO_RANK).astype(np.uint16)
    made = synthetic_traces(sequences=1, answer_tokens=(count, count), beam=1, max_depth=max_depth)
    return dataclasses.replace(
        made,
        root=np.concatenate(answers).astype(np.int32),
        ranks=ranks,
        sequence=np.repeat(np.arange(len(answers), dtype=np.int32), list(map(len, answers))),
        tokens_left=np.concatenate([np.arange(len(answer), 0, -1) for answer in answers]).astype(np.int32),
    )


def without(traces, answer):
    """The traces without one of their answers."""
    rows = traces.sequence != answer
    columns = {name: values[rows] for name, values in traces.columns().items()}
    return dataclasses.replace(traces, **columns)


def test_recent_tokens_begin_with_the_root_and_end_where_the_answer_begins():
    traces = traces_of([[7, 8, 9, 7, 6, 5], [4, 3]], [[0] * 6, [0] * 2])
    none = NO_TOKEN
    assert traces.recent.tolist() == [
        [7, none, none, none],
        [8, 7, none, none],
        [9, 8, 7, none],
        [7, 9, 8, 7],
        [6, 7, 9, 8],
        [5, 6, 7, 9],
        [4, none, none, none],
        [3, 4, none, none],
    ]
    state = DraftState(max_depth=1, beam=1, scores=None)
    for answer in ([7], [7, 8, 9], [7, 8, 9, 7, 6], [4, 3]):
        state.continue_answer(answer)
        assert state.recent.tolist() == (answer[::-1] + [none] * RECENT)[:RECENT]


def test_a_suffix_leans_on_the_shorter_one():
    """Behind 1, three levels are accepted after 5 and none after 6."""
    traces = traces_of([[5, 1, 6, 1], [6, 1, 5, 1]], [[0, 3, 0, 0], [0, 0, 0, 3]])
    prior, _ = fit_suffix_prior(traces)
    overall = 2 / 8
    of_one = (2 + PSEUDO_COUNT * overall) / (4 + PSEUDO_COUNT)
    behind_five = (2 + PSEUDO_COUNT * of_one) / (2 + PSEUDO_COUNT)
    behind_six = PSEUDO_COUNT * of_one / (2 + PSEUDO_COUNT)
    asked = [[1, 9, 9, 9], [1, 5, 9, 9], [1, 6, 9, 9], [9, 1, 5, 9]]
    expected = [of_one, behind_five, behind_six, overall]
    assert np.allclose(prior.after(np.array(asked)), np.array(expected)[:, None])


def test_the_columns_count_one_three_and_eight_levels():
    traces = traces_of([[5] * 40], [[2] * 40], max_depth=10)
    assert LEVELS == (1, 3, 8)
    assert np.allclose(fit_suffix_prior(traces)[0].values[0], [1, 2 / 3, 2 / 8])


def test_at_its_own_positions_it_says_what_a_tree_of_the_other_answers_would():
    traces = synthetic_traces(sequences=6)
    _, held_out = fit_suffix_prior(traces)
    for answer in range(6):
        others, _ = fit_suffix_prior(without(traces, answer))
        own = traces.sequence == answer
        assert np.allclose(held_out[own], others.after(traces.recent[own]), atol=1e-6)


def test_a_single_answer_is_known_by_its_mean_alone():
    traces = synthetic_traces(sequences=1)
    prior, held_out = fit_suffix_prior(traces)
    assert np.allclose(held_out, prior.values[0], atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_kernels_find_the_same_suffix(seed):
    traces = synthetic_traces(seed=seed)
    prior, _ = fit_suffix_prior(traces)
    strange = np.random.default_rng(seed).integers(-1, 30, (200, RECENT))
    recent = np.concatenate([traces.recent, strange, np.full((1, RECENT), 2**31)])
    numbers = [suffix_number(prior.edges, row) for row in recent]
    assert np.array_equal(prior.values[numbers], prior.after(recent))
    assert len(set(numbers)) > 50 and 0 in numbers


def test_the_world_that_it_comes_from_leaves_answers_out_and_another_does_not():
    training, other = (ReplayWorld(synthetic_traces(seed=s), synthetic_profile(), (1, 2)) for s in (0, 1))
    prior, held_out = fit_suffix_prior(training.traces)
    assert np.array_equal(training.known_by(prior), held_out)
    assert np.array_equal(other.known_by(prior), prior.after(other.traces.recent))
    assert not np.allclose(held_out, prior.after(training.traces.recent))
