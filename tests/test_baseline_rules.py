"""Published baselines: each rule on a hand-made tree, and what its classifier learns from."""

import dataclasses

import numpy as np
import pytest
import torch

from baseline_data import BEAM, DEPTH, LEVELS, SIZES, data_of, depth_chosen, state_at, threshold_controller
from ltd import devices
from ltd.baselines import FITTED, PUBLISHED, c2t, classifier, ddd, disco, gammatune, specdecpp, svip
from ltd.baselines.catalogue import BASELINES
from ltd.baselines.threshold import between, quantiles
from ltd.baselines.variants import level_of_nodes
from ltd.engine.tree import pool_size
from ltd.errors import InputError
from ltd.replay.simulator import RecordedState
from ltd.replay.traces import NO_RANK
from ltd.rl.policies import PolicyNetwork
from ltd.rl.replay_walk import ReplayWorld
from synthetic import synthetic_profile, synthetic_traces


@pytest.mark.parametrize(
    ("kept", "checkpoints", "max_depth", "depth"),
    [
        (0.7, (1, 2), 3, 2),  # 0.9 goes on, 0.6 stops
        (0.95, (1, 2), 3, 1),
        (0.5, (1, 2), 3, 3),
        (0.95, (2,), 3, 2),  # not asked after the first level
        (0.95, (5, 7, 9), 3, 3),
        (0.5, (1, 2), 2, 2),
    ],
)
def test_ddd_stops_where_the_beam_holds_too_little(kept, checkpoints, max_depth, depth):
    controller = threshold_controller(ddd.RULE, np.log(kept), checkpoints, max_depth)
    assert depth_chosen(controller, [state_at(d) for d in range(4)]) == depth
    assert controller.choose_size(state_at(depth)) == 7


def test_ddd_signal_is_the_probability_on_the_beam():
    masses = [np.exp(ddd.BeamMass().live(state_at(depth))) for depth in (1, 2, 3)]
    np.testing.assert_allclose(masses, [0.9, 0.6, 0.35], rtol=1e-6)


def test_svip_goes_on_up_to_the_entropy_of_its_bound():
    """1 - sqrt(0.15 H) >= 0.3 holds up to H = 0.49 / 0.15 = 3.267 nats."""
    controller = threshold_controller(svip.RULE, svip.RULE.published_threshold)
    assert depth_chosen(controller, [state_at(0), state_at(1, 3.26), state_at(2, 0.1), None]) == 3
    assert depth_chosen(controller, [state_at(0), state_at(1, 0.2), state_at(2, 3.27), None]) == 2
    assert depth_chosen(controller, [state_at(0), state_at(1, 3.27), None, None]) == 1


def test_gammatune_follows_what_is_accepted():
    controller = gammatune.GammaController("gammatune", gammatune.GammaSettings(8, 0.2, 1, 12, 60))
    gammas, depths = [], []
    for accepted in (8, 2, 2, 0, 0, 0, 0, 0, 0):
        depths.append(controller.depth)
        controller.accepted(accepted)
        gammas.append(controller.gamma)
    # All accepted: 0.8 * 8 + 0.2 * 9; then 0.8 * 8.2 + 0.2 * 3, and so on down to half the default.
    np.testing.assert_allclose(gammas[:4], [8.2, 7.16, 6.328, 5.2624])
    assert depths[:4] == [8, 8, 7, 6] and gammas[-1] == 4.0
    for _ in range(60):
        controller.accepted(controller.depth)
    assert controller.gamma == pytest.approx(12.0) and controller.depth == 12
    controller.begin(5)
    assert controller.depth == 8
    assert [controller.continue_drafting(state_at(d)) for d in (0, 3)] == [True, True]


@pytest.mark.parametrize("rate", [0.05, 0.4])
def test_gammatune_moves_a_gamma_as_those_of_replay(rate):
    rng, settings = np.random.default_rng(0), gammatune.GammaSettings(5, rate, 2, 7, 60)
    controller = gammatune.GammaController("gammatune", settings)
    gamma, depths = np.array([5.0]), set()
    for _ in range(500):
        depth = gammatune.depth_of(gamma, settings.max_depth)
        count = rng.integers(0, depth + 1) if rng.random() < 0.8 else depth
        assert controller.depth == depth[0]
        controller.accepted(int(count[0]))
        gamma = gammatune.next_gamma(gamma, depth, count, 5, rate, 2)
        assert controller.gamma == gamma[0]
        depths.add(controller.depth)
    assert len(depths) > 2


def test_disco_sees_the_best_scores_the_entropy_and_the_depth():
    scores = state_at(2).scores[2:6].numpy()[None]
    inputs = disco.level_inputs(scores, np.array([1.5]), 2, beam=2)
    np.testing.assert_allclose(inputs, [[np.log(0.4), np.log(0.2), 1.5, 0.2]], rtol=1e-6)
    # A network that looks at the best score alone: P(accepted) = sigmoid(8 + 10 log s), 0.5 at s = 0.449.
    network = PolicyNetwork([(np.array([[10.0, 0, 0, 0]]), np.array([8.0]))])
    controller = threshold_controller(disco.RULE, 0.5, network=network)
    assert depth_chosen(controller, [state_at(d) for d in range(4)]) == 2


def test_labels_are_the_levels_that_the_accepted_path_reaches():
    traces = synthetic_traces(beam=BEAM, max_depth=DEPTH)
    for size in (1, 4, 20):
        for depth in range(1, DEPTH + 1):
            accepted = (traces.ranks[:, depth - 1] < size).sum(axis=1)
            np.testing.assert_array_equal(classifier.reached(traces, size)[:, depth - 1], accepted == depth)


def test_classifiers_learn_from_as_many_accepted_as_rejected():
    labels = np.arange(100) < 10
    chosen = classifier.balanced(labels, 50, np.random.default_rng(0), "disco")
    assert len(chosen) == 20 == len(set(chosen)) and labels[chosen].sum() == 10
    assert len(classifier.balanced(labels, 4, np.random.default_rng(0), "disco")) == 8
    with pytest.raises(InputError, match="disco: no rejected draft token"):
        classifier.balanced(np.ones(3, dtype=bool), 4, np.random.default_rng(0), "disco")


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(
    ("threshold", "depth"),
    [
        (0.95, 2),  # the first level's 0.1 does not count; 0.9 stops
        (0.75, 3),  # 0.9 goes on, 0.9 * 0.8 stops
        (0.7, 4),
    ],
)
def test_specdecpp_multiplies_along_the_path_from_the_second_level_on(
    threshold, depth, compiled, monkeypatch
):
    """With P = sigmoid(x) a level and 0.1, 0.9, 0.8: no rejection so far with 1, then 0.9, then 0.72."""
    monkeypatch.setattr(devices, "has_numba", lambda: compiled)
    head = specdecpp.AcceptanceHead(1, 1)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
        head.skip.weight.fill_(1.0)
        head.output.weight.fill_(1.0)
    logits = torch.logit(torch.tensor([0.1, 0.9, 0.8, 0.5]))
    states = [state_at(0), *(state_at(d, feature=logits[d - 1 : d]) for d in (1, 2, 3, 4))]
    published = specdecpp.RULE.published(data_of(synthetic_traces(beam=BEAM, max_depth=4)))
    assert [d for d in range(4) if d in published.asked] == [2, 3]
    controller = threshold_controller(specdecpp.RULE, threshold, published.checkpoints, 4, head)
    for _ in range(2):  # the next cycle starts anew
        assert [controller.continue_drafting(states[d]) for d in range(depth)] == [True] * depth
        assert not controller.continue_drafting(states[depth])


def test_specdecpp_never_judges_the_first_level():
    traces = synthetic_traces(beam=BEAM, max_depth=DEPTH, with_optional=True)
    signal = specdecpp.RULE.signal(specdecpp.AcceptanceHead(8, 4)).recorded(traces)
    assert (signal[:, 0] == 1).all() and (signal[:, 1:] < 1).all()
    fitted = specdecpp.RULE.fit(data_of(traces))
    assert all(1 not in variant.settings["checkpoints"] for variant in fitted.values())


def test_specdecpp_learns_each_level_given_the_one_before(monkeypatch):
    traces, seen = synthetic_traces(beam=BEAM, max_depth=DEPTH, with_optional=True), {}
    monkeypatch.setattr(
        specdecpp, "train_network", lambda head, inputs, labels, *_: seen.update(labels=labels)
    )
    specdecpp.train(data_of(traces), 4)
    arrived, within = classifier.reached(traces, 4), classifier.known(traces)
    before = np.column_stack([np.ones(len(traces), bool), arrived[:, :-1]])
    expected = arrived[before & within]
    assert len(seen["labels"]) == len(expected) and seen["labels"].sum() == expected.sum()


@pytest.mark.parametrize("module", [disco, specdecpp, c2t])
def test_classifiers_learn_nothing_past_the_end_of_an_answer(module, monkeypatch):
    """What is drafted there is neither accepted nor rejected: the same answers, cut, give fewer samples."""
    counts = []
    monkeypatch.setattr(module, "train_network", lambda head, inputs, labels, *_: counts.append(len(labels)))
    traces = synthetic_traces(beam=BEAM, max_depth=DEPTH, with_optional=True)
    for left in (np.full(len(traces), DEPTH), np.ones(len(traces), int), np.zeros(len(traces), int)):
        cut = dataclasses.replace(traces, tokens_left=left.astype(np.int32))
        if module is c2t:
            c2t.RULE.train(data_of(cut), DEPTH, SIZES[-1])
        else:
            module.train(data_of(cut), 4)
    assert counts[0] > counts[1] > counts[2] == 0
    if module is disco:
        assert counts[:2] == [DEPTH * len(traces), len(traces)]


@pytest.mark.parametrize(
    ("confidence", "max_size", "size"), [(0.5, 10, 3), (0.5, 2, 2), (0.999, 10, 1), (0.0, 10, 10)]
)
def test_c2t_verifies_as_many_nodes_as_the_classifier_keeps(confidence, max_size, size):
    """Confident above 0.5: probability times exp(-level) above 0.03; so are 0.6, 0.3 and 0.4, no other."""
    network = PolicyNetwork([(np.array([[1.0, -10.0]]), np.array([-np.log(0.03)]))])
    controller = c2t.PruningController("c2t", c2t.PruningSettings(confidence, 3, max_size), network)
    assert depth_chosen(controller, [state_at(d) for d in range(4)]) == 3
    assert controller.choose_size(state_at(3)) == size


def test_levels_of_nodes():
    assert level_of_nodes(2, 10).tolist() == [1, 1, 2, 2, 2, 2, 3, 3, 3, 3]


def test_thresholds_lie_between_values_and_one_below_all():
    values = np.array([[0.1, 0.5], [0.5, 0.9]])
    assert quantiles(values, 5) == pytest.approx([-0.9, 0.3, 0.7])


@pytest.mark.parametrize("count", [3, 24])
def test_as_many_thresholds_as_asked_for_split_the_values_evenly(count):
    values = np.random.default_rng(0).normal(size=(240, 2))
    thresholds = quantiles(values, count)
    assert len(thresholds) == count and thresholds[0] < values.min()
    parts = np.histogram(values, [*thresholds, np.inf])[0]
    assert parts.sum() == values.size and np.ptp(parts) <= 1


PUBLISHED_CONSTANTS = {
    "ddd": {"threshold": -0.3, "checkpoints": (5, 7, 9), "max_depth": 12, "size": 16},
    "svip": {"threshold": 0.3, "checkpoints": tuple(range(1, 12)), "max_depth": 12, "size": 16},
    "gammatune": {"default_depth": 8, "rate": 0.2, "probe": 1, "max_depth": 12, "size": 16},
    "disco": {"threshold": 0.5, "checkpoints": tuple(range(1, 12)), "max_depth": 12, "size": 16},
    "specdecpp": {"threshold": 0.3, "checkpoints": tuple(range(2, 12)), "max_depth": 12, "size": 16},
    "c2t": {"confidence": 0.5, "depth": 8, "max_size": 16},
}


@pytest.mark.parametrize("name", BASELINES)
def test_published_variants_have_the_constants_of_the_papers(name):
    traces = synthetic_traces(sequences=4, beam=2, max_depth=12, with_optional=True)
    data = dataclasses.replace(data_of(traces, synthetic_profile(2, 12)), sizes=(2, 8), thresholds=3)
    variant = BASELINES[name].fit(data)[PUBLISHED]
    assert variant.settings == PUBLISHED_CONSTANTS[name]


@pytest.mark.parametrize(("largest", "deepest"), [(8, 8), (24, 12)])
def test_c2t_learns_from_the_trees_that_it_prunes(monkeypatch, largest, deepest):
    """The fitted variant, which may choose any, from the deepest and largest; the published from its own."""
    seen = []

    def noted(module, inputs, labels, *_):
        levels = 10 * inputs(np.arange(len(labels)))[:, 1]
        seen.append((round(levels.max()), len(labels)))

    monkeypatch.setattr(c2t, "train_network", noted)
    traces = synthetic_traces(sequences=4, answer_tokens=(80, 120), beam=2, max_depth=12)
    data = dataclasses.replace(data_of(traces), sizes=(2, largest), thresholds=3)
    world = ReplayWorld(traces, synthetic_profile(2, 12), (1, max(largest, data.published_size)))
    data = dataclasses.replace(data, world=world)
    for depth, size in ((12, largest), (8, data.published_size)):
        c2t.RULE.train(data, depth, size)
    c2t.RULE.fit(data)
    assert seen[2:] == seen[:2] and [level for level, _ in seen[:2]] == [deepest, 8]
    assert (seen[0][1] > seen[1][1]) == (largest > data.published_size)


def test_ddd_may_look_where_the_papers_do():
    """Half the drafts are accepted up to level 5, half as a whole; the signal tells them apart at 5, 7 and 9,
    and would stop every draft elsewhere.
    """
    traces = synthetic_traces(beam=2, max_depth=10)
    whole = np.random.default_rng(0).random(len(traces)) < 0.5
    ranks = np.where(np.tri(10, dtype=bool), traces.ranks.dtype.type(0), NO_RANK)  # none below the tree
    ranks = np.repeat(ranks[None], len(traces), axis=0)
    ranks[~whole, :, 5:] = NO_RANK
    traces = dataclasses.replace(traces, ranks=ranks)

    class WholeDrafts:
        def recorded(self, traces):
            signal = np.full((len(traces), traces.max_depth), -1.0)
            signal[:, [4, 6, 8]] = whole[:, None]
            return signal

    rule = dataclasses.replace(ddd.RULE, signal=lambda network: WholeDrafts())
    fitted = rule.fit(data_of(traces, synthetic_profile(2, 10)))[FITTED]
    assert fitted.settings["checkpoints"] == (5, 7, 9) and fitted.settings["max_depth"] == 10


def test_a_finer_search_goes_on_to_both_neighbours():
    finer = between([1, 2, 4], 2, 5)
    assert min(finer) == 1 and max(finer) == 4 and 2 in finer


def test_a_network_starts_from_its_seed():
    first, same, other = (classifier.perceptron(2, 4, seed) for seed in (3, 3, 4))
    assert torch.equal(first[0].weight, same[0].weight)
    assert not torch.equal(first[0].weight, other[0].weight)


def signals():
    """One of every threshold rule, by its name; networks as they are before they learn."""
    torch.manual_seed(0)
    judge = PolicyNetwork([(np.array([[1.0, -0.5, 0.2, 0.3, 0.2]]), np.array([0.5]))])
    return {
        "ddd": ddd.RULE.signal(None),
        "svip": svip.RULE.signal(None),
        "disco": disco.RULE.signal(judge),
        "specdecpp": specdecpp.RULE.signal(specdecpp.AcceptanceHead(8, 4)),
    }


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("name", ["ddd", "svip", "disco", "specdecpp"])
def test_a_signal_is_in_replay_what_it_is_live(name, compiled, monkeypatch):
    monkeypatch.setattr(devices, "has_numba", lambda: compiled)
    traces = synthetic_traces(beam=BEAM, max_depth=DEPTH, sequences=1, with_optional=True)
    signal, live = signals()[name], []
    for position in range(len(traces)):
        scores = torch.from_numpy(traces.scores[position].copy())
        for depth in range(1, DEPTH + 1):
            drafted = torch.arange(len(scores)) < pool_size(BEAM, depth)
            state = RecordedState(
                max_depth=DEPTH,
                beam=BEAM,
                scores=scores.where(drafted, -torch.inf),
                depth=depth,
                feature=torch.from_numpy(traces.features[position, depth - 1].astype(np.float32)),
                entropies=traces.entropy[position],
            )
            live.append(signal.live(state))
    np.testing.assert_allclose(live, signal.recorded(traces).ravel(), rtol=1e-5)


def test_pool_of_the_hand_made_tree():
    assert pool_size(2, 3) == sum(map(len, LEVELS)) == 10
