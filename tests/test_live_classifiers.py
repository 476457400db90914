"""Classifiers on a draft in progress, compiled and without Numba, against the replay of the same drafts."""

import dataclasses

import numpy as np
import pytest
import torch

from ltd import devices
from ltd.baselines import c2t, disco, specdecpp
from ltd.baselines.threshold import ThresholdController, ThresholdSettings, quantiles
from ltd.engine.tree import pool_size
from ltd.replay.simulator import RecordedState
from ltd.rl.policies import PolicyNetwork
from synthetic import synthetic_traces

BEAM, DEPTH = 3, 5


def recorded_states(traces, position):
    """The draft of a recorded position after every pass."""
    beam, scores = traces.beam, torch.from_numpy(traces.scores[position].copy())
    for depth in range(1, traces.max_depth + 1):
        yield RecordedState(
            max_depth=traces.max_depth,
            beam=beam,
            scores=scores.masked_fill(torch.arange(len(scores)) >= pool_size(beam, depth), -torch.inf),
            depth=depth,
            feature=torch.from_numpy(traces.features[position, depth - 1].astype(np.float32)),
            entropies=traces.entropy[position],
        )


@pytest.fixture(scope="module")
def drafts():
    """Hundreds of recorded drafts, half of them with scores that often tie."""
    traces = synthetic_traces(seed=5, sequences=10, beam=BEAM, max_depth=DEPTH, with_optional=True)
    scores = np.where(np.arange(len(traces))[:, None] % 2, np.round(traces.scores, 1), traces.scores)
    return dataclasses.replace(traces, scores=scores)


def network_of(inputs, hidden=32):
    rng = np.random.default_rng(inputs)
    inner = rng.normal(size=(hidden, inputs)), rng.normal(size=hidden)
    return PolicyNetwork([inner, (rng.normal(size=(1, hidden)) / 4, np.zeros(1))])


def head_of(width):
    torch.manual_seed(width)
    return specdecpp.AcceptanceHead(width, 48).eval()


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(
    ("rule", "network"), [(disco.RULE, network_of(BEAM + 2)), (specdecpp.RULE, head_of(8))]
)
def test_deployed_classifiers_stop_where_their_recorded_signal_does(
    rule, network, compiled, drafts, monkeypatch
):
    """At every level of every draft and for many thresholds, compiled and without Numba."""
    monkeypatch.setattr(devices, "has_numba", lambda: compiled)
    recorded = rule.signal(network).recorded(drafts)
    settings = ThresholdSettings(0.0, tuple(range(1, DEPTH)), DEPTH, 7)
    controller = ThresholdController(rule.name, settings, rule.signal(network), network)
    live = np.empty_like(recorded)
    for position in range(len(drafts)):
        for state in recorded_states(drafts, position):
            live[position, state.depth - 1] = controller.signal.live(state)
    assert len(live) > 300 and np.unique(live).size > 1000
    np.testing.assert_allclose(live, recorded, rtol=1e-5)
    thresholds = quantiles(recorded, 50)
    others = sum(((live < threshold) != (recorded < threshold)).sum() for threshold in thresholds)
    # Two signals that differ by rounding alone may have a threshold between them.
    assert others <= 1e-5 * live.size * len(thresholds)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("max_size", [1, 5, 60])
def test_deployed_pruning_keeps_as_many_nodes_as_replay(max_size, compiled, drafts, monkeypatch):
    monkeypatch.setattr(devices, "has_numba", lambda: compiled)
    network, sizes, others = network_of(2), set(), 0
    for depth in range(1, DEPTH + 1):
        confidence = c2t.recorded_confidence(network, drafts, depth, max_size)
        least = quantiles(confidence, 5)[2]  # in the middle, between two values
        settings = c2t.PruningSettings(least, depth, max_size)
        controller = c2t.PruningController("c2t", settings, network)
        for position in range(len(drafts)):
            (state,) = (s for s in recorded_states(drafts, position) if s.depth == depth)
            chosen = controller.choose_size(state)
            sizes.add(chosen)
            if chosen != max((confidence[position] > least).sum(), 1):
                others += 1
                assert np.abs(confidence[position] - least).min() < 1e-6
    assert len(sizes) > min(max_size, 10) / 2
    # Two confidences that differ by rounding alone may have the least between them.
    assert others <= 2
