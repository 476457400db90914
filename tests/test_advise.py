"""Advice for other engines: chains from wider traces, the engines' counting, the words."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from engine_models import random_drafter, random_target
from ltd.advise import AdviseOptions, Evidence, advise, best_chain, best_tree
from ltd.engine.target import TargetModel
from ltd.errors import InputError
from ltd.record_traces import RecordTracesOptions, record_traces
from ltd.replay.chains import chain_profile, chain_traces
from ltd.replay.latency import LatencyProfile
from ltd.replay.latency_family import Change, changed
from ltd.replay.static_grid import static_grid
from ltd.replay.table import ReplayTable
from ltd.replay.traces import Traces
from ltd.reporting.advice import sglang_flags, vllm_config
from ltd.rl.replay_walk import ReplayWorld
from ltd.texts.responses import Responses
from ltd.tracking import StageRun
from saved_engine import save_engine
from saved_experiment import random_policies
from synthetic import synthetic_profile, synthetic_traces
from tiny_engine import tiny_answers

DEPTH = 6


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Traces of the same answers with beam 2 and with beam 1."""
    folder = tmp_path_factory.mktemp("chains")
    target, draft = save_engine(folder)
    responses = folder / "responses.safetensors"
    Responses.from_sequences(tiny_answers(TargetModel.load(target), 8, max_new_tokens=40)).save(responses)
    traces = []
    for beam in (2, 1):
        output = folder / f"w{beam}.safetensors"
        options = RecordTracesOptions(
            target=str(target),
            draft=draft,
            responses=responses,
            output=output,
            state=folder / f"state-{beam}",
            beam=beam,
            max_depth=DEPTH,
        )
        record_traces(options, StageRun())
        traces.append(Traces.load(output))
    return traces


def test_chains_of_a_wide_beam_are_those_of_a_narrow_one(recorded):
    wide, narrow = recorded
    index = np.arange(len(wide))
    chains, exact = chain_traces(wide, unknown_accepted=False)
    for depth in range(1, DEPTH + 1):
        found, expected = (ReplayTable(t).tokens(index, depth, depth) for t in (chains, narrow))
        assert expected.max() > 1
        assert np.array_equal(found[exact], expected[exact])
    assert exact.mean() > 0.9


def test_what_the_wide_beam_lost_lies_between_two_readings(recorded):
    wide, narrow = recorded
    # The nodes of level 2 that are expanded become others: a continuation through them is not recorded.
    beams, true_node = wide.beams.copy(), wide.true_node.copy()
    beams[:, 1], true_node[:, 2:] = wide.beam**2, -1
    wide = dataclasses.replace(wide, beams=beams, true_node=true_node)
    index, true = np.arange(len(wide)), ReplayTable(narrow)
    (low, exact), (high, _) = (chain_traces(wide, reading) for reading in (False, True))
    assert np.array_equal(exact, (narrow.true_node[:, 1] < 0) | (narrow.tokens_left <= 2))
    assert 0.1 < exact.mean() < 1
    for depth in range(1, DEPTH + 1):
        low_tokens, tokens, high_tokens = (
            t.tokens(index, depth, depth) for t in (ReplayTable(low), true, ReplayTable(high))
        )
        assert (low_tokens <= tokens).all() and (tokens <= high_tokens).all()
        assert np.array_equal(low_tokens[exact], high_tokens[exact])
        assert np.array_equal(low_tokens, np.minimum(tokens, 3))
    assert (high_tokens > low_tokens).any()


def certain_chain():
    """Traces of one answer of eight tokens, of which the best child of the best child is always one."""
    traces = synthetic_traces(sequences=1, answer_tokens=(8, 8), beam=2, max_depth=3)
    true_node = np.where(np.arange(3) < traces.tokens_left[:, None], np.array([0, 2, 6]), -1)
    beams = np.tile(np.array([0, 1], dtype=np.uint8), (len(traces), 3, 1))
    return dataclasses.replace(traces, true_node=true_node.astype(np.int32), beams=beams)


def test_a_chain_that_is_lost_is_unknown_from_the_next_level_on():
    """Two other nodes of a level are expanded instead: what that hides is behind it."""
    traces = certain_chain()
    assert chain_traces(traces, unknown_accepted=False)[1].all()
    for level, exact in ((2, np.ones(8, dtype=bool)), (1, traces.tokens_left <= 2)):
        beams, true_node = traces.beams.copy(), traces.true_node.copy()
        beams[:, level], true_node[:, level + 1 :] = (2, 3), -1
        lost = dataclasses.replace(traces, beams=beams, true_node=true_node)
        assert np.array_equal(chain_traces(lost, unknown_accepted=False)[1], exact)


def test_no_beam_wider_than_the_tree_changes_the_tree():
    target = random_target()
    prompt = torch.arange(1, 9)
    logits, taps = target.prefill(prompt)
    trees = []
    for beam in (3, 7):
        drafter = random_drafter(target, beam=beam)
        drafter.prefill(taps, prompt)
        drafter.extend(taps[-1:], logits.argmax()[None])
        for _ in range(3):
            drafter.expand()
        trees.append(drafter.select(3))
    assert trees[0].tokens.tolist() == trees[1].tokens.tolist()
    assert trees[0].parents.tolist() == trees[1].parents.tolist()
    assert sglang_flags(4, 3, 7).split()[1::2] == ["4", "3", "4"]  # steps, topk, tokens with the root


def test_engines_count_differently():
    assert sglang_flags(5, 60, 10).split()[1::2] == ["5", "10", "61"]
    # With a topk of 1 SGLang would overrule the number of tokens.
    assert sglang_flags(2, 2, 4).split()[3] == "2"
    assert '"num_speculative_tokens": 3' in vllm_config(3)


def test_a_chain_costs_no_more_than_its_passes():
    profile = synthetic_profile()
    narrow = chain_profile(profile)
    assert narrow.draft_step(3, 64) == min(profile.draft_step(3, 64), profile.draft_prefix(1, 64))
    assert narrow.cycle_seconds(3, 3, 64) < profile.cycle_seconds(3, 3, 64)


@pytest.fixture
def experiment(tmp_path):
    write_experiment(tmp_path)
    return AdviseOptions(experiment=tmp_path)


def write_experiment(folder, **machine):
    (folder / "latency").mkdir(parents=True)
    synthetic_profile(**machine).save(folder / "latency" / "profile.json")
    for split, seed in (("validation", 1), ("test", 2)):
        synthetic_traces(seed, sequences=12).save(folder / "traces" / f"{split}-t0-w4.safetensors")


def test_settings_are_the_best_on_validation(experiment):
    evidence = Evidence.load(experiment)
    depth, size, throughput = best_tree(evidence, 60)
    grid = static_grid(evidence.choosing, evidence.profile, range(1, 7), range(1, 61))
    assert (depth, size) == grid.best()[:2]
    length, slower = best_chain(evidence, 60)
    assert slower < throughput
    text = advise(experiment)
    assert f"--speculative-num-steps {depth} --speculative-eagle-topk {min(size, 4)}" in text
    assert f"--speculative-num-draft-tokens {size + 1}" in text
    assert f'"num_speculative_tokens": {length}' in text
    assert f"max_draft_len={length}" in text


def test_no_chain_is_longer_than_trees_may_be_large(tmp_path):
    write_experiment(tmp_path, verify_slope=0.01)
    evidence = Evidence.load(AdviseOptions(experiment=tmp_path))
    assert best_chain(evidence, 60)[0] > 1 == best_chain(evidence, 1)[0]
    text = advise(AdviseOptions(experiment=tmp_path, max_size=1))
    assert '"num_speculative_tokens": 1' in text and "max_draft_len=1" in text


def test_times_taken_in_the_benchmark_count_unless_the_profile_is_newer(experiment):
    learned_from = experiment.experiment / "latency" / "profile.json"
    assert "(latency profile)" in advise(experiment)
    later = experiment.experiment / "benchmark" / "t0" / "profile.json"
    later.parent.mkdir(parents=True)
    changed(LatencyProfile.load(learned_from), Change(draft=3.0)).save(later)
    os.utime(learned_from, (1, 1))
    assert "(taken in the benchmark)" in advise(experiment)
    assert Evidence.load(experiment).profile.draft_step(2, 64) == pytest.approx(
        3 * LatencyProfile.load(learned_from).draft_step(2, 64)
    )
    os.utime(later, (0, 0))
    assert "(latency profile)" in advise(experiment)


def test_gains_are_those_of_the_test_prompts(experiment):
    text = advise(experiment)
    evidence = Evidence.load(experiment)
    depth, size, _ = best_tree(evidence, 60)
    grid = static_grid(evidence.measuring, evidence.profile, [0, depth], [size])
    ratios = [np.divide(*grid.throughput(task)[::-1, 0]) for task in ("chat", "code")]
    row = next(line for line in text.splitlines() if line.startswith("best tree"))
    assert row.split()[2:4] == [f"{ratio:.2f}" for ratio in ratios]
    assert "Speculation pays" in text and "test prompts" in text
    assert "of the\nbest static setting's speed." in text


def test_gains_are_of_the_tasks_that_are_named(experiment):
    text = advise(dataclasses.replace(experiment, test_tasks=("code",)))
    header = next(line for line in text.splitlines() if line.split() == ["code", "mean"])
    assert "chat" not in text and header
    # Settings stay those of all validation prompts.
    assert (
        best_tree(Evidence.load(experiment), 60)[:2]
        == best_tree(Evidence.load(dataclasses.replace(experiment, test_tasks=("code",))), 60)[:2]
    )
    with pytest.raises(InputError, match="test_tasks: 'maths' has no answers"):
        advise(dataclasses.replace(experiment, test_tasks=("maths",)))


def test_says_when_speculation_does_not_pay(tmp_path):
    write_experiment(tmp_path, verify_slope=4.0)
    assert "Leave it off" in advise(AdviseOptions(experiment=tmp_path))


@pytest.mark.parametrize(("faster", "pays"), [(1.2, True), (0.9, False)])
def test_says_when_speculation_pays_with_the_trained_policies_alone(tmp_path, monkeypatch, faster, pays):
    write_experiment(tmp_path, verify_slope=4.0)

    def policies(options, evidence):
        plain = static_grid(evidence.measuring, evidence.profile, [0], [1]).setting(0, 1)
        return dataclasses.replace(plain, seconds=plain.seconds / faster)

    monkeypatch.setattr("ltd.advise.replay_policies", policies)
    text = advise(AdviseOptions(experiment=tmp_path))
    assert "Speculation does not pay: " in text and ("Leave it off" in text) != pays
    assert ("With the trained policies it pays on this engine: 1.20x [1.20, 1.20]." in text) == pays
    # What is slower than plain decoding is nothing to compare with.
    bound = next(line.split()[-1] for line in text.splitlines() if line.startswith("oracle"))
    assert f"have {bound} of the\nplain speed. The trained policies have {faster:.2f}x [{faster:.2f}" in text


def test_without_test_traces_it_says_so(experiment):
    (experiment.experiment / "traces" / "test-t0-w4.safetensors").unlink()
    assert "that also chose the settings" in advise(experiment)


def test_traces_of_the_one_temperature_that_was_learned_at_are_found(experiment):
    greedy = advise(experiment)
    traces = experiment.experiment / "traces"
    for split in ("validation", "test"):
        (traces / f"{split}-t0-w4.safetensors").rename(traces / f"{split}-t0.7-w4.safetensors")
    assert advise(experiment) == greedy
    synthetic_traces(3, sequences=12).save(traces / "validation-t0-w4.safetensors")
    with pytest.raises(
        InputError, match=r"validation-t0-w4\S+, validation-t0\.7-w4\S+; say which with --temp"
    ):
        advise(experiment)
    assert advise(dataclasses.replace(experiment, temperature=0.7)) == greedy


def test_trained_policies_are_advised_with_what_they_add(experiment, tmp_path):
    traces = Traces.load(experiment.experiment / "traces/test-t0-w4.safetensors")
    world = ReplayWorld(traces, synthetic_profile(), (1, 2, 4, 8))
    assert "The trained policies" not in advise(experiment)
    random_policies(experiment.experiment / "policies/ltd/best", world)
    random_policies(tmp_path / "others", world)
    for found in (advise(experiment), advise(dataclasses.replace(experiment, policies=tmp_path / "others"))):
        assert "The trained policies" in found
    with pytest.raises(InputError, match=r"policies: nowhere has no policy\.json"):
        advise(dataclasses.replace(experiment, policies=Path("nowhere")))


@pytest.mark.parametrize("option", [{"max_size": 0}, {"max_size": -4}, {"seed": -1}])
def test_options_that_cannot_be_are_refused(experiment, option):
    (name, value), *_ = option.items()
    with pytest.raises(InputError, match=f"^{name}: {value} is n"):
        advise(dataclasses.replace(experiment, **option))


def test_wrong_input_is_one_clear_error(experiment):
    with pytest.raises(InputError, match=r"traces: no validation-t1-w4\.safetensors; record one"):
        advise(dataclasses.replace(experiment, temperature=1.0))
