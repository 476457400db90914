"""Recording: what stands in a trace, independence of chunks and parts, resuming, and wrong input."""

import dataclasses

import numpy as np
import pytest
import torch

from ltd import record_traces as stage
from ltd.engine.target import TargetModel
from ltd.errors import InputError
from ltd.record_traces import RecordTracesOptions, TraceRecorder
from ltd.replay.traces import Traces, check
from ltd.texts.responses import Responses, Sequence
from ltd.tracking import StageRun
from noted_run import NotedRun
from saved_engine import save_engine
from tiny_engine import tiny_answers, tiny_drafter, tiny_head, tiny_target

HASHES = {"target_hash": "target", "draft_hash": "draft"}


@pytest.fixture(scope="module")
def engine():
    target = tiny_target()
    return target, tiny_head(target)


@pytest.fixture(scope="module")
def answers(engine):
    return [answer for answer in tiny_answers(engine[0], 5, max_new_tokens=25) if len(answer.answer) > 1]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engine")
    target, draft = save_engine(folder)
    everyone = tiny_answers(TargetModel.load(target), 6, max_new_tokens=25)
    assert [len(answer.answer) == 1 for answer in everyone].count(True) == 1, "one without a cycle"
    responses = folder / "responses.safetensors"
    Responses.from_sequences(everyone).save(responses)
    return {"target": str(target), "draft": draft, "responses": responses}


def make_options(**changes):
    names = dict.fromkeys(("target", "draft", "responses", "output", "state"), "")
    return RecordTracesOptions(**names | {"beam": 3, "max_depth": 4, "features": True} | changes)


def assert_alike(first, second):
    for name, column in first.columns().items():
        if name in ("scores", "entropy", "features"):
            np.testing.assert_allclose(column, getattr(second, name), rtol=1e-3, atol=1e-4)
        else:
            np.testing.assert_array_equal(column, getattr(second, name), err_msg=name)
    assert first.sequences == second.sequences


def test_every_root_of_every_answer_is_there(engine, answers):
    traces = TraceRecorder(*engine, make_options()).record(answers, HASHES)
    check(traces, "recorded")
    for number, (start, answer) in enumerate(zip(traces.starts, answers, strict=True)):
        assert traces.context_length[start] == answer.prompt_length
        assert traces.tokens_left[start] == len(answer.answer) - 1
        assert traces.sequences[number] == {"task": answer.task, "question_id": answer.question_id, "turn": 0}
    assert traces.answer_tokens.sum() == len(traces)


def test_scores_never_rise_along_a_path_and_entropy_is_of_the_pass(engine, answers):
    traces = TraceRecorder(*engine, make_options()).record(answers, HASHES)
    level1 = traces.scores[:, :3]
    parents = np.take_along_axis(level1, traces.beams[:, 0].astype(int), 1)
    assert (traces.scores[:, 3:12].reshape(-1, 3, 3) <= parents[:, :, None]).all()
    assert (traces.beams[:, 0] == [0, 1, 2]).all()
    assert ((traces.entropy > 0) & (traces.entropy < np.log(12))).all()


def test_hidden_states_beyond_half_precision_are_refused(engine, answers, monkeypatch):
    """Those of large heads in bfloat16 may be; infinities in a trace would train specdecpp on nonsense."""
    drafted = stage.draft_trees

    def larger(*arguments):
        trees = drafted(*arguments)
        return dataclasses.replace(trees, features=trees.features * 1e6)

    monkeypatch.setattr(stage, "draft_trees", larger)
    with pytest.raises(
        InputError, match=r"^traces\.features: .* leave the range of float16, 65504; use false"
    ):
        TraceRecorder(*engine, make_options()).record(answers, HASHES)
    TraceRecorder(*engine, make_options(features=False)).record(answers, HASHES)


def test_features_are_those_that_the_drafter_shows(engine, answers):
    target, head = engine
    traces = TraceRecorder(*engine, make_options()).record(answers, HASHES)
    drafter = tiny_drafter(head, traces.beam, traces.max_depth)
    for start, answer in list(zip(traces.starts, answers, strict=True))[:2]:
        prompt = answer.tokens[: answer.prompt_length]
        _, taps = target.prefill(prompt)
        drafter.prefill(taps, prompt)
        drafter.extend(taps[-1:], answer.answer[:1])
        for level in range(traces.max_depth):
            shown = drafter.state.feature.numpy(force=True)
            np.testing.assert_allclose(traces.features[start, level], shown, rtol=2e-3, atol=2e-3)
            if level + 1 < traces.max_depth:
                drafter.expand()


def test_chunks_and_neighbours_change_nothing(engine, answers):
    whole = TraceRecorder(*engine, make_options(chunk=1000)).record(answers, HASHES)
    assert_alike(whole, TraceRecorder(*engine, make_options(chunk=3)).record(answers, HASHES))
    alone = [TraceRecorder(*engine, make_options()).record([answer], HASHES) for answer in answers]
    assert_alike(whole, stage.concatenate(alone))


def test_parts_hold_every_answer_within_their_budget(answers):
    parts = list(stage.split_parts(answers, 60))
    assert [answer for part in parts for answer in part] == list(answers)
    for part in parts:
        assert len(part) == 1 or max(len(answer.tokens) for answer in part) * len(part) <= 60
    assert len(parts) > 1


def test_a_stopped_recording_goes_on(saved, tmp_path, monkeypatch):
    options = make_options(
        **saved, output=tmp_path / "whole.safetensors", state=tmp_path / "state", part_tokens=60
    )
    run = NotedRun()
    stage.record_traces(options, run)
    assert run.files["summary.json"]["traces.positions"] == len(Traces.load(options.output))
    original, calls = TraceRecorder.record, []

    def stops(self, part, header):
        calls.append(len(part))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, part, header)

    monkeypatch.setattr(TraceRecorder, "record", stops)
    resumed = dataclasses.replace(options, output=tmp_path / "resumed.safetensors")
    with pytest.raises(KeyboardInterrupt):
        stage.record_traces(resumed, StageRun())
    assert len(list((tmp_path / "state").glob("part-*"))) == 2 and not resumed.output.exists()
    stage.record_traces(resumed, StageRun())
    assert sum(calls) == 5 + calls[2], "only the part that was stopped may be recorded twice"
    assert resumed.output.read_bytes() == options.output.read_bytes()
    assert not (tmp_path / "state").exists()
    traces = Traces.load(resumed.output)
    assert len(traces.target_hash) == 16 and traces.temperature == 0.0


def test_parts_of_other_options_are_not_taken(saved, tmp_path, monkeypatch):
    options = make_options(**saved, output=tmp_path / "a.safetensors", state=tmp_path / "state")
    (tmp_path / "state").mkdir()
    original = TraceRecorder.record

    def stops(self, part, header):
        original(self, part, header).save(tmp_path / "state" / "part-00000.safetensors")
        raise KeyboardInterrupt

    monkeypatch.setattr(TraceRecorder, "record", stops)
    with pytest.raises(KeyboardInterrupt):
        stage.record_traces(options, StageRun())
    monkeypatch.setattr(TraceRecorder, "record", original)
    stage._prepare_state(options, stage._header(options))
    assert list(options.state.glob("part-*"))
    stage._prepare_state(dataclasses.replace(options, dtype="bfloat16"), stage._header(options))
    assert not list(options.state.glob("part-*"))
    with pytest.raises(KeyboardInterrupt):
        monkeypatch.setattr(TraceRecorder, "record", stops)
        stage.record_traces(options, StageRun())
    monkeypatch.setattr(TraceRecorder, "record", original)
    stage.record_traces(dataclasses.replace(options, beam=2), StageRun())
    assert Traces.load(options.output).beam == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beam": 0}, "beam: 0 is not at least 1"),
        ({"beam": 13}, "beam"),
        ({"beam": 100, "max_depth": 12}, "over 65534 nodes"),
        ({"responses": "nowhere.safetensors"}, "nowhere.safetensors"),
        ({"draft": "nowhere"}, "nowhere"),
    ],
)
def test_wrong_input_is_refused(saved, tmp_path, change, message):
    options = make_options(**saved | {"output": tmp_path / "t", "state": tmp_path / "s"})
    changed = {key: tmp_path / value if isinstance(value, str) else value for key, value in change.items()}
    with pytest.raises(InputError, match=message):
        stage.record_traces(dataclasses.replace(options, **changed), StageRun())
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    ("tokens", "message"),
    [([1, 2, 3], "no answer of two tokens"), ([1, 2, 3, 99], "token 99 is not one of the target's 14")],
)
def test_answers_that_do_not_fit_are_refused(saved, tmp_path, tokens, message):
    path = tmp_path / "responses.safetensors"
    Responses.from_sequences([Sequence(torch.tensor(tokens), 2, "chat", 0, 0)]).save(path)
    options = make_options(**saved | {"responses": path, "output": tmp_path / "t", "state": tmp_path / "s"})
    with pytest.raises(InputError, match=message):
        stage.record_traces(options, StageRun())
