"""A clock that leaves nothing out: every moment of a cycle belongs to exactly one phase."""

import time

import torch

PHASES = ("draft", "verify", "policy", "rest")  # in the order of a cycle's record


class PhaseClock:
    """Attributes the time since the last mark to a phase, so the phases of a cycle sum to its wall time.

    On a GPU marks are events on the stream and cost no synchronisation; they are read when the cycle ends.
    """

    def __init__(self, device: torch.device) -> None:
        self._events = device.type == "cuda"
        self._marks: list[tuple[str, torch.cuda.Event]] = []
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

    def finish(self) -> tuple[float, ...]:
        """Milliseconds of the `PHASES` since the last call (or the start); counting goes on from the last
        mark.
        """
        if self._marks:
            self._read_events()
        spent, self._spent = self._spent, dict.fromkeys(PHASES, 0.0)
        return tuple(spent.values())

    def _read_events(self) -> None:
        self._marks[-1][1].synchronize()
        for phase, now in self._marks:
            self._spent[phase] += self._last.elapsed_time(now)
            self._last = now
        self._marks.clear()

    def _now(self):
        if not self._events:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
