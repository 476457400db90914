"""Calibration of the draft's probabilities, by which the marginal rule weighs nodes."""

import dataclasses

import numpy as np
import pytest

from ltd.opponents.calibration import calibrate, isotonic
from synthetic import synthetic_traces


def test_isotonic_regression_pools_what_descends():
    assert isotonic(np.array([1.0, 3.0, 2.0, 4.0]), np.ones(4)).tolist() == [1, 2.5, 2.5, 4]
    assert isotonic(np.array([3.0, 0.0, 1.0]), np.array([1.0, 2.0, 3.0])).tolist() == [1, 1, 1]


def test_calibration_undoes_an_overconfident_draft():
    """Where every log-probability is halved, its true chance is found from recorded outcomes alone."""
    traces = synthetic_traces(seed=3, sequences=300)
    honest = calibrate(traces)
    distorted = calibrate(dataclasses.replace(traces, scores=traces.scores * np.float32(0.5)))
    for place, chance in ((0, 0.5), (0, 0.8), (1, 0.2), (1, 0.3), (2, 0.1)):
        assert honest.of_level(1, np.full((1, 3), np.log(chance)))[0, place] == pytest.approx(
            chance, abs=0.03
        )
        halved = distorted.of_level(1, np.full((1, 3), np.log(chance) / 2))
        assert halved[0, place] == pytest.approx(chance, abs=0.03)
    assert (np.diff(honest.chances, axis=-1) >= 0).all()


def test_calibration_knows_that_the_best_of_equals_is_better():
    """All nodes of a level look alike, and only the first is ever right."""
    traces = synthetic_traces(seed=3, sequences=40)
    true_node = np.where(traces.true_node >= 0, np.array([0, 4, 20, 36, 52, 68]), -1).astype(np.int32)
    scores = np.full_like(traces.scores, -2.0)
    scores[:, [0, 4, 20, 36, 52, 68]] = -1.99
    share = (true_node[:, 0] >= 0).mean()
    chances = calibrate(dataclasses.replace(traces, scores=scores, true_node=true_node)).of_level(
        1, np.full((1, 4), -2.0)
    )
    assert chances[0].tolist() == pytest.approx([share, 0, 0, 0], abs=1e-9)


def test_nothing_past_the_end_of_an_answer_counts_as_rejected():
    """A draft whose best node is always right, before answers of which most end soon."""
    traces = synthetic_traces(seed=3, sequences=40, answer_tokens=(3, 8))
    best = np.array([0, 4, 20, 36, 52, 68])
    known = np.arange(6) < traces.tokens_left[:, None]
    scores = np.full_like(traces.scores, -4.0)
    scores[:, best] = -0.1
    right = dataclasses.replace(traces, scores=scores, true_node=np.where(known, best, -1).astype(np.int32))
    calibration = calibrate(right)
    for level in range(1, 7):
        assert calibration.of_level(level, np.full((1, 1), -0.1))[0, 0] == pytest.approx(1)
