"""A latency profile spelled out for every depth, size and context length: time by plain array indexing.

Replay environments and grid search ask for the time of millions of cycles; interpolation is done here, once.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ltd.engine.tree import pool_size
from ltd.errors import InputError
from ltd.replay.decision_times import DecisionTimes
from ltd.replay.latency import LatencyProfile
from ltd.replay.traces import Traces

# Share of positions beyond the longest context of a profile that is passed over in silence.
BEYOND_PROFILE = 0.02


@dataclass(frozen=True)
class DenseLatency:
    """Seconds as float64 tables, C the largest context length; rows of a table are indexed by their meaning.

    autoregressive and plain [C + 1], steps of plain decoding and between drafts; prefix [R + 1, C + 1] by
    prefix rows (row 0 unused); prefix_slope [C + 1], seconds a row beyond R; draft_steps [D + 1, C + 1],
    levels 2 .. depth together (rows 0 and 1 are zero); verify [V + 1, C + 1], verification and the rest of
    the cycle by nodes verified (row 0 unused); pool [D + 1], nodes of a tree of each depth; decisions, what
    those of a cycle cost.
    """

    autoregressive: NDArray
    plain: NDArray
    prefix: NDArray
    prefix_slope: NDArray
    draft_steps: NDArray
    verify: NDArray
    pool: NDArray
    decisions: DecisionTimes

    def prefix_seconds(self, prefix_rows: ArrayLike, context: ArrayLike) -> NDArray:
        """The first draft pass over `prefix_rows` new rows."""
        last = len(self.prefix) - 1
        beyond = np.maximum(np.asarray(prefix_rows) - last, 0)
        return self.prefix[np.minimum(prefix_rows, last), context] + beyond * self.prefix_slope[context]

    def after_prefix_seconds(self, depth: ArrayLike, size: ArrayLike, context: ArrayLike) -> NDArray:
        """Later draft passes, verification and rest of cycles of depth 1 or more; plain steps at depth 0."""
        verified = np.minimum(size, self.pool[depth])
        drafting = self.draft_steps[depth, context] + self.verify[verified, context]
        return np.where(np.asarray(depth) == 0, self.plain[context], drafting)

    def cycle_seconds(
        self,
        depth: ArrayLike,
        size: ArrayLike,
        context: ArrayLike,
        prefix_rows: ArrayLike = 1,
        depth_decisions: ArrayLike = 0,
        size_decisions: ArrayLike = 0,
    ) -> NDArray:
        """As `LatencyProfile.cycle_seconds`, for integers within the tables."""
        prefix = np.where(np.asarray(depth) == 0, 0.0, self.prefix_seconds(prefix_rows, context))
        deciding = self.decisions.seconds(depth_decisions, size_decisions)
        return prefix + self.after_prefix_seconds(depth, size, context) + deciding


def dense_latency(profile: LatencyProfile, max_depth: int, max_size: int, max_context: int) -> DenseLatency:
    """Spell `profile` out up to the given depth, size and context length.

    Raises InputError when the profile holds no such depth or size.
    """
    if max_depth > profile.max_depth:
        raise InputError(
            f"{profile.path}: max_depth: depth {max_depth} asked for, {profile.max_depth} measured"
        )
    context = np.arange(max_context + 1)
    rows = np.arange(1, profile.tables["draft_prefix"].axis[-1] + 1)[:, None]
    prefix = profile.draft_prefix(rows, context)
    levels = np.arange(2, max_depth + 1)[:, None]
    steps = profile.draft_step(levels, context) if max_depth > 1 else np.zeros((0, max_context + 1))
    pool = np.array([pool_size(profile.beam, depth) for depth in range(max_depth + 1)])
    sizes = np.arange(1, min(max_size, pool[-1]) + 1)[:, None]
    verify = profile.verify(sizes, context) + profile.rest(sizes, context)
    return DenseLatency(
        autoregressive=profile.autoregressive_step(context),
        plain=profile.plain_step(context),
        prefix=np.concatenate([prefix[:1], prefix]),
        prefix_slope=profile.draft_prefix(rows[-1] + 1, context) - prefix[-1],
        draft_steps=np.concatenate([np.zeros((2, max_context + 1)), np.cumsum(steps, axis=0)])[
            : max_depth + 1
        ],
        verify=np.concatenate([verify[:1], verify]),
        pool=pool,
        decisions=profile.decisions,
    )


def dense_for(traces: Traces, profile: LatencyProfile, max_size: int) -> DenseLatency:
    """Tables that cover `traces`; raises InputError when traces and profile do not belong together."""
    check_together(traces, profile)
    beyond = float((traces.context_length > profile.context_lengths[-1]).mean())
    if beyond > BEYOND_PROFILE:
        warnings.warn(
            f"{profile.path}: {100 * beyond:.0f}% of the positions have more context than the longest timed, "
            f"{profile.context_lengths[-1]} tokens, and take its times; extend latency.context_lengths",
            stacklevel=2,
        )
    return dense_latency(profile, traces.max_depth, max_size, int(traces.context_length.max()))


def check_together(traces: Traces, profile: LatencyProfile) -> None:
    """Raise InputError unless the profile was measured with the target, head and beam of the traces."""
    for key in ("target_hash", "draft_hash"):
        ours, theirs = getattr(profile, key), getattr(traces, key)
        if ours is not None and ours != theirs:
            raise InputError(f"{profile.path}: {key}: {ours}, but the traces were recorded with {theirs}")
    if profile.beam != traces.beam:
        raise InputError(f"{profile.path}: beam: {profile.beam}, but the traces have beam {traces.beam}")
    if profile.max_depth < traces.max_depth:
        raise InputError(
            f"{profile.path}: max_depth: {profile.max_depth}, but the traces go to {traces.max_depth}"
        )
