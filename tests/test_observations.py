"""Observations: values by hand, and the same numbers live and in replay."""

import dataclasses

import numpy as np
import pytest
import torch

from ltd.engine.controllers import DraftState
from ltd.engine.tree import pool_size
from ltd.errors import InputError
from ltd.rl import OBSERVATION_PARTS
from ltd.rl.observations import PARTS, DraftView, Levels, ObservationSpec
from ltd.rl.policies import Policy, PolicyNetwork
from ltd.rl.policy_controller import PolicyController
from ltd.rl.replay_walk import ReplayWorld
from ltd.rl.suffix_prior import LEVELS, SuffixPrior
from ltd.rl.worlds import observation_in
from synthetic import synthetic_profile, synthetic_traces

SIZES = (1, 2, 4, 30)
PRIOR = SuffixPrior(np.array([2, 3]), np.arange(9, dtype=np.float32).reshape(3, 3))


def view(scores, depth, context=7):
    scores = np.asarray(scores, dtype=np.float32)
    ones = np.ones(len(scores))
    hidden, suffix = np.ones((len(scores), 5)), np.ones((len(scores), len(LEVELS)))
    return DraftView(scores, depth, np.full(len(scores), context), ones, hidden=hidden, suffix=suffix)


def observe(part, scores, depth, beam=2, max_depth=3, top=3):
    return ObservationSpec((part,), beam, max_depth, SIZES, top).observe(view(scores, depth))


# Beam 2, depth 3: levels at 0..1, 2..5, 6..9; numbers beyond the depth must not matter.
SCORES = -np.asarray([[1, 2, 3, 4, 5, 6, 0, 0, 0, 0.0]])


def test_widths_are_what_is_observed():
    assert tuple(PARTS) == OBSERVATION_PARTS
    for part in PARTS.keys() - {"machine"}:
        spec = ObservationSpec((part,), 2, 3, SIZES, 4, 5, PRIOR)
        assert spec.observe(view(SCORES, 2)).shape == (1, spec.width), part


def test_paper_parts_are_the_raw_scores_zero_padded():
    assert np.array_equal(observe("nodes", SCORES, 2)[0], [-1, -2, -3, -4, -5, -6, 0, 0, 0, 0])
    assert np.array_equal(observe("level", SCORES, 2)[0], [-3, -4, -5, -6])
    assert np.array_equal(observe("level", SCORES, 1)[0], [-1, -2, 0, 0])
    assert np.array_equal(observe("level", SCORES, 0)[0], [0, 0, 0, 0])


def test_summaries_of_the_tree():
    sums = np.exp(-np.arange(1.0, 7.0)).cumsum()[[0, 1, 3, 5]]
    assert np.allclose(observe("mass", SCORES, 2)[0] * 4, sums)
    by_level = np.asarray([[1, 2, np.inf], [3, 4, 5], [np.inf] * 3])
    assert np.allclose(observe("levels", SCORES, 2)[0], np.exp(-by_level).ravel())
    assert np.array_equal(observe("one_hot_depth", SCORES, 2)[0], [0, 0, 1, 0])
    assert np.allclose(observe("length", SCORES, 2)[0], [0.007])
    for part in ("mass", "levels"):
        assert not observe(part, SCORES, 0).any()


def test_hidden_states_have_one_scale_and_none_is_there_before_a_pass():
    spec = ObservationSpec(("hidden",), 2, 3, SIZES, hidden_size=2)
    drafts = view(SCORES, 1)
    for scale in (0.25, 1.0, 64.0):
        drafts.hidden = np.array([[3.0, -4.0]]) * scale
        assert np.allclose(spec.observe(drafts)[0], np.array([3, -4]) / np.sqrt(12.5))
    drafts.hidden = np.zeros((1, 2))
    assert not spec.observe(drafts).any()
    drafts.depth, drafts.hidden = 0, None
    assert not spec.observe(drafts).any()


def test_equal_trees_of_suffixes_are_one_observation():
    specs = {
        ObservationSpec(("suffix",), 2, 3, SIZES, suffix_prior=SuffixPrior(PRIOR.edges, PRIOR.values.copy()))
        for _ in range(2)
    }
    others = SuffixPrior(PRIOR.edges, PRIOR.values + 1), SuffixPrior(PRIOR.edges + 1, PRIOR.values)
    assert len(specs) == 1
    for other in others:
        assert ObservationSpec(("suffix",), 2, 3, SIZES, suffix_prior=other) not in specs


def test_a_summary_that_grows_equals_one_made_at_once():
    spec = ObservationSpec(("levels",), 2, 3, SIZES)
    growing = view(np.random.default_rng(0).normal(size=(5, 10)), 1)
    growing.levels = Levels(5, spec)
    for depth in (1, 2, 3):
        growing.depth = depth
        assert np.array_equal(spec.observe(growing), spec.observe(view(growing.scores, depth)))


def test_live_and_replayed_observations_are_identical():
    traces = synthetic_traces(with_optional=True)
    world = ReplayWorld(traces, synthetic_profile(), SIZES)
    parts = ("nodes", "level", "mass", "levels", "one_hot_depth", "length", "entropy", "hidden", "suffix")
    # Another world's: its own would leave every answer out of its own means.
    others = ReplayWorld(synthetic_traces(seed=1), synthetic_profile(), SIZES).suffix_prior
    spec = dataclasses.replace(observation_in(world, parts, SIZES), suffix_prior=others)
    network = PolicyNetwork([(np.zeros((len(SIZES), spec.width)), np.zeros(len(SIZES)))])
    controller = PolicyController(1, Policy("size", network, spec, SIZES))
    controller.begin(0)
    rng = np.random.default_rng(1)
    for position in rng.integers(len(traces), size=40):
        depth = int(rng.integers(1, traces.max_depth + 1))
        scores = torch.from_numpy(traces.scores[position].copy())
        scores[pool_size(traces.beam, depth) :] = -torch.inf
        state = DraftState(traces.max_depth, traces.beam, scores, depth, int(traces.context_length[position]))
        state.recent = traces.recent[position]
        state.feature = torch.from_numpy(traces.features[position, depth - 1].astype(np.float32))
        state.entropy = lambda p=position, d=depth: float(traces.entropy[p, d - 1])
        controller.accepted(0)
        live = controller._observers[-1].observe(state)
        replayed = world.observations(spec).rows(position, depth)
        assert np.array_equal(live, replayed)


def test_wrong_parts_are_refused():
    with pytest.raises(InputError, match="'weather' is unknown"):
        ObservationSpec(("weather",), 2, 3, SIZES)
    with pytest.raises(InputError, match="no hidden states; record them with features"):
        ObservationSpec(("hidden",), 2, 3, SIZES)
    with pytest.raises(InputError, match="'suffix': its tree is missing"):
        ObservationSpec(("suffix",), 2, 3, SIZES)
    with pytest.raises(InputError, match="no entropy"):
        ReplayWorld(synthetic_traces(), synthetic_profile(), SIZES).observations(
            ObservationSpec(("entropy", "mass"), 4, 6, SIZES)
        )
