"""What a profile visits: held-out points, rows of the prefix pass, and the room in the caches for all of it.

Needs no torch: an experiment's settings are checked with it before any stage starts.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

from ltd.errors import InputError

LIVE_TOKENS = 40  # tokens of an answer with live cycles
PLAIN_TOKENS = 64  # of one of plain decoding
ORDINARY_TREES = 4  # before a cycle that counts


def between(points: Sequence[int]) -> tuple[int, ...]:
    """Points to hold out: the middles of every second gap that has one."""
    middles = [(a + b) // 2 for a, b in pairwise(points) if b - a > 1]
    return tuple(middles[::2])


def prefix_axis(max_depth: int) -> tuple[int, ...]:
    """Row counts of the prefix pass to time: a cycle of depth D brings 1 to D + 1 rows."""
    return tuple(sorted({1, 2, 4, 8, max_depth + 1}))


def shorter_prompt(visits: int) -> int:
    """By how much a prompt is shorter than the context length, so that the cache holds the latter in the
    middle of the visits, each of a counted tree and the ordinary ones.
    """
    return visits * (ORDINARY_TREES + 1) // 2


def room_needed(sizes: Sequence[int], max_depth: int) -> int:
    """Tokens that visits and answers add to the caches beyond a context length, at most.

    Counted visits bring the rows of their prefix pass to the head's cache, those of plain steps among them,
    the ordinary trees before bring one row each. A prompt that is shorter for them may be as short as it can
    be, so that does not count.
    """
    rows = prefix_axis(max_depth)
    visits = max(len(sizes) + len(between(sizes)), len(rows))
    counted = math.ceil(visits / len(rows)) * sum(rows)
    return max(LIVE_TOKENS, PLAIN_TOKENS, counted + visits * ORDINARY_TREES)


def check_room(
    context_lengths: Sequence[int], sizes: Sequence[int], max_depth: int, max_context: int
) -> None:
    """Raise InputError for contexts in which a target of `max_context` tokens cannot go on decoding."""
    room = max_context - room_needed(sizes, max_depth)
    if context_lengths[-1] > room:
        raise InputError(
            f"latency.context_lengths: {context_lengths[-1]} leaves no room to decode; "
            f"the target's context of {max_context} allows {room}"
        )
