"""Chain drafts, one token a level, from traces and a profile recorded with a wider beam.

A chain follows the best child of the best child, which a beam of W expands too, unless W other nodes of a
level score higher. Only where that happens, and the target agrees with all of the chain so far, is it unknown
how the chain goes on.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ltd.replay.latency import LatencyProfile
from ltd.replay.traces import Traces, level_starts, true_path_ranks


def chain_traces(traces: Traces, unknown_accepted: bool) -> tuple[Traces, NDArray[np.bool_]]:
    """Traces of beam 1, and for every position whether they are exact, bool [N].

    Where they are not, the part of the chain that was not recorded counts as accepted to its end or as
    rejected: the truth lies between the two.
    """
    on_path, unknown = _levels_on_path(traces)
    if unknown_accepted:
        on_path |= unknown
    levels = np.arange(traces.max_depth)
    true_node = np.where(on_path, levels, -1).astype(np.int32)
    scores = np.broadcast_to(-levels.astype(np.float32), true_node.shape)
    chains = replace(
        traces,
        scores=scores,
        true_node=true_node,
        ranks=true_path_ranks(scores, true_node, 1),
        beams=np.zeros((*true_node.shape, 1), dtype=np.uint8),
        beam=1,
        entropy=None,
        features=None,
    )
    return chains, ~unknown.any(axis=1)


def _levels_on_path(traces: Traces) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether the chain's node of each level is the target's token, and where that is unknown, [N, D]."""
    beam, starts = traces.beam, level_starts(traces.beam, traces.max_depth)
    places = np.asarray(traces.true_node) - starts  # within the level; the best child of any parent is first
    first_child = (np.asarray(traces.true_node) >= 0) & (places % beam == 0)
    first_child[:, 0] = traces.true_node[:, 0] == 0
    expanded = (np.asarray(traces.beams) == places[:, :, None]).any(axis=2)
    expanded[:, 0] = True
    on_path = np.logical_and.accumulate(first_child, axis=1)
    lost = on_path & ~expanded
    unknown = np.zeros_like(on_path)
    unknown[:, 1:] = np.logical_or.accumulate(lost, axis=1)[:, :-1]
    # Past the end of the answer nothing is left to accept.
    unknown &= np.arange(traces.max_depth) < np.asarray(traces.tokens_left)[:, None]
    return on_path, unknown


def chain_profile(profile: LatencyProfile) -> LatencyProfile:
    """The profile of the same machine with beam 1, no draft pass cheaper than it would be.

    A later pass has one row instead of W: it takes at most what one of W rows takes, and at most what the
    prefix pass over one row takes, which fuses features besides.
    """
    steps = profile.tables["draft_step"]
    one_row = [1e3 * float(profile.draft_prefix(1, context)) for context in profile.context_lengths]
    ms = np.minimum(np.array(steps.ms), one_row).tolist()
    return replace(profile.replace_table("draft_step", replace(steps, ms=ms, spread=None)), beam=1)
