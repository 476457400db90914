"""Drafting without a network: trees of what followed the same words before, here or in given texts.

The same trees as those of `ltd.engine.drafting.Drafter` (pool order, beams, selection), the scores being the
cumulative log-probabilities of an n-gram model. It needs nothing of the target but tokens, and like any
drafter it changes no token that the target emits.
"""

import math

import numpy as np
import torch
from torch import Tensor

from ltd.engine.controllers import DraftState
from ltd.engine.ngrams import NgramModel
from ltd.engine.tree import DraftTree, pool_size
from ltd.errors import InputError


class LookupState(DraftState):
    """A draft state whose distributions are known for the proposed tokens alone."""

    proposed: np.ndarray  # log-probabilities [W] of the children of the newest pass's best node
    vocab_size: int

    def entropy(self) -> float:
        """Entropy in nats at the best node of the newest pass, the rest of the mass taken as uniform."""
        known = np.exp(self.proposed.astype(np.float64))
        rest, others = max(1 - known.sum(), 0.0), self.vocab_size - len(known)
        tail = rest * math.log(others / rest) if rest > 0 and others > 0 else 0.0
        return float(tail - (known * self.proposed).sum())


class LookupDrafter:
    """Drafts one tree at a time for one text; the interface of `ltd.engine.drafting.Drafter`.

    Nodes are looked up one by one: a look-up is a few steps in hash tables on the host, on any device.
    """

    drafts_in_one_call = False

    def __init__(
        self, model: NgramModel, *, beam: int = 10, max_depth: int = 12, device: torch.device | None = None
    ) -> None:
        """Raises InputError when the beam is wider than the vocabulary."""
        if not 1 <= beam <= model.vocab_size or max_depth < 1:
            raise InputError(
                f"beam {beam}, max_depth {max_depth}: expected 1 <= beam <= {model.vocab_size} (the "
                "vocabulary) and max_depth of at least 1"
            )
        self.model, self.beam, self.max_depth = model, beam, max_depth
        self.vocab_size = model.vocab_size
        self.device = device or torch.device("cpu")
        nodes = pool_size(beam, max_depth)
        self._scores = np.full(nodes, -np.inf, dtype=np.float32)
        self._tokens = np.zeros(nodes, dtype=np.int64)
        self._parents = np.full(nodes, -1, dtype=np.int64)  # pool index, -1: the root
        self._depths = np.repeat(np.arange(1, max_depth + 1), [beam] + [beam * beam] * (max_depth - 1))
        shared = torch.from_numpy(self._scores)
        self.state = LookupState(max_depth=max_depth, beam=beam, scores=shared.to(self.device))
        self.state.vocab_size = model.vocab_size
        self.reset()

    @property
    def tokens(self) -> np.ndarray:
        """Tokens int64 of the nodes drafted so far, in pool order."""
        return self._tokens[: self.state.pool]

    def reset(self) -> None:
        """Start an empty text."""
        self.model.reset()
        self._new_tree()

    def prefill(self, taps: Tensor | None, tokens: Tensor) -> None:
        """Start a text with the tokens [n] of the prompt; `taps` are not looked at, here and below."""
        self.model.reset()
        self.defer(taps, tokens)

    def defer(self, taps: Tensor | None, tokens: Tensor, rows: Tensor | None = None) -> None:
        """The text goes on with tokens [m], of which the last becomes the root."""
        self.model.append(tokens.tolist())
        self._new_tree()

    def extend(self, taps: Tensor | None = None, tokens: Tensor | None = None) -> None:
        """Draft level 1 of the next tree, after these tokens, if given."""
        if tokens is not None:
            self.defer(taps, tokens)
        self._add_level([((), np.float32(0.0), -1)])

    def expand(self) -> None:
        """Draft the next level from the best W nodes of the newest one."""
        first, end = pool_size(self.beam, self.state.depth - 1), self.state.pool
        best = first + np.argsort(-self._scores[first:end], kind="stable")[: self.beam]
        self._add_level([(self._path(node), self._scores[node], node) for node in best.tolist()])

    def select(self, size: int) -> DraftTree:
        """Tree of the best `size` drafted nodes (all, if there are fewer) under the newest token."""
        best = np.argsort(-self._scores[: self.state.pool], kind="stable")[:size]
        nodes = np.sort(best)
        rows = np.concatenate([[0], 1 + np.searchsorted(nodes, self._parents[nodes])])
        rows[1:][self._parents[nodes] < 0] = 0
        ancestors = np.eye(len(rows), dtype=bool)
        for _ in range(self.state.depth):
            ancestors |= ancestors[rows]
        tokens = np.concatenate([self.model.tokens[-1:], self._tokens[nodes]])
        depths = np.concatenate([[0], self._depths[nodes]])
        fields = (tokens.astype(np.int64), depths.astype(np.int64), rows.astype(np.int64), ancestors)
        return DraftTree(*(torch.from_numpy(field).to(self.device) for field in fields))

    def _path(self, node: int) -> list[int]:
        path: list[int] = []
        while node >= 0:
            path.append(int(self._tokens[node]))
            node = int(self._parents[node])
        return path[::-1]

    def _add_level(self, parents: list[tuple]) -> None:
        """Enter the children of `parents` (path, score, node), best parent first."""
        state, beam = self.state, self.beam
        first = state.pool
        for rank, (path, score, node) in enumerate(parents):
            tokens, log_probs = self.model.children(path, beam)
            place = slice(first + rank * beam, first + (rank + 1) * beam)
            # In float32, as other drafters add: what is compared is what is stored.
            self._scores[place] = np.float32(score) + np.array(log_probs, dtype=np.float32)
            self._tokens[place], self._parents[place] = tokens, node
            if rank == 0:
                state.proposed = np.array(log_probs, dtype=np.float32)
        state.depth += 1
        if self.device.type != "cpu":
            state.scores.copy_(torch.from_numpy(self._scores))

    def _new_tree(self) -> None:
        self._scores.fill(-np.inf)
        if self.device.type != "cpu":
            self.state.scores.fill_(float("-inf"))
        self.state.clear()
        self.state.context_length = max(len(self.model.tokens) - 1, 0)
