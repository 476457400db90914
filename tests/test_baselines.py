"""Fitted baselines: the search, deployed against replayed decisions, files, errors."""

import dataclasses
import json

import numpy as np
import pytest

from baseline_data import BEAM, DEPTH, SIZES, data_of, depth_chosen, state_at, threshold_controller
from ltd.baselines import CLASSIFIERS, FITTED, PUBLISHED, ddd, disco, gammatune, specdecpp, svip
from ltd.baselines.catalogue import BASELINES, load_controller, save_baseline
from ltd.baselines.lanes import replay_lanes
from ltd.baselines.threshold import ThresholdController, ThresholdSettings, quantiles
from ltd.engine import decoding
from ltd.errors import InputError
from ltd.files import write_json
from ltd.record_traces import RecordTracesOptions, TraceRecorder
from ltd.replay.latency import LatencyTable
from ltd.replay.simulator import simulate
from ltd.replay.static_grid import static_grid
from synthetic import synthetic_profile, synthetic_traces, with_free_decisions
from tiny_engine import tiny_answers, tiny_drafter, tiny_head, tiny_target


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
    """On a machine where a larger network takes longer to decide."""
    profile = synthetic_profile(BEAM, DEPTH)
    for name in ("depth_policy", "size_policy"):
        profile = profile.replace_table(name, LatencyTable([10, 200], [[0.004] * 3, [0.02] * 3]))
    return data_of(recorded[1], profile)


@pytest.fixture(scope="module", params=BASELINES)
def fitted(request, data):
    """Name of a baseline and its variants, fitted to the tiny engine's traces."""
    return request.param, BASELINES[request.param].fit(data)


def test_published_variants_are_cut_to_the_largest_depth(fitted):
    name, variants = fitted
    assert BASELINES[name].controller(variants[PUBLISHED], name).max_depth == DEPTH


@pytest.mark.parametrize("key", [FITTED, PUBLISHED])
def test_the_controller_simulated_answer_by_answer_is_what_the_search_replayed(fitted, data, key):
    name, variants = fitted
    controller = BASELINES[name].controller(variants[key], name)
    world, found = data.world, variants[key].validation
    result = simulate(controller, world.traces, world.profile)
    plain = world.latency.autoregressive[world.context_length].sum()
    assert plain / result.seconds.sum() == pytest.approx(found["speedup"], rel=1e-9)
    assert result.acceptance_length() == pytest.approx(found["acceptance_length"])
    assert result.log.depth.mean() == pytest.approx(found["mean_depth"])
    assert result.log.size.mean() == pytest.approx(found["mean_size"])


def live_and_replayed(make, data, engine, recorded):
    """Context, depth and size of every cycle of the recorded answers, decoded and simulated."""
    target, _, drafter = engine
    live = []
    for answer in recorded[0]:
        prompt = answer.tokens[: answer.prompt_length]
        generation = decoding.decode(target, drafter, make(), prompt, max_new_tokens=30)
        assert generation.tokens == answer.answer.tolist()
        live += [(cycle.context_length, cycle.depth, cycle.size) for cycle in generation.cycles]
    log = simulate(make(), data.world.traces, data.world.profile).log
    return live, list(zip(log.context_length, log.depth, log.size, strict=True))


@pytest.mark.parametrize("key", [FITTED, PUBLISHED])
def test_deployed_decisions_are_the_replayed_ones(fitted, data, engine, recorded, key):
    name, variants = fitted
    live, replayed = live_and_replayed(
        lambda: BASELINES[name].controller(variants[key], name), data, engine, recorded
    )
    assert live == replayed


def test_some_variant_of_a_rule_adapts(fitted, data):
    """Otherwise the decisions compared above would be constants. Those of ddd and svip are: the published
    constants never stop these trees, and no checkpoint pays. The test below gives them a threshold that does.
    """
    name, variants = fitted
    choices = set()
    for key, variant in variants.items():
        log = simulate(BASELINES[name].controller(variant, name), data.world.traces, data.world.profile).log
        choices |= {(key, *choice) for choice in zip(log.depth, log.size, strict=True)}
    assert len(choices) > len(variants) or name in ("ddd", "svip")


@pytest.mark.parametrize("rule", [ddd.RULE, svip.RULE], ids=lambda rule: rule.name)
def test_a_threshold_within_the_signal_decides_live_as_in_replay(rule, data, engine, recorded):
    signal = rule.signal(None).recorded(data.world.traces)
    threshold = quantiles(signal[:, 1:4], 3)[1]
    settings = ThresholdSettings(threshold, tuple(range(1, DEPTH)), DEPTH, 4)
    live, replayed = live_and_replayed(
        lambda: ThresholdController(rule.name, settings, rule.signal(None), None), data, engine, recorded
    )
    assert live == replayed and len({depth for _, depth, _ in live}) > 2


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
    simulated = simulate(controller, traces, profile)
    assert simulated.seconds.sum() == pytest.approx(static.seconds.sum(), rel=1e-12)


HEURISTICS = pytest.mark.parametrize("rule", [ddd.RULE, svip.RULE], ids=lambda rule: rule.name)


def with_dear_decisions(device_type):
    """A machine whose networks take 5 ms a decision; the smallest timed has 100 weights, the next 7 ms."""
    decisions = LatencyTable([100, 200], [[5.0] * 3, [7.0] * 3])
    profile = synthetic_profile(BEAM, DEPTH, verify_slope=0.01).replace_table("depth_policy", decisions)
    return dataclasses.replace(profile, device_type=device_type)


@HEURISTICS
def test_a_look_without_a_network_is_a_decision_of_the_smallest_one_on_a_gpu(rule):
    traces = synthetic_traces(seed=4, beam=BEAM, max_depth=DEPTH, with_optional=True)
    threshold = float(np.median(rule.signal(None).recorded(traces)[:, :2]))
    controller = threshold_controller(rule, threshold, (1, 2), 4)
    on_cpu, on_gpu = (simulate(controller, traces, with_dear_decisions(name)) for name in ("cpu", "cuda"))
    free = simulate(controller, traces, with_free_decisions(with_dear_decisions("cpu")))
    np.testing.assert_array_equal(on_cpu.seconds, free.seconds)
    assert set(on_cpu.log.depth) == {1, 2, 4}
    looks = np.minimum(on_cpu.log.depth, 2)
    np.testing.assert_allclose(on_gpu.log.seconds - on_cpu.log.seconds, 5e-3 * looks, rtol=1e-9)


@HEURISTICS
def test_a_heuristic_is_tuned_with_what_its_looks_cost(rule):
    """Free on a CPU, it looks; where a look takes longer than cycles, it never does."""
    traces = synthetic_traces(seed=4, beam=BEAM, max_depth=DEPTH, with_optional=True)
    on_cpu, on_gpu = (rule.fit(data_of(traces, with_dear_decisions(name))) for name in ("cpu", "cuda"))
    assert on_cpu[FITTED].settings["checkpoints"] and not on_gpu[FITTED].settings["checkpoints"]
    # The published constants look on a GPU, too, and replay says what that costs.
    simulated = simulate(rule.controller(on_gpu[PUBLISHED], rule.name), traces, with_dear_decisions("cuda"))
    plain = data_of(traces).world.latency.autoregressive[traces.context_length].sum()
    found = on_gpu[PUBLISHED].validation["speedup"]
    assert plain / simulated.seconds.sum() == pytest.approx(found, rel=1e-9)
    assert rule is ddd.RULE or found < on_cpu[PUBLISHED].validation["speedup"] / 2


def test_lanes_of_many_candidates_are_those_of_one(data, monkeypatch):
    candidates = [gammatune.GammaSettings(d, 0.2, 1, DEPTH, v) for d in (1, 3, 5) for v in (1, 8)]
    together = replay_lanes(data.world, gammatune.GammaChooser(candidates), len(candidates))
    monkeypatch.setattr("ltd.baselines.lanes.MAX_LANES", 1)
    apart = replay_lanes(data.world, gammatune.GammaChooser(candidates), len(candidates))
    np.testing.assert_array_equal(together.seconds, apart.seconds)
    assert len(np.unique(together.seconds.sum(axis=1))) > 3


def test_saved_and_loaded_decides_alike(fitted, data, tmp_path):
    name, variants = fitted
    save_baseline(tmp_path / name, name, variants, (BEAM, DEPTH), {})
    for method in (name, f"{name}:published"):
        variant = variants[PUBLISHED if ":" in method else FITTED]
        loaded = load_controller(tmp_path, method)
        assert loaded.name == method
        made = BASELINES[name].controller(variant, method)
        results = [simulate(c, data.world.traces, data.world.profile) for c in (loaded, made)]
        np.testing.assert_array_equal(results[0].seconds, results[1].seconds)
    networks = {path.name for path in tmp_path.glob("*/*.safetensors")}
    learned = name in CLASSIFIERS
    assert networks == ({"fitted.safetensors", "published.safetensors"} if learned else set())


def test_wrong_files_are_named(fitted, tmp_path):
    name, variants = fitted
    with pytest.raises(InputError, match=f"baseline.json: no such file; fit it .*--baseline {name}"):
        load_controller(tmp_path, name)
    save_baseline(tmp_path / name, name, variants, (BEAM, DEPTH), {})
    path = tmp_path / name / "baseline.json"
    description = json.loads(path.read_text())
    description["fitted"]["settings"]["speed"] = 1
    write_json(path, description)
    with pytest.raises(InputError, match=r"baseline\.json: fitted\.settings: not of"):
        load_controller(tmp_path, name)
    write_json(path, description | {"baseline": "other"})
    with pytest.raises(InputError, match=f"not {name} of version 2"):
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
