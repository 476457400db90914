"""A clock that leaves nothing out: every moment of a cycle belongs to exactly one phase."""

import time
from typing import Any

import torch

PHASES = ("draft", "verify", "policy", "rest")  # in the order of a cycle's record


class PhaseClock:
    """Attributes the time since the last mark to a phase, so the phases of a cycle sum to its wall time.

    On a GPU marks are events on the stream: nobody waits for them before an answer is complete.
    """

    def __init__(self, device: torch.device) -> None:
        self._events = device.type == "cuda"
        self._marks: list[tuple[str, torch.cuda.Event]] = []
        self._unread: list[tuple[Any, list[tuple[str, torch.cuda.Event]]]] = []
        self.start()

    def start(self) -> None:
        """Begin to count now."""
        self._last = self._now()
        self._marks.clear()
        self._spent = dict.fromkeys(PHASES, 0.0)

    def mark(self, phase: str) -> None:
        """The time since the last mark was spent in `phase`."""
        now = self._now()
        if self._events:
            self._marks.append((phase, now))
        else:
            self._spent[phase] += (now - self._last) * 1e3
            self._last = now

    def move(self, seconds: float, source: str, target: str) -> None:
        """So much of what was marked as `source` was spent in `target`: one call did both, on a CPU."""
        self._spent[source] -= seconds * 1e3
        self._spent[target] += seconds * 1e3

    def finish(self, record: Any) -> None:
        """A cycle is over: milliseconds of the `PHASES` since the last call (or the start) become `draft_ms`,
        `verify_ms`, ... of its record, on a GPU not before `settle`. Counting goes on from the last mark.
        """
        if self._events:
            self._unread.append((record, self._marks))
            self._marks = []
        else:
            self._write(record)

    def settle(self) -> None:
        """Complete the records, once the device has reached all marks."""
        for record, marks in self._unread:
            for phase, now in marks:
                self._spent[phase] += self._last.elapsed_time(now)
                self._last = now
            self._write(record)
        self._unread.clear()

    def _write(self, record: Any) -> None:
        for phase, milliseconds in self._spent.items():
            setattr(record, f"{phase}_ms", milliseconds)
        self._spent = dict.fromkeys(PHASES, 0.0)

    def _now(self):
        if not self._events:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
