"""The clock of a cycle's phases, on a CPU and with a GPU's events."""

from types import SimpleNamespace

import pytest
import torch

from ltd.engine.phases import PHASES, PhaseClock


class Event:
    """A GPU's event on a clock that a test sets."""

    now, read = 0.0, 0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.at = Event.now

    def elapsed_time(self, later):
        Event.read += 1
        return later.at - self.at


def play(clock, pass_time, *marks):
    """Let milliseconds pass until each mark, and finish a cycle; its record."""
    for milliseconds, phase in marks:
        pass_time(milliseconds)
        clock.mark(phase)
    clock.finish(record := SimpleNamespace())
    return record


def phases(record):
    return [getattr(record, f"{phase}_ms") for phase in PHASES]


FIRST = (1, "rest"), (2, "draft"), (4, "verify"), (8, "rest")
SECOND = (16, "verify"), (32, "policy")


def test_events_are_read_when_the_answer_is_complete(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(Event, "now", 5.0)

    def pass_time(milliseconds):
        Event.now += milliseconds

    clock = PhaseClock(torch.device("cuda"))
    pass_time(7)
    clock.start()
    records = [play(clock, pass_time, *marks) for marks in (FIRST, SECOND)]
    assert Event.read == 0 and not any(map(vars, records))
    clock.settle()
    assert [phases(record) for record in records] == [[2, 4, 0, 9], [0, 16, 32, 0]]
    clock.settle()
    assert Event.read == len(FIRST) + len(SECOND)


def test_records_are_complete_at_once_on_a_cpu(monkeypatch):
    now = 5.0
    monkeypatch.setattr("ltd.engine.phases.time", SimpleNamespace(perf_counter=lambda: now))

    def pass_time(milliseconds):
        nonlocal now
        now += milliseconds / 1e3

    clock = PhaseClock(torch.device("cpu"))
    pass_time(7)
    clock.start()
    assert phases(play(clock, pass_time, *FIRST)) == pytest.approx([2, 4, 0, 9])
    clock.move(0.003, "verify", "policy")
    assert phases(play(clock, pass_time, *SECOND)) == pytest.approx([0, 13, 35, 0])
