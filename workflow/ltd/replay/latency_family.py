"""Machines that nobody measured: one measured machine, changed in the ways in which machines differ.

Policies that are to run on any machine train on many of them at once. They keep the autoregressive step and
the time of a decision, as only what a phase costs in relation to them matters to a policy.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ltd.replay.dense_latency import DenseLatency
from ltd.replay.latency import LatencyProfile, LatencyTable

# Ranges of the family: slower growth of verification, and factors of the time of drafting and of the rest.
SLOWER_GROWTH = (0.5, 20.0)
DRAFT = (0.25, 2.0)
REST = (0.25, 2.0)
# Smallest buckets of machines that pad their verification, and the share of such machines.
FIRST_BUCKETS = (4, 8, 16, 32)
PADDED_SHARE = 0.5


@dataclass(frozen=True)
class Change:
    """What is different from the measured machine.

    slower_growth: verification grows so many times more slowly. draft, rest: factors of the time of all draft
    passes and of the rest of a cycle. buckets: sizes up to which verifications are padded; empty for none.
    """

    slower_growth: float = 1.0
    draft: float = 1.0
    rest: float = 1.0
    buckets: tuple[int, ...] = ()


def changed(profile: LatencyProfile, change: Change) -> LatencyProfile:
    """The machine of `profile` with one change; the name of its device says that it was not measured."""
    made = profile.slower_growth_of_verification(change.slower_growth)
    factors = {"draft_prefix": change.draft, "draft_step": change.draft, "rest": change.rest}
    for name, factor in factors.items():
        table = profile.tables[name]
        ms = (np.array(table.ms) * factor).tolist()
        made = made.replace_table(name, LatencyTable(table.axis, ms))
    verify = made.tables["verify"]
    if change.buckets:
        verify = padded(verify, change.buckets)
    made = made.replace_table("verify", LatencyTable(verify.axis, verify.ms))
    return dataclasses.replace(made, device=f"made up from {profile.device}", interpolation_error={})


def padded(verify: LatencyTable, buckets: Sequence[int]) -> LatencyTable:
    """Verification in fixed shapes: a size takes as long as the next bucket, at most the largest measured."""
    first, last = verify.axis[0], verify.axis[-1]
    edges = sorted({bucket for bucket in buckets if first <= bucket < last} | {last})
    axis = sorted({first, *edges, *(edge + 1 for edge in edges[:-1])})
    tops = [edges[np.searchsorted(edges, size)] for size in axis]
    columns = [np.interp(tops, verify.axis, column) for column in np.transpose(verify.ms)]
    return LatencyTable(axis, np.transpose(columns).tolist())


def draw_changes(count: int, max_size: int, rng: np.random.Generator) -> list[Change]:
    """Draw machines: factors evenly on a logarithmic scale; half of the machines have buckets."""

    def factors(low: float, high: float) -> np.ndarray:
        return np.exp(rng.uniform(np.log(low), np.log(high), size=count))

    growth, draft, rest = (factors(*limits) for limits in (SLOWER_GROWTH, DRAFT, REST))
    is_padded = rng.random(count) < PADDED_SHARE
    buckets = [_draw_buckets(max_size, rng) if padding else () for padding in is_padded]
    numbers = zip(growth.tolist(), draft.tolist(), rest.tolist(), buckets, strict=True)
    return [Change(*values) for values in numbers]


def _draw_buckets(max_size: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Multiples of the first bucket, or its doublings."""
    first = int(rng.choice(FIRST_BUCKETS))
    multiples, doublings = range(first, max_size, first), [first << i for i in range(max_size.bit_length())]
    return tuple(multiples if rng.random() < 0.5 else (size for size in doublings if size < max_size))


def draw_family(profile: LatencyProfile, count: int, seed: Sequence[int]) -> list[LatencyProfile]:
    """Draw `count` machines around and beyond a measured one."""
    rng = np.random.default_rng(seed)
    return [changed(profile, change) for change in draw_changes(count, profile.max_size, rng)]


def side_by_side(machines: Sequence[DenseLatency]) -> DenseLatency:
    """Tables of several machines as one: that of machine m stands m * (C + 1) contexts further right.

    All must have the same depths, sizes, contexts and times of decisions.
    """
    if len(machines) == 1:
        return machines[0]
    tables = ("autoregressive", "plain", "prefix", "prefix_slope", "draft_steps", "verify")
    joined = {name: np.concatenate([getattr(m, name) for m in machines], axis=-1) for name in tables}
    return dataclasses.replace(machines[0], **joined)
