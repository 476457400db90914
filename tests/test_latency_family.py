"""Machines made up from a measured one: what changes, what stays, and many of them side by side."""

import numpy as np
import pytest

from ltd.errors import InputError
from ltd.replay.dense_latency import dense_latency
from ltd.replay.latency import LatencyProfile
from ltd.replay.latency_family import (
    SLOWER_GROWTH,
    Change,
    changed,
    draw_changes,
    draw_family,
    side_by_side,
)
from ltd.tracking import StageRun
from ltd.vary_profile import VaryProfileOptions, vary_profile
from synthetic import synthetic_profile

CONTEXT = np.array([16, 100, 256])
SIZES = np.arange(1, 61)[:, None]


def test_no_change_is_the_measured_machine():
    measured = synthetic_profile()
    same = changed(measured, Change())
    for depth, size in ((0, 1), (1, 1), (4, 17), (6, 60)):
        assert np.allclose(
            same.cycle_seconds(depth, size, CONTEXT, 3, 1, 1),
            measured.cycle_seconds(depth, size, CONTEXT, 3, 1, 1),
        )
    assert "made up" in same.device


def test_slower_growth_keeps_the_autoregressive_step():
    measured = synthetic_profile()
    step = measured.autoregressive_step(CONTEXT)
    slower = changed(measured, Change(slower_growth=10))
    assert np.array_equal(slower.autoregressive_step(CONTEXT), step)
    grown = measured.verify(SIZES, CONTEXT) - step
    assert np.allclose(slower.verify(SIZES, CONTEXT), step + grown / 10)


def test_drafting_and_rest_are_scaled():
    measured, scaled = synthetic_profile(), changed(synthetic_profile(), Change(draft=0.5, rest=2.0))
    assert np.allclose(scaled.draft_step(3, CONTEXT), measured.draft_step(3, CONTEXT) / 2)
    assert np.allclose(scaled.draft_prefix(5, CONTEXT), measured.draft_prefix(5, CONTEXT) / 2)
    assert np.allclose(scaled.rest(8, CONTEXT), measured.rest(8, CONTEXT) * 2)
    assert np.allclose(scaled.verify(8, CONTEXT), measured.verify(8, CONTEXT))


def test_buckets_make_a_staircase():
    measured = synthetic_profile()
    padded = changed(measured, Change(buckets=(8, 16, 32, 64)))
    tops = np.array([next(b for b in (8, 16, 32, 60) if size <= b) for size in SIZES[:, 0]])
    assert np.allclose(padded.verify(SIZES, CONTEXT), measured.verify(tops[:, None], CONTEXT))


def test_draws_lie_within_the_ranges_and_differ():
    changes = draw_changes(400, 60, np.random.default_rng(0))
    growth = np.array([change.slower_growth for change in changes])
    assert SLOWER_GROWTH[0] <= growth.min() < 0.6 and 16 < growth.max() <= SLOWER_GROWTH[1]
    # Even on the logarithmic scale: half of the machines below the geometric mean.
    assert abs((growth < np.sqrt(10)).mean() - 0.5) < 0.08
    padded = [change.buckets for change in changes if change.buckets]
    assert 0.4 < len(padded) / len(changes) < 0.6 and len(set(padded)) == 7
    assert all(list(buckets) == sorted(buckets) and buckets[-1] < 60 for buckets in padded)


def test_same_seed_same_family():
    families = [draw_family(synthetic_profile(), 5, seed) for seed in ((0, 1), (0, 1), (0, 2))]
    times = [[one.verify(30, 50) for one in family] for family in families]
    assert times[0] == times[1] != times[2]


def test_machines_side_by_side_keep_their_times():
    family = draw_family(synthetic_profile(), 3, (0,))
    dense = [dense_latency(one, 6, 60, 99) for one in family]
    joined = side_by_side(dense)
    depth, size = np.arange(7)[:, None, None], np.array([1, 9, 60])[:, None]
    context = np.array([0, 50, 99])
    for machine, alone in enumerate(dense):
        expected = alone.cycle_seconds(depth, size, context, 40, 2, 1)
        assert np.array_equal(joined.cycle_seconds(depth, size, context + 100 * machine, 40, 2, 1), expected)


def test_a_changed_profile_is_written_and_read(tmp_path):
    measured, output = tmp_path / "measured.json", tmp_path / "slower.json"
    synthetic_profile().save(measured)
    vary_profile(VaryProfileOptions(profile=measured, output=output, slower_growth=3.0), StageRun())
    expected = synthetic_profile().slower_growth_of_verification(3)
    assert np.allclose(LatencyProfile.load(output).verify(SIZES, CONTEXT), expected.verify(SIZES, CONTEXT))
    with pytest.raises(InputError, match="slower_growth: 0"):
        vary_profile(VaryProfileOptions(profile=measured, output=output, slower_growth=0.0), StageRun())
