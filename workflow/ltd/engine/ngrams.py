"""An n-gram model that learns from the present text, as prompt lookup does, and from texts given beforehand.

Probabilities are interpolated by Witten and Bell's rule: an order that has seen C tokens of T kinds after a
history mixes its frequencies with those of the next shorter history as C to T. They sum to one at most, and
are small where a history is rare or its continuations many, so that drafts from different histories can be
compared.
"""

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from ltd.errors import InputError

KEPT = 16  # most frequent followers that a frozen history keeps; the others fall back to shorter histories

History = tuple[int, ...]


@dataclass(slots=True)
class Followers:
    """What followed one history: how often in all, how many kinds, and each token's count."""

    total: int = 0
    kinds: int = 0
    counts: dict[int, int] = field(default_factory=dict)

    def add(self, token: int) -> None:
        """Count one more occurrence."""
        seen = self.counts.get(token, 0)
        self.counts[token] = seen + 1
        self.total += 1
        self.kinds += not seen


class NgramCounts:
    """Followers of all histories of 0 to `order` tokens."""

    def __init__(self, order: int) -> None:
        self.order = order
        self.table: dict[History, Followers] = {}

    def add(self, tokens: Sequence[int], token: int) -> None:
        """Count `token` after the last tokens of `tokens`."""
        for length in range(min(self.order, len(tokens)) + 1):
            history = tuple(tokens[len(tokens) - length :])
            followers = self.table.get(history)
            if followers is None:
                followers = self.table[history] = Followers()
            followers.add(token)

    @classmethod
    def of_texts(cls, texts: Sequence[Sequence[int]], order: int) -> "NgramCounts":
        """Counts of whole texts; of each history only the most frequent followers are kept, best first."""
        counts = cls(order)
        for length in range(order + 1):
            grams: Counter[History] = Counter()
            for text in texts:
                grams.update(zip(*(text[place:] for place in range(length + 1)), strict=False))
            for gram, seen in grams.most_common():
                followers = counts.table.setdefault(gram[:-1], Followers())
                followers.total += seen
                followers.kinds += 1
                if len(followers.counts) < KEPT:
                    followers.counts[gram[-1]] = seen
        return counts


NOTHING = Followers()


class NgramModel:
    """Proposes tokens after a history, from a frozen table of texts and a growing one of the present text.

    What the present text says counts `context_weight` times.
    """

    def __init__(
        self, vocab_size: int, *, order: int = 4, context_weight: int = 4, texts: NgramCounts | None = None
    ) -> None:
        """Raises InputError for an order below 1 or one that `texts` do not have."""
        if order < 1 or context_weight < 1 or (texts is not None and texts.order < order):
            raise InputError(
                f"n-grams: order {order} and context_weight {context_weight} must be at least 1, "
                "and the texts counted with that order"
            )
        self.vocab_size, self.order, self.context_weight = vocab_size, order, context_weight
        self.texts = texts or NgramCounts(order)
        self.reset()

    def reset(self) -> None:
        """Forget the present text."""
        self.context, self.tokens = NgramCounts(self.order), []

    def append(self, tokens: Iterable[int]) -> None:
        """The present text goes on."""
        for token in tokens:
            self.context.add(self.tokens[-self.order :], token)
            self.tokens.append(token)

    def children(self, path: Sequence[int], count: int) -> tuple[list[int], list[float]]:
        """The `count` best tokens after the present text and `path`, with their log-probabilities.

        In descending order, ties by token id. Tokens that followed the history or a shorter one are
        considered, from the longest history down until there are enough of them; where the shortest one has
        too few, the first of the vocabulary that are not among them, too.
        """
        history = [*self.tokens[-self.order :], *path][-self.order :]
        orders = self._orders(history)
        mixed = [self._mixture(*pair) for pair in orders]
        candidates = self._candidates(orders, count)
        scored = sorted((-self._probability(mixed, token), token) for token in candidates)[:count]
        return [token for _, token in scored], [math.log(-negative) for negative, _ in scored]

    def log_probability(self, token: int) -> float:
        """Of `token` after the present text."""
        mixed = [self._mixture(*pair) for pair in self._orders(self.tokens[-self.order :])]
        return math.log(self._probability(mixed, token))

    def _orders(self, history: list[int]) -> list[tuple[Followers, Followers]]:
        """Followers in the texts and in the present text, shortest history first."""
        found = []
        texts, context = self.texts.table, self.context.table
        for first in range(len(history), -1, -1):
            key = tuple(history[first:])
            pair = texts.get(key, NOTHING), context.get(key, NOTHING)
            if not pair[0].total and not pair[1].total:
                break
            found.append(pair)
        return found

    def _candidates(self, orders: list[tuple[Followers, Followers]], count: int) -> set[int]:
        candidates: set[int] = set()
        for texts, context in reversed(orders):
            candidates.update(islice(texts.counts, count))
            counts = context.counts
            candidates.update(
                counts if len(counts) <= count else heapq.nlargest(count, counts, key=counts.get)
            )
            if len(candidates) >= count:
                return candidates
        # A text with fewer kinds of tokens than the beam is wide.
        unseen = (token for token in range(self.vocab_size) if token not in candidates)
        return candidates | set(islice(unseen, count - len(candidates)))

    def _mixture(
        self, texts: Followers, context: Followers
    ) -> tuple[dict[int, int], dict[int, int], int, int]:
        """Counts in both, weight of the shorter histories, and what all is divided by."""
        kinds = max(texts.kinds, context.kinds)
        return texts.counts, context.counts, kinds, texts.total + self.context_weight * context.total + kinds

    def _probability(self, mixed: list[tuple[dict[int, int], dict[int, int], int, int]], token: int) -> float:
        probability, weight = 1 / self.vocab_size, self.context_weight
        for texts, context, kinds, whole in mixed:
            seen = texts.get(token, 0) + weight * context.get(token, 0)
            probability = (seen + kinds * probability) / whole
        return probability
