"""A clock that leaves nothing out: every moment of a cycle belongs to exactly one phase."""

import time

import torch

PHASES = ("draft", "verify", "policy", "rest")


class PhaseClock:
    """Attributes the time since the last mark to a phase, so the phases of a cycle sum to its wall time.

    On a GPU marks are events on the stream and cost no synchronisation; they are read when the cycle ends.
    """

    def __init__(self, device: torch.device) -> None:
        self._events = device.type == "cuda"
        self._marks: list[tuple[str, object]] = []
        self.start()

    def start(self) -> None:
        """Begin to count now."""
        self._last = self._now()
        self._marks.clear()

    def mark(self, phase: str) -> None:
        """The time since the last mark was spent in `phase`."""
        self._marks.append((phase, self._now()))

    def finish(self) -> dict[str, float]:
        """Milliseconds by phase since the last call (or the start); counting goes on from the last mark."""
        spent = dict.fromkeys(PHASES, 0.0)
        if self._events and self._marks:
            self._marks[-1][1].synchronize()
        previous = self._last
        for phase, now in self._marks:
            spent[phase] += previous.elapsed_time(now) if self._events else (now - previous) * 1e3
            previous = now
        self._last = previous
        self._marks.clear()
        return spent

    def _now(self):
        if not self._events:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
