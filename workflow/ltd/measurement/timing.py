"""Stopwatch for short work, perf_counter on a CPU, device events on a GPU; no garbage collector meanwhile."""

import gc
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ltd.devices import synchronise

PAUSE = 3  # times the usual

Key = tuple[Any, ...]
Result = TypeVar("Result")


@contextmanager
def garbage_kept() -> Iterator[None]:
    """Collect garbage now, and none until the block ends.

    A full collection walks all objects that are alive, a quarter of a second with the libraries loaded: as
    long as four answers of the default take, and it would be charged to the one that it falls into. They are
    set aside here, so the next block's collection does not walk them again.
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Stopwatch:
    """Collects milliseconds under keys.

    On a GPU the host runs ahead: each piece is bracketed by events on the current stream, and times are
    read only when the samples are asked for, so that measuring adds no synchronisation between pieces.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._samples: dict[Key, list[float]] = defaultdict(list)
        self._pending: list[tuple[Key, torch.cuda.Event, torch.cuda.Event]] = []

    def time(self, key: Key, function: Callable[[], Result]) -> Result:
        """Call `function` and add its duration to the samples of `key`."""
        if self.device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            result = function()
            end.record()
            self._pending.append((key, start, end))
            return result
        begun = time.perf_counter()
        result = function()
        self.add(key, 1000 * (time.perf_counter() - begun))
        return result

    def add(self, key: Key, milliseconds: float) -> None:
        """Add a duration measured elsewhere."""
        self._samples[key].append(milliseconds)

    def clear(self) -> None:
        """Forget everything: what came before was warm-up."""
        self.samples().clear()

    def samples(self) -> dict[Key, list[float]]:
        """All samples so far, in milliseconds."""
        if self._pending:
            synchronise(self.device)
        for key, start, end in self._pending:
            self.add(key, start.elapsed_time(end))
        self._pending.clear()
        return self._samples


def without_pauses(times: ArrayLike, usual: ArrayLike) -> NDArray:
    """Times [n], cut at three times the usual one [n] or []: a pause of the whole machine counts as that."""
    return np.minimum(times, PAUSE * np.asarray(usual))


def typical(samples: list[float]) -> float:
    """Mean, long pauses cut.

    An answer's time is a sum of steps. Means predict sums; medians of skewed times fall short, of plain steps
    on a CPU by 2.6%.
    """
    return float(without_pauses(samples, np.median(samples)).mean())


def spread(samples: list[float]) -> float:
    """Interquartile range."""
    low, high = np.percentile(samples, [25, 75])
    return float(high - low)
