"""Passes of fixed shapes, captured as CUDA graphs: one launch instead of hundreds.

A pass is a function without arguments that reads and writes buffers which stay where they are. A graph
repeats its kernels, not its Python, so the function must take everything that changes from those buffers.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch

from ltd.errors import InputError

WARM_UP = 2  # calls before the capture, in which libraries allocate their workspaces
SMALLEST_CONTEXT = 256


class Passes:
    """Runs passes by key: on a GPU captured when first met and replayed from then on, elsewhere called.

    What a pass returns is overwritten by the next run of any pass of this object: graphs share their memory.
    """

    def __init__(self, device: torch.device) -> None:
        self.captures = device.type == "cuda"
        self._graphs: dict[Hashable, tuple[Any, Any]] = {}
        self._pool = None

    def run(self, key: Hashable, function: Callable[[], Any]) -> Any:
        """The result of `function`, which must be the same function whenever `key` is."""
        if not self.captures:
            return function()
        if key not in self._graphs:
            self._graphs[key] = self._capture(function)
        graph, result = self._graphs[key]
        graph.replay()
        return result

    def _capture(self, function: Callable[[], Any]) -> tuple[Any, Any]:
        current, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                function()
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            result = function()
        # Graphs run one after the other, so they may share memory for what lives within one.
        self._pool = graph.pool()
        return graph, result


def bucket(count: int, buckets: Sequence[int]) -> int:
    """The smallest of the ascending `buckets` that holds `count`."""
    for size in buckets:
        if size >= count:
            return size
    raise InputError(f"{count} rows or tokens exceed the {buckets[-1]} that the engine was made for")


def row_buckets(largest: int) -> tuple[int, ...]:
    """Row counts of passes: multiples of a GPU's tiles, the smallest ones eight rows wide.

    A product of fewer rows goes to kernels that take longer: on an H100 a step of Llama-3.1-8B padded to
    eight rows takes 0.89 of the time of a single one.
    """
    usual = (8, 16, 24, 32, 48, 64, 80, 96, 128, 160, 192, 224, 256)
    return (*(size for size in usual if size < largest), largest)


def context_buckets(largest: int) -> tuple[int, ...]:
    """Numbers of cached tokens that attention covers: powers of two, and the middles between them."""
    sizes, size = [], SMALLEST_CONTEXT
    while size < largest:
        sizes += [size, size + size // 2]
        size *= 2
    return (*(size for size in sizes if size < largest), largest)
