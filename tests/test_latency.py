"""Latency profile: interpolation, refusals, dense tables equal to the profile."""

import json
import warnings

import numpy as np
import pytest

from ltd.errors import InputError
from ltd.replay.dense_latency import check_together, dense_for, dense_latency
from ltd.replay.latency import VERSION, LatencyProfile, LatencyTable
from synthetic import synthetic_profile, synthetic_traces


@pytest.fixture
def profile():
    return synthetic_profile()


def test_measured_points_come_back(profile):
    for name, table in profile.tables.items():
        look_up = getattr(profile, name)
        if name.endswith("_policy"):  # whatever the context
            assert look_up * 1e3 == pytest.approx(np.median(table.ms), rel=1e-12)
            continue
        for i, point in enumerate(table.axis):
            for j, context in enumerate(profile.context_lengths):
                steps = name in ("autoregressive_step", "plain_step")
                seconds = look_up(context) if steps else look_up(point, context)
                assert seconds * 1e3 == pytest.approx(table.ms[i][j], rel=1e-12)


def test_linear_between_points_and_clamped_contexts(profile):
    ms = np.array(profile.tables["verify"].ms)
    low, high = profile.tables["verify"].axis.index(4), profile.tables["verify"].axis.index(8)
    middle = (ms[low, 0] + ms[high, 0]) / 2
    assert profile.verify(6, 16) * 1e3 == pytest.approx(middle)
    assert profile.verify(6, 40) * 1e3 == pytest.approx((ms[[low, high]][:, :2]).mean())
    assert profile.verify(6, 0) == profile.verify(6, 16)
    assert profile.verify(6, 10_000) == profile.verify(6, 256)


def test_many_prefix_rows_follow_the_last_slope(profile):
    slope = profile.draft_prefix(16, 16) - profile.draft_prefix(15, 16)
    assert profile.draft_prefix(100, 16) == pytest.approx(profile.draft_prefix(16, 16) + 84 * slope)


def test_more_prefix_rows_never_take_less(profile):
    """Where the last measured point was quicker than the one before, its time stands for more rows."""
    prefix = profile.tables["draft_prefix"]
    falling = [*prefix.ms[:-1], [ms / 2 for ms in prefix.ms[-2]]]
    profile = profile.replace_table("draft_prefix", LatencyTable(prefix.axis, falling))
    assert profile.draft_prefix(100, 16) == profile.draft_prefix(16, 16)


def test_larger_networks_never_take_less(profile):
    table = LatencyTable([100, 500], [[3.0] * 3, [1.0] * 3])
    for name in ("depth_policy", "size_policy"):
        profile = profile.replace_table(name, table)
    charged = profile.with_networks({"depth": 900, "size": 500})
    assert charged.depth_policy == charged.size_policy == pytest.approx(1e-3)


def test_the_largest_size_is_one_that_both_tables_time(profile):
    assert profile.max_size == 60
    for name in ("verify", "rest"):
        table = profile.tables[name]
        kept = [size for size in table.axis if size <= 32]
        shorter = profile.replace_table(name, LatencyTable(kept, table.ms[: len(kept)]))
        assert shorter.max_size == 32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.verify(61, 20), "tables.verify: 61"),
        (lambda p: p.verify(np.array([3, 0]), 20), "tables.verify: 0"),
        (lambda p: p.draft_step(7, 20), "tables.draft_step: 7"),
        (lambda p: p.cycle_seconds(7, 3, 20), "max_depth: depth 7"),
        (lambda p: dense_latency(p, 7, 10, 20), "max_depth: depth 7"),
        (lambda p: dense_latency(p, 6, 61, 20), "tables.verify: 61"),
    ],
)
def test_outside_is_refused(profile, call, message):
    with pytest.raises(InputError, match=message):
        call(profile)


def test_cycle_is_the_sum_of_its_parts(profile):
    expected = profile.draft_prefix(3, 50) + profile.draft_step(2, 50) + profile.draft_step(3, 50)
    expected += profile.verify(10, 50) + profile.rest(10, 50)
    assert profile.cycle_seconds(3, 10, 50, 3) == pytest.approx(expected, rel=1e-12)
    policy = 4 * profile.depth_policy + profile.size_policy
    assert profile.cycle_seconds(3, 10, 50, 3, 4, 1) == pytest.approx(expected + policy, rel=1e-12)
    assert profile.cycle_seconds(0, 10, 50, 3) == profile.cycle_seconds(0, 0, 50, 0) == profile.plain_step(50)
    # A tree of depth 1 has 4 nodes: more cannot be verified.
    assert profile.cycle_seconds(1, 60, 50) == profile.cycle_seconds(1, 4, 50)


def test_dense_tables_equal_the_profile(profile):
    rng = np.random.default_rng(0)
    dense = dense_latency(profile, 6, 60, 300)
    depth, size, context = rng.integers(0, 7, 500), rng.integers(1, 61, 500), rng.integers(0, 301, 500)
    rows, asked, sized = rng.integers(1, 40, 500), rng.integers(0, 8, 500), rng.integers(0, 2, 500)
    arguments = (depth, size, context, rows, asked, sized)
    np.testing.assert_allclose(dense.cycle_seconds(*arguments), profile.cycle_seconds(*arguments), rtol=1e-12)


def test_saved_profile_is_the_same(profile, tmp_path):
    profile.save(tmp_path / "profile.json")
    loaded = LatencyProfile.load(tmp_path / "profile.json")
    assert loaded.tables == profile.tables
    assert json.loads((tmp_path / "profile.json").read_text())["version"] == VERSION


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda v: v.pop("beam"), "beam: missing"),
        (lambda v: v["tables"].pop("rest"), "tables.rest: missing"),
        (lambda v: v["tables"]["rest"]["ms"].pop(), "tables.rest: ms has shape"),
        (
            lambda v: v["tables"]["rest"]["axis"].reverse(),
            "tables.rest: axis and context_lengths must increase",
        ),
        (
            lambda v: v["tables"]["verify"]["ms"][0].__setitem__(0, float("nan")),
            "tables.verify: ms must be finite",
        ),
        (lambda v: v.update(version=7), "version"),
    ],
)
def test_damaged_profile_is_refused(profile, tmp_path, damage, message):
    path = tmp_path / "profile.json"
    profile.save(path)
    value = json.loads(path.read_text())
    damage(value)
    path.write_text(json.dumps(value))
    with pytest.raises(InputError, match=message) as error:
        LatencyProfile.load(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_slower_growth_keeps_the_autoregressive_step(profile):
    slower = profile.slower_growth_of_verification(3.0)
    base = profile.autoregressive_step(64)
    assert slower.autoregressive_step(64) == base
    assert slower.verify(32, 64) - base == pytest.approx((profile.verify(32, 64) - base) / 3)


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_slower_growth_never_makes_verification_slower(factor):
    """Also where a step of plain decoding takes longer than small verifications, as it does on a GPU."""
    profile = synthetic_profile()
    step = LatencyTable([1], [[1.3, 1.0, 2.0]])
    changed = profile.replace_table("autoregressive_step", step).slower_growth_of_verification(factor)
    before, after = (np.array(one.tables["verify"].ms) for one in (profile, changed))
    assert (after <= before).all() == (factor > 1) and (after >= before).all() == (factor < 1)
    growth, expected = np.diff(after, axis=0), np.diff(before, axis=0) / factor
    np.testing.assert_allclose(growth, expected, rtol=1e-9)
    assert changed.tables["autoregressive_step"] == step


@pytest.mark.parametrize("key", ["target_hash", "draft_hash", "beam", "max_depth"])
def test_profile_of_something_else_is_refused(key):
    traces = synthetic_traces(sequences=2)
    check_together(traces, synthetic_profile())
    other = {"beam": {"beam": 3}, "max_depth": {"max_depth": 5}}
    changed = synthetic_profile(**other.get(key, {}))
    if key.endswith("hash"):
        object.__setattr__(changed, key, "another")
    with pytest.raises(InputError, match=f"{key}: "):
        dense_for(traces, changed, 10)
    object.__setattr__(changed, key, None if key.endswith("hash") else getattr(traces, key))
    check_together(traces, changed)


def test_a_profile_of_wider_trees_is_one_of_something_else():
    with pytest.raises(InputError, match="beam: "):
        dense_for(synthetic_traces(sequences=2), synthetic_profile(beam=5), 10)


def test_contexts_inside_the_profile_raise_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dense_for(synthetic_traces(sequences=2), synthetic_profile(), 10)
