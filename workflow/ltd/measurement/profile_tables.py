"""A latency profile from what a `PhaseTimer` has taken, and how far its interpolation is off."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from ltd.devices import device_name
from ltd.engine.target import TargetModel
from ltd.measurement.phase_timer import PhaseTimer
from ltd.measurement.timing import Key, spread, typical, without_pauses
from ltd.measurement.visits import between
from ltd.replay.latency import LatencyProfile, LatencyTable

Samples = Mapping[Key, list[float]]


def latency_tables(
    samples: Samples, axes: Mapping[str, Sequence[int]], context_lengths: Sequence[int]
) -> dict[str, LatencyTable]:
    """Tables of all phases from milliseconds by (phase, position on its axis, context length)."""

    def table(phase: str, axis: Sequence[int]) -> LatencyTable:
        cells = [[samples[phase, point, context] for context in context_lengths] for point in axis]
        return LatencyTable(
            axis=list(axis),
            ms=[[round(typical(cell), 5) for cell in row] for row in cells],
            spread=[[round(spread(cell), 5) for cell in row] for row in cells],
            samples=min(len(cell) for row in cells for cell in row),
        )

    return {phase: table(phase, axis) for phase, axis in axes.items()}


def machine_facts(target: TargetModel, quantisation: str) -> dict[str, Any]:
    """What a profile says of the machine, and of how the engine computes on it."""
    exact = "" if quantisation == "none" else f"+{quantisation}"
    return {
        "device": device_name(target.device),
        "device_type": target.device.type,
        "dtype": str(target.number_type).removeprefix("torch.") + exact,
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("torch", "transformers", "numpy")},
    }


def interpolation_error(profile: LatencyProfile, timer: PhaseTimer) -> dict[str, dict[str, float]]:
    """Relative errors, predicted / measured - 1, where the profile has no measured point.

    Long pauses of the machine are cut, as in the tables. `verify_sizes`: verification of sizes between those
    of the axis; `contexts`: verification, prefix pass and autoregressive step at a context between those of
    the axis; `cycles`: whole cycles of the decoding loop, all phases but the policies'. `bias` is the error
    of their sum, `median` and `largest` are of the size of single ones.
    """
    samples, sizes, contexts = timer.watch.samples(), profile.tables["verify"].axis, profile.context_lengths
    held_out = [context for context in timer.contexts if context not in contexts]

    def points(phase: str, axis: Sequence[int], contexts: Sequence[int]) -> list[tuple[float, float]]:
        look_up = getattr(profile, phase)
        keys = [(point, context) for point in axis for context in contexts]
        return [(1e3 * float(look_up(*key)), typical(samples[phase, *key])) for key in keys]

    plain = [
        (
            1e3 * float(profile.autoregressive_step(context)),
            typical(samples["autoregressive_step", 1, context]),
        )
        for context in held_out
    ]
    pairs = {
        "verify_sizes": points("verify", between(sizes), contexts),
        "contexts": points("verify", sizes, held_out) + points("draft_prefix", timer.rows, held_out) + plain,
    }
    *shape, ms = np.array(timer.live).T
    cycles = 1e3 * profile.cycle_seconds(*(column.astype(int) for column in shape))
    ms = without_pauses(ms, cycles)
    errors = {name: relative_errors(*np.transpose(values)) for name, values in pairs.items() if values}
    return errors | {"cycles": relative_errors(cycles, ms)}


def relative_errors(predicted: ArrayLike, measured: ArrayLike) -> dict[str, float]:
    """Summarise predicted / measured - 1 over points: their number, the error of the sum, and the median and
    the largest size of single errors.
    """
    predicted, measured = np.asarray(predicted), np.asarray(measured)
    error = predicted / measured - 1
    return {
        "points": len(error),
        "bias": float(predicted.sum() / measured.sum() - 1),
        "median": float(np.median(np.abs(error))),
        "largest": float(np.abs(error).max()),
    }
