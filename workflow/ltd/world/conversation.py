"""One conversation of the built-in world, and the draws that keep its splits apart."""

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")

SPLITS = ("corpus", "train", "validation", "test")

# Shares of the hash space, in sixteenths: the target's training text needs the most entities.
_CLASSES = ("corpus",) * 9 + ("train",) * 3 + ("validation",) * 2 + ("test",) * 2


@dataclass(frozen=True)
class Conversation:
    """Turns of a user and one reference answer a turn, in the fields of EAGLE's question files."""

    question_id: int | str
    category: str
    turns: tuple[str, ...]
    reference: tuple[str, ...]

    def as_row(self) -> dict:
        """The conversation as one JSONL row."""
        return {
            "question_id": self.question_id,
            "category": self.category,
            "turns": list(self.turns),
            "reference": list(self.reference),
        }


@dataclass(frozen=True)
class Exchange:
    """What a generator returns: its family's name, the user's turns and the reference answers."""

    category: str
    turns: tuple[str, ...]
    reference: tuple[str, ...]


def split_of(text: str) -> str:
    """The one split that may use `text` (an entity's name), the same on every machine and for every seed."""
    return _CLASSES[_digest(text.lower())[0] % len(_CLASSES)]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


class Draw:
    """Random draws for one split: entities that belong to it alone, and choices anyone may make."""

    def __init__(self, split: str, rng: random.Random):
        self.split = split
        self.rng = rng

    def choice(self, options: Sequence[Item]) -> Item:
        return self.rng.choice(options)

    def sample(self, options: Sequence[Item], count: int) -> list[Item]:
        return self.rng.sample(options, count)

    def number(self, low: int, high: int) -> int:
        """An integer from `low` to `high`, both included."""
        return self.rng.randint(low, high)

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def leaning(self, options: Sequence[Item], *keys: str) -> Item:
        """In three of four draws the option that `keys` (words of the prompt) always lead to, else any.

        The world has habits that a model can learn, such as which spice goes with which vegetable; without
        them a greedy answer would fill every free slot with the same most frequent word.
        """
        if self.chance(0.25):
            return self.choice(options)
        return max(options, key=lambda option: _digest(" ".join([*keys, str(option)])))

    def leaning_sample(self, options: Sequence[Item], count: int, *keys: str) -> list[Item]:
        """`count` different options, each drawn as by `leaning`."""
        found: list[Item] = []
        while len(found) < count:
            left = [each for each in options if each not in found]
            found.append(self.leaning(left, *keys, str(len(found))))
        return found

    def own(self, make: Callable[[], str]) -> str:
        """The first result of `make()` whose hash class is this split's."""
        while True:
            text = make()
            if split_of(text) == self.split:
                return text

    def phrase(self, *options: str, held_out: str) -> str:
        """One of `options`; a quarter of the test prompts get `held_out`, which no other split has."""
        if self.split == "test" and self.chance(0.25):
            return held_out
        return self.choice(options)
