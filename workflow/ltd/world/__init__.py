"""The built-in world: seeded generators of prompts and reference answers for six tasks."""

import random
from collections.abc import Iterable, Mapping

from ltd.errors import InputError
from ltd.world import chat, code, instructions, maths, qa, stdlib
from ltd.world.conversation import SPLITS, Conversation, Draw, Exchange
from ltd.world.well_formed import ends_in_loop, faithful, well_formed

__all__ = [
    "SPLITS",
    "TASKS",
    "Conversation",
    "check_disjoint",
    "ends_in_loop",
    "faithful",
    "generate",
    "normalised",
    "well_formed",
]

_GENERATORS = {"code": code, "chat": chat, "maths": maths, "instructions": instructions, "qa": qa}
TASKS = (*_GENERATORS, "stdlib")


def generate(task: str, split: str, count: int, seed: int) -> list[Conversation]:
    """`count` different conversations of one task and split, the same for the same seed.

    Prompts of different splits never meet: each prompt has an entity (a name, for `stdlib` a module) whose
    hash class belongs to one split. `stdlib` depends on the Python installation and gives fewer when the
    split has fewer functions. Raises InputError for an unknown task or split.
    """
    if task not in TASKS or split not in SPLITS:
        raise InputError(
            f"world: no task {task!r} with split {split!r}; "
            f"tasks are {', '.join(TASKS)}, splits are {', '.join(SPLITS)}"
        )
    rng = random.Random(f"{seed} {task} {split}")
    exchanges = _functions(split, count, rng) if task == "stdlib" else _drawn(task, split, count, rng)
    return [
        Conversation(index, exchange.category, exchange.turns, exchange.reference)
        for index, exchange in enumerate(exchanges)
    ]


def _functions(split: str, count: int, rng: random.Random) -> list[Exchange]:
    available = stdlib.functions().get(split, ())
    return rng.sample(available, min(count, len(available)))


def _drawn(task: str, split: str, count: int, rng: random.Random) -> list[Exchange]:
    draw = Draw(split, rng)
    found: dict[str, Exchange] = {}
    while len(found) < count:
        exchange = _GENERATORS[task].exchange(draw)
        found.setdefault(normalised(exchange.turns), exchange)
    return list(found.values())


def normalised(turns: Iterable[str]) -> str:
    """Prompt text with case and white space evened out, for comparing prompts."""
    return " ".join(" ".join(turns).lower().split())


def check_disjoint(splits: Mapping[str, Iterable[Conversation]]) -> None:
    """Raise InputError if a prompt of one split appears in another; first turns decide, for each turn is a
    prompt of its own.
    """
    owner: dict[str, str] = {}
    for split, conversations in splits.items():
        for conversation in conversations:
            first = owner.setdefault(normalised(conversation.turns[:1]), split)
            if first != split:
                raise InputError(
                    f"prompts: {conversation.turns[0][:60]!r} is in both {first} and {split}; "
                    "each prompt must be in one split only"
                )
