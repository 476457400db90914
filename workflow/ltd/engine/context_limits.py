"""How long a context the engine serves for a target, by its config.json: positions, windows, rotations.

Needs no torch: an experiment's settings are checked with it before any stage starts.
"""

from collections.abc import Mapping
from typing import Any

from ltd.errors import InputError

# Rotary variants whose angles depend on how long the sequence is by now.
LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")


def sliding_window(values: Mapping[str, Any]) -> int | None:
    """Tokens that layers with a window see; None where every layer sees all tokens."""
    types = values.get("layer_types")
    slides = types is None or "sliding_attention" in types
    return values.get("sliding_window") or None if slides and values.get("use_sliding_window", True) else None


def length_dependent_rotation(values: Mapping[str, Any]) -> tuple[str, int] | None:
    """Kind of the rotary embeddings that change with the sequence's length, and the tokens up to which they
    do not; None for others. Configurations keep both in either place, or under an older name.
    """
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    kind, key = rope.get("rope_type", rope.get("type")), "original_max_position_embeddings"
    if kind not in LENGTH_DEPENDENT_ROPE:
        return None
    return kind, rope.get(key) or values.get(key) or values["max_position_embeddings"]


def unchanged_rotation(values: Mapping[str, Any], tree: int) -> int | None:
    """Longest context in which rotary embeddings do not change with the length, behind which the positions of
    a tree of so many nodes have room; None where they never change.
    """
    changing = length_dependent_rotation(values)
    return None if changing is None else changing[1] - tree - 1  # a tree is its root and its nodes


def longest_context(values: Mapping[str, Any], tree: int) -> int | None:
    """Most tokens that a target can hold beside trees of so many nodes; None where its configuration has
    other words for all that decides it.
    """
    limits = (values.get("max_position_embeddings"), sliding_window(values), unchanged_rotation(values, tree))
    return min((limit for limit in limits if limit is not None), default=None)


def check_prompt(values: Mapping[str, Any], tree: int, count: int, name: str) -> None:
    """Refuse a prompt of more tokens than a target, called `name`, can hold, whatever room is made for it."""
    longest = longest_context(values, tree)
    if longest is not None and count > longest:
        raise InputError(
            f"prompt: {count} tokens are more than the {longest} that {name} can hold; shorten the prompt"
        )


def check_rotation(values: Mapping[str, Any], max_context: int, max_tree: int) -> None:
    """Refuse rotary embeddings that change with the sequence's length within `max_context` tokens and the
    positions of a tree behind them: tables are computed once, for all of them.
    """
    changing, room = length_dependent_rotation(values), unchanged_rotation(values, max_tree)
    if changing is not None and max_context > room:
        kind, original = changing
        raise InputError(
            f"max_context: rope type {kind!r} rotates all positions anew beyond {original} "
            f"tokens, which a cache cannot follow; use at most {room}, which leaves room for trees of "
            f"{max_tree} nodes"
        )
