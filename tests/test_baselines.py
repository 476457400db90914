"""Published baselines: each rule on a hand-made tree, deployed against replayed decisions, files, errors."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from ltd import fit_baselines as stage
from ltd.baselines import FITTED, NAMES, PUBLISHED, c2t, classifier, ddd, disco, gammatune, specdecpp, svip
from ltd.baselines.catalogue import BASELINES, load_controller, save_baseline
from ltd.baselines.lanes import replay_lanes
from ltd.baselines.threshold import ThresholdController, ThresholdSettings, quantiles
from ltd.baselines.variants import FitData, TrainingSettings, level_of_nodes
from ltd.benchmark import BenchmarkOptions, make_controllers
from ltd.engine import decoding
from ltd.engine.controllers import DraftState
from ltd.engine.tree import pool_size
from ltd.errors import InputError
from ltd.files import write_json
from ltd.measurement.replay_rows import _simulate
from ltd.record_traces import RecordTracesOptions, TraceRecorder
from ltd.replay.latency import LatencyTable
from ltd.replay.simulator import static_grid
from ltd.replay.traces import NO_RANK
from ltd.rl.policies import PolicyNetwork
from ltd.rl.replay_walk import ReplayWorld
from ltd.tracking import StageRun
from synthetic import synthetic_profile, synthetic_traces
from tiny_engine import tiny_answers, tiny_drafter, tiny_head, tiny_target

BEAM, DEPTH, SIZES = 3, 5, (1, 2, 4, 8)
# A tree of beam 2 and depth 3; the beams hold 0.9, 0.6 and 0.35 of the probability.
LEVELS = [[0.6, 0.3], [0.4, 0.1, 0.2, 0.05], [0.25, 0.1, 0.1, 0.02]]


def state_at(depth, entropy=0.0, feature=None):
    """A draft state of the hand-made tree after `depth` passes."""
    scores = torch.full((10,), -torch.inf)
    drafted = torch.tensor([p for level in LEVELS[:depth] for p in level])
    scores[: len(drafted)] = drafted.log()

    class State(DraftState):
        def entropy(self):
            return entropy

    return State(max_depth=3, beam=2, scores=scores, depth=depth, feature=feature)


def depth_chosen(controller, states):
    """Depth at which a controller stops, the states given by depth."""
    depth = 0
    while depth < 3 and controller.continue_drafting(states[depth]):
        depth += 1
    return depth


def threshold_controller(rule, threshold, checkpoints=(1, 2), max_depth=3, network=None):
    settings = ThresholdSettings(threshold, checkpoints, max_depth, 7)
    return ThresholdController(rule.name, settings, rule.signal(network), network)


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
    monkeypatch.setattr(torch.cuda, "is_available", lambda: not compiled)
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
    arrived = classifier.reached(traces, 4)
    expected = np.concatenate([arrived[:, 0], *(arrived[arrived[:, d - 1], d] for d in range(1, DEPTH))])
    assert len(seen["labels"]) == len(expected) and seen["labels"].sum() == expected.sum()


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


def test_published_variants_are_cut_to_the_largest_depth(fitted):
    name, variants = fitted
    assert BASELINES[name].controller(variants[PUBLISHED], name).max_depth == DEPTH


def test_c2t_learns_from_trees_of_the_depth_that_it_prunes(monkeypatch):
    """The fitted variant from the deepest, since it may choose any depth; the published one from its own."""
    deepest = []

    def levels_seen(module, inputs, labels, *_):
        deepest.append(round(10 * inputs(np.arange(len(labels)))[:, 1].max()))

    monkeypatch.setattr(c2t, "train_network", levels_seen)
    traces = synthetic_traces(sequences=4, beam=2, max_depth=12)
    c2t.RULE.fit(dataclasses.replace(data_of(traces, synthetic_profile(2, 12)), sizes=(2, 8), thresholds=3))
    assert deepest == [12, 8]


def data_of(traces, profile=None):
    training = TrainingSettings(4, 1e-2, 64, 500, 8, 0)
    world = ReplayWorld(traces, profile or synthetic_profile(traces.beam, traces.max_depth), (1, 16))
    return FitData(traces, world, SIZES, 6, 4, 16, training)


@pytest.fixture(scope="module")
def engine():
    target = tiny_target()
    head = tiny_head(target)
    return target, head, tiny_drafter(head, BEAM, DEPTH)


@pytest.fixture(scope="module")
def recorded(engine):
    target, head, _ = engine
    answers = [answer for answer in tiny_answers(target, 6, max_new_tokens=30) if len(answer.answer) > 1]
    options = RecordTracesOptions(
        target="", draft="", responses="", output="", state="", beam=BEAM, max_depth=DEPTH, features=True
    )
    hashes = {"target_hash": "target", "draft_hash": "draft"}
    return answers, TraceRecorder(target, head, options).record(answers, hashes)


@pytest.fixture(scope="module")
def data(recorded):
    return data_of(recorded[1])


@pytest.fixture(scope="module", params=BASELINES)
def fitted(request, data):
    """Name of a baseline and its variants, fitted to the tiny engine's traces."""
    return request.param, BASELINES[request.param].fit(data)


@pytest.mark.parametrize("key", [FITTED, PUBLISHED])
def test_the_controller_simulated_answer_by_answer_is_what_the_search_replayed(fitted, data, key):
    name, variants = fitted
    controller = BASELINES[name].controller(variants[key], name)
    world, found = data.world, variants[key].validation
    result = _simulate(controller, world.traces, world.profile)
    plain = world.latency.autoregressive[world.context_length].sum()
    assert plain / result.seconds.sum() == pytest.approx(found["speedup"], rel=1e-9)
    assert result.acceptance_length() == pytest.approx(found["acceptance_length"])
    assert result.log.depth.mean() == pytest.approx(found["mean_depth"])
    assert result.log.size.mean() == pytest.approx(found["mean_size"])


@pytest.mark.parametrize("key", [FITTED, PUBLISHED])
def test_deployed_decisions_are_the_replayed_ones(fitted, data, engine, recorded, key):
    name, variants = fitted
    target, _, drafter = engine
    live = []
    for answer in recorded[0]:
        controller = BASELINES[name].controller(variants[key], name)
        prompt = answer.tokens[: answer.prompt_length]
        generation = decoding.decode(target, drafter, controller, prompt, max_new_tokens=30)
        assert generation.tokens == answer.answer.tolist()
        live += [(cycle.context_length, cycle.depth, cycle.size) for cycle in generation.cycles]
    controller = BASELINES[name].controller(variants[key], name)
    log = _simulate(controller, data.world.traces, data.world.profile).log
    assert live == list(zip(log.context_length, log.depth, log.size, strict=True))


def test_search_finds_what_adapts():
    """On traces with something to adapt to, no fitted heuristic loses to the best static setting."""
    traces = synthetic_traces(seed=4, beam=4, max_depth=6, with_optional=True)
    profile = synthetic_profile()
    data = dataclasses.replace(data_of(traces, profile), sizes=tuple(range(1, 17)))
    _, _, throughput = static_grid(traces, profile, range(1, 7), range(1, 17)).best()
    plain = traces.answer_tokens.sum() / data.world.latency.autoregressive[traces.context_length].sum()
    for rule in (ddd.RULE, svip.RULE):
        assert rule.fit(data)[FITTED].validation["speedup"] >= throughput / plain - 1e-9
    assert svip.RULE.fit(data)[FITTED].validation["speedup"] > throughput / plain * 1.01


THRESHOLD_RULES = [ddd.RULE, svip.RULE, disco.RULE, specdecpp.RULE]


@pytest.mark.parametrize("decision_ms", [0.0, 5.0])
@pytest.mark.parametrize("rule", THRESHOLD_RULES, ids=lambda rule: rule.name)
def test_no_fitted_threshold_rule_loses_to_a_static_setting(rule, decision_ms):
    """Also where asking a network costs more than whole cycles."""
    traces = synthetic_traces(seed=4, beam=BEAM, with_optional=True)
    profile = synthetic_profile(beam=BEAM, verify_slope=0.01)
    profile = profile.replace_table("depth_policy", LatencyTable([1], [[decision_ms] * 3]))
    data = data_of(traces, profile)
    _, _, throughput = static_grid(traces, profile, range(1, traces.max_depth + 1), SIZES).best()
    plain = traces.answer_tokens.sum() / data.world.latency.autoregressive[traces.context_length].sum()
    assert rule.fit(data)[FITTED].validation["speedup"] >= throughput / plain - 1e-9


@pytest.mark.parametrize("rule", [disco.RULE, specdecpp.RULE], ids=lambda rule: rule.name)
def test_a_fitted_rule_without_checkpoints_never_asks_its_network(rule, monkeypatch):
    traces = synthetic_traces(seed=4, beam=2, max_depth=3, with_optional=True)
    dear = LatencyTable([1], [[5.0] * 3])
    profile = synthetic_profile(2, 3, verify_slope=0.01).replace_table("depth_policy", dear)
    variant = rule.fit(data_of(traces, profile))[FITTED]
    assert variant.settings["checkpoints"] == () and variant.settings["max_depth"] > 1
    controller = rule.controller(variant, rule.name)
    monkeypatch.setattr(controller.signal, "live", lambda state: pytest.fail("the network was asked"))
    assert depth_chosen(controller, [state_at(d) for d in range(4)]) == controller.max_depth
    assert not any(controller.asked(depth) for depth in range(4))
    static = static_grid(traces, profile, [controller.max_depth], [controller.size])
    simulated = _simulate(controller, traces, profile)
    assert simulated.seconds.sum() == pytest.approx(static.seconds.sum(), rel=1e-12)


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


def test_lanes_of_many_candidates_are_those_of_one(data, monkeypatch):
    candidates = [gammatune.GammaSettings(d, 0.2, 1, DEPTH, v) for d in (1, 3, 5) for v in (1, 8)]
    together = replay_lanes(data.world, gammatune.GammaChooser(candidates), len(candidates))
    monkeypatch.setattr("ltd.baselines.lanes.MAX_LANES", 1)
    apart = replay_lanes(data.world, gammatune.GammaChooser(candidates), len(candidates))
    np.testing.assert_array_equal(together.seconds, apart.seconds)
    assert len(np.unique(together.seconds.sum(axis=1))) > 3


def test_saved_and_loaded_decides_alike(fitted, data, tmp_path):
    name, variants = fitted
    save_baseline(tmp_path / name, name, variants, {})
    for method in (name, f"{name}:published"):
        variant = variants[PUBLISHED if ":" in method else FITTED]
        loaded = load_controller(tmp_path, method)
        assert loaded.name == method
        made = BASELINES[name].controller(variant, method)
        results = [_simulate(c, data.world.traces, data.world.profile) for c in (loaded, made)]
        np.testing.assert_array_equal(results[0].seconds, results[1].seconds)
    networks = {path.name for path in tmp_path.glob("*/*.safetensors")}
    learned = name in ("disco", "specdecpp", "c2t")
    assert networks == ({"fitted.safetensors", "published.safetensors"} if learned else set())


def test_wrong_files_are_named(fitted, tmp_path):
    name, variants = fitted
    with pytest.raises(InputError, match=f"baseline.json: no such file; fit it .*--baseline {name}"):
        load_controller(tmp_path, name)
    save_baseline(tmp_path / name, name, variants, {})
    path = tmp_path / name / "baseline.json"
    description = json.loads(path.read_text())
    description["fitted"]["settings"]["speed"] = 1
    write_json(path, description)
    with pytest.raises(InputError, match=r"baseline\.json: fitted\.settings: not of"):
        load_controller(tmp_path, name)
    write_json(path, description | {"baseline": "other"})
    with pytest.raises(InputError, match=f"not {name} of version 1"):
        load_controller(tmp_path, name)
    with pytest.raises(InputError, match="is unknown; choose from ddd, ddd:published"):
        load_controller(tmp_path, f"{name}:tuned")


@pytest.mark.parametrize(
    ("name", "missing", "complaint"),
    [
        ("svip", "entropy", "svip: the traces hold no entropy"),
        ("disco", "entropy", "disco: the traces hold no entropy"),
        ("specdecpp", "features", "specdecpp: the traces hold no hidden states"),
    ],
)
def test_traces_without_what_a_rule_needs(data, name, missing, complaint):
    traces = dataclasses.replace(data.traces, **{missing: None})
    with pytest.raises(InputError, match=complaint):
        BASELINES[name].fit(data_of(traces))


@pytest.fixture
def options(tmp_path):
    traces = synthetic_traces(with_optional=True)
    traces.save(tmp_path / "traces.safetensors")
    synthetic_profile().save(tmp_path / "profile.json")
    return stage.FitBaselinesOptions(
        baseline="svip",
        traces=tmp_path / "traces.safetensors",
        validation_traces=tmp_path / "traces.safetensors",
        profile=tmp_path / "profile.json",
        output=tmp_path / "baselines" / "svip",
        sizes=SIZES,
        published_size=16,
        thresholds=5,
    )


def test_stage_writes_what_the_benchmark_reads(options, tmp_path, capsys):
    stage.fit_baselines(options, StageRun())
    assert "svip fitted: validation speedup" in capsys.readouterr().out
    write_json(tmp_path / "grid.json", {"best": {"depth": 2, "size": 3}})
    folders = ("draft", "policies", "opponents", "lookup", "responses", "output", "state")
    paths = dict.fromkeys(folders, tmp_path)
    benchmark = BenchmarkOptions(
        **paths, target="", profile=options.profile, grid=tmp_path / "grid.json", traces=options.traces,
        baselines=tmp_path / "baselines", methods=("autoregressive", "svip", "svip:published"),
    )  # fmt: skip
    controllers = make_controllers(benchmark)
    assert controllers["svip:published"].size == 16 and controllers["svip"].size in range(1, 9)
    assert tuple(BASELINES) == NAMES
    with pytest.raises(InputError, match=r"disco/baseline\.json: no such file"):
        make_controllers(dataclasses.replace(benchmark, methods=("autoregressive", "disco")))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"sizes": (4, 2)}, r"baselines.sizes: \[4, 2\] is not ascending"),
        ({"thresholds": 2}, "baselines.thresholds: 2 is not at least 3"),
        ({"samples": 0}, "baselines.samples: 0 is not at least 1"),
        ({"learning_rate": 0.0}, "baselines.learning_rate: 0.0 is not above 0"),
        ({"train_tasks": ("poems",)}, "'poems' has no answers"),
        ({"published_size": 90}, "tables.verify: 84 lies outside the measured 1 to 60"),
    ],
)
def test_wrong_options_stop_with_one_line(options, change, complaint):
    with pytest.raises(InputError, match=complaint) as refusal:
        stage.fit_baselines(dataclasses.replace(options, **change), StageRun())
    assert "\n" not in str(refusal.value)


def test_pool_of_the_hand_made_tree():
    assert pool_size(2, 3) == sum(map(len, LEVELS)) == 10
