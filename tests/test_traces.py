"""The trace file: what is written comes back mapped, and a wrong file gives one clear line."""

import dataclasses

import numpy as np
import pytest

from ltd.errors import InputError
from ltd.replay.traces import Traces, check
from synthetic import synthetic_traces


def test_file_round_trip(tmp_path):
    traces = synthetic_traces(with_optional=True)
    traces.save(tmp_path / "traces.safetensors")
    loaded = Traces.load(tmp_path / "traces.safetensors")
    for field in dataclasses.fields(Traces):
        before, after = getattr(traces, field.name), getattr(loaded, field.name)
        if isinstance(before, np.ndarray):
            assert before.dtype == after.dtype
            np.testing.assert_array_equal(before, after)
        else:
            assert before == after


def test_loading_reads_nothing_yet(tmp_path):
    traces = synthetic_traces(sequences=3)
    traces.save(tmp_path / "traces.safetensors")
    loaded = Traces.load(tmp_path / "traces.safetensors")
    assert not loaded.scores.flags.owndata, "scores must be mapped, not copied"
    first = loaded.scores[0, 0]
    # The map sees a later change of the file: nothing was copied.
    content = bytearray((tmp_path / "traces.safetensors").read_bytes())
    place = content.find(traces.scores[0].tobytes())
    with (tmp_path / "traces.safetensors").open("r+b") as file:
        file.seek(place)
        file.write(np.float32(first + 1).tobytes())
    assert loaded.scores[0, 0] == first + 1


def test_optional_columns_are_absent(tmp_path):
    synthetic_traces().save(tmp_path / "traces.safetensors")
    loaded = Traces.load(tmp_path / "traces.safetensors")
    assert loaded.entropy is None and loaded.features is None


def test_sequences_are_found():
    traces = synthetic_traces(sequences=5)
    ends = np.append(traces.starts[1:], len(traces))
    assert traces.answer_tokens.sum() == len(traces)
    np.testing.assert_array_equal(ends - traces.starts, traces.answer_tokens)
    assert len(traces.tasks) == 5


def shorten(traces, count):
    return {name: value[:count] for name, value in traces.columns().items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: shorten(t, 0) | {"sequences": []}, "no position"),
        (lambda t: shorten(t, len(t) - 1), "grouped by answer"),
        (lambda t: {"sequence": t.sequence[::-1]}, "grouped by answer"),
        (lambda t: {"context_length": t.context_length // 2}, "grouped by answer"),
        (lambda t: {"scores": t.scores[:, 1:]}, "scores has shape"),
        (lambda t: {"max_depth": 5}, "expected"),
    ],
)
def test_inconsistent_traces_are_refused(tmp_path, change, message):
    traces = synthetic_traces()
    check(traces, "good")
    path = tmp_path / "traces.safetensors"
    dataclasses.replace(traces, **change(traces)).save(path)
    with pytest.raises(InputError, match=message) as error:
        Traces.load(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_wrong_files_are_refused(tmp_path):
    path = tmp_path / "traces.safetensors"
    with pytest.raises(InputError, match="no such trace file"):
        Traces.load(path)
    synthetic_traces().save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        Traces.load(path)
    from safetensors.numpy import save_file

    save_file({"scores": np.zeros((2, 2), np.float32)}, path)
    with pytest.raises(InputError, match="not a trace file of this version"):
        Traces.load(path)
