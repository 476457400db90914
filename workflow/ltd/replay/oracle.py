"""The clairvoyant optimum: the least total time of every answer when each cycle may choose any depth and size
knowing what the target will accept. No policy can be faster on the same traces and profile.

Dynamic programming backward over the positions of an answer. The state is (position, rows), rows being the
tokens emitted since the last prefix pass, because a plain step leaves its row to the next prefix pass:

    best(i, r) = min( plain(i) + best(i + 1, r + 1),
              prefix(r, i) + min over (D, V) of [cycle(D, V, i) + best(i + tokens, tokens)] )
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ltd.errors import InputError
from ltd.replay.dense_latency import DenseLatency, dense_for
from ltd.replay.latency import LatencyProfile
from ltd.replay.simulator import Cycles, Simulation
from ltd.replay.table import ReplayTable
from ltd.replay.traces import Traces

# Bytes of the table that remembers where skipping is best; answers are handled in groups that fit.
GROUP_BYTES = 1 << 28


def oracle(
    traces: Traces, profile: LatencyProfile, sizes: Sequence[int], depths: Sequence[int] | None = None
) -> Simulation:
    """Walk every answer along its fastest choices among `depths` (all of the traces by default) and `sizes`.

    Depth 0 is always allowed, and so is an answer without a draft head at all, whose steps are shorter; no
    time is charged for deciding. Raises InputError when traces and profile do not belong together or lack a
    depth or size asked for.
    """
    depths = tuple(range(1, traces.max_depth + 1)) if depths is None else tuple(d for d in depths if d > 0)
    if not depths or max(depths) > traces.max_depth or not sizes or min(sizes) < 1:
        raise InputError(
            f"depths {depths}, sizes {tuple(sizes)}: depths 1 to {traces.max_depth}, sizes from 1"
        )
    dense = dense_for(traces, profile, max(sizes))
    options = [(depth, size) for depth in depths for size in sizes]
    cost, choice = _cheapest_by_tokens(traces, dense, options)
    walks = [
        _walk(traces, dense, cost, choice, np.array(options), group)
        for group in _groups(traces.answer_tokens)
    ]
    drafted = {name: np.concatenate([walk[name] for walk in walks]) for name in Cycles.__dataclass_fields__}
    plain = _without_head(traces, dense)
    took, takes = (
        np.bincount(way["sequence"], way["seconds"], len(traces.starts)) for way in (drafted, plain)
    )
    kept = (took <= takes)[drafted["sequence"]], (took > takes)[plain["sequence"]]
    columns = {name: np.concatenate([drafted[name][kept[0]], plain[name][kept[1]]]) for name in drafted}
    order = np.argsort(columns["sequence"], kind="stable")
    log = Cycles(**{name: column[order] for name, column in columns.items()})
    return Simulation.of_cycles(traces, log)


def _without_head(traces: Traces, dense: DenseLatency) -> dict[str, NDArray]:
    """Every answer decoded autoregressively; columns of `Cycles`."""
    context = np.asarray(traces.context_length, dtype=np.int64)
    nothing, one = np.zeros(len(traces), dtype=np.int64), np.ones(len(traces), dtype=np.int64)
    return {
        "sequence": np.asarray(traces.sequence, dtype=np.int64),
        "context_length": context,
        **dict.fromkeys(("depth", "size", "verified", "accepted"), nothing),
        "tokens": one,
        "seconds": dense.autoregressive[context],
    }


def _cheapest_by_tokens(
    traces: Traces, dense: DenseLatency, options: list[tuple[int, int]]
) -> tuple[NDArray, NDArray]:
    """The cheapest option that emits exactly t tokens, prefix pass left out.

    Returns seconds float64 [N, D + 2] and option int32 [N, D + 2] indexed by t; infinite where none does.
    """
    table, position = ReplayTable(traces), np.arange(len(traces))
    context = np.asarray(traces.context_length)
    cost = np.full((len(traces), traces.max_depth + 2), np.inf)
    choice = np.full(cost.shape, -1, dtype=np.int32)
    for number, (depth, size) in enumerate(options):
        tokens = table.tokens(position, depth, size)
        seconds = dense.after_prefix_seconds(depth, size, context)
        better = np.flatnonzero(seconds < cost[position, tokens])
        cost[better, tokens[better]] = seconds[better]
        choice[better, tokens[better]] = number
    return cost, choice


def _groups(answer_tokens: NDArray) -> Iterator[NDArray]:
    """Split the sequences into groups of similar length whose tables fit into GROUP_BYTES."""
    order = np.argsort(-answer_tokens, kind="stable")
    while len(order):
        longest = int(answer_tokens[order[0]]) + 1
        count = max(1, GROUP_BYTES // longest**2)
        yield order[:count]
        order = order[count:]


def _solve(traces: Traces, dense: DenseLatency, cost: NDArray, group: NDArray) -> tuple[NDArray, NDArray]:
    """Backward pass over the answers of a group.

    Returns skip bool [T + 1, S, rows] by (tokens left, answer, rows) and best_tokens int64 [T + 1, S], the
    tokens that the best drafting cycle emits. Answers are aligned at their ends.
    """
    lengths = traces.answer_tokens[group]
    longest, reach = int(lengths.max()), cost.shape[1] - 1
    width = max(longest + 2, reach + 1)
    ends = traces.starts[group] + lengths
    skip = np.zeros((longest + 1, len(group), width), dtype=bool)
    best_tokens = np.zeros((longest + 1, len(group)), dtype=np.int64)
    rows = np.arange(width)
    after_cycle = np.full(
        (longest + 1, len(group), reach + 1), np.inf
    )  # best time with j left and r <= reach
    after_cycle[0] = 0.0
    later = np.zeros((len(group), width))
    emitted = np.arange(1, reach + 1)
    for left in range(1, longest + 1):
        alive = lengths >= left
        position = np.where(alive, ends - left, 0)
        context = np.asarray(traces.context_length)[position]
        possible = emitted[: min(left, reach)]
        drafted = cost[position][:, possible] + after_cycle[left - possible, :, possible].T
        best_tokens[left] = possible[drafted.argmin(axis=1)]
        draft = dense.prefix_seconds(rows, context[:, None]) + drafted.min(axis=1)[:, None]
        plain = np.full_like(draft, np.inf)
        plain[:, :-1] = dense.plain[context][:, None] + later[:, 1:]
        skip[left] = plain < draft
        later = np.minimum(plain, draft)
        after_cycle[left] = later[:, : reach + 1]
    return skip, best_tokens


def _walk(
    traces: Traces, dense: DenseLatency, cost: NDArray, choice: NDArray, options: NDArray, group: NDArray
) -> dict[str, NDArray]:
    """Follow the best choices from the start of every answer of a group; columns of `Cycles`."""
    skip, best_tokens = _solve(traces, dense, cost, group)
    lane, left = np.arange(len(group)), traces.answer_tokens[group]
    position, rows = traces.starts[group], np.ones(len(group), dtype=np.int64)
    table, pieces = ReplayTable(traces), []
    while len(lane):
        plain = skip[left, lane, rows]
        tokens = np.where(plain, 1, best_tokens[left, lane])
        depth, size = options[choice[position, tokens]].T * ~plain
        context = np.asarray(traces.context_length)[position]
        pieces.append(
            {
                "sequence": group[lane],
                "context_length": context.astype(np.int64),
                "depth": depth,
                "size": size,
                "verified": np.minimum(size, dense.pool[depth]),
                "accepted": table.accepted(position, depth, size),
                "tokens": tokens,
                "seconds": dense.cycle_seconds(depth, size, context, rows),
            }
        )
        rows = np.where(plain, rows + 1, tokens)
        left, position = left - tokens, position + tokens
        going = left > 0
        lane, left, position, rows = lane[going], left[going], position[going], rows[going]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
