"""Verification, compiled: selecting a tree, the pass over it, sampling and what follows are a call each.

After a pass has streamed the weights, a call finds nothing of itself in the processor's caches and takes
several times what it takes in a loop: the fewer, the better.
"""

import numba
import numpy as np
from torch import Tensor

from ltd.engine.compiled.arithmetic import kernel
from ltd.engine.compiled.attention import causal
from ltd.engine.compiled.drafting import CompiledDrafter, defer_rows
from ltd.engine.compiled.forward import keep_rows
from ltd.engine.compiled.sampling import CompiledSampler
from ltd.engine.compiled.tree import accepted_path
from ltd.engine.target import TargetModel
from ltd.engine.verification import Verification


class CompiledVerification(Verification):
    """Same interface and results as `Verification`, for a compiled forward and a compiled drafter or none.

    `follow` moves the accepted rows to the end of the target's cache and their taps to the drafter's deferred
    rows; `keep` takes back what is too much.
    """

    def __init__(
        self, target: TargetModel, drafter: CompiledDrafter | None, sampler: CompiledSampler
    ) -> None:
        super().__init__(target, drafter, sampler)
        self._forward, self._greedy = target.forward, sampler.options.temperature == 0
        rows = 1 if drafter is None else target.max_tree + 1
        self._outputs = self._forward.empty_outputs(rows, rows)
        self._alone = np.zeros(1, np.int64), np.zeros(1, np.int64), causal(1)  # the newest token as a tree
        if drafter is not None:
            # Compiled now, if it is not yet, so that it is not done while time is taken.
            alone = self._alone[0]
            met = self._forward.arrays, drafter.arrays, 0, 0, alone, alone, alone, self._outputs[0]
            _settle.compile(tuple(map(numba.typeof, met)))

    def begin(self, token: Tensor) -> None:
        """Go on after a prefill; see `Verification.begin`."""
        self._alone[0][0] = int(token)

    def step(self) -> None:
        """Plain pass over the newest token."""
        taps, logits, greedy = self._outputs
        self._tree, self._passed = None, (logits[:1], greedy[:1])
        # What a step taps is what the drafter defers.
        taps = taps[:1] if self.drafter is None else self.drafter.next_taps
        self._forward.run_into(*self._alone, taps, *self._passed)

    def select(self, size: int) -> int:
        """Choose the best `size` drafted nodes; see `Verification.select`."""
        self._tree = self.drafter.select_arrays(size)
        return len(self._tree[0]) - 1

    def verify(self) -> None:
        """Pass over the selected tree."""
        tokens, depths, _, ancestors = self._tree
        rows = len(tokens)
        taps, logits, greedy = self._outputs
        self._passed = logits[:rows], greedy[:rows]
        self._forward.run_into(tokens, depths, ancestors, taps[:rows], *self._passed)

    def follow(self, position: int) -> list[int]:
        """Tokens that the target chooses; see `Verification.follow`."""
        chosen = self._passed[1] if self._greedy else self._sampled(position)
        tokens = chosen.tolist() if self._tree is None else self._settled(chosen)
        forward, drafter = self._forward, self.drafter
        if drafter is not None:
            if self._tree is None:
                drafter.deferred_tokens[drafter.pending] = tokens[0]
            drafter.note_deferred(len(tokens))
        forward.length += len(tokens)
        self._tokens = tokens
        return tokens

    def keep(self, count: int) -> None:
        """Take back all but the first `count` tokens."""
        surplus = len(self._tokens) - count
        if surplus:
            self._forward.length -= surplus
            self.drafter.forget_deferred(surplus)
        self._alone[0][0] = self._tokens[count - 1]

    def _sampled(self, position: int) -> np.ndarray:
        if self._tree is None:
            tokens, depths, _ = self._alone
            parents = depths  # of the root both are 0
        else:
            tokens, _, parents, _ = self._tree
        return self.sampler.choose_on_path(tokens, parents, self._passed[0], position)

    def _settled(self, chosen: np.ndarray) -> list[int]:
        drafter, (tokens, _, parents, _) = self.drafter, self._tree
        first = drafter.pending
        places = self._forward.length, first
        count = _settle(
            self._forward.arrays, drafter.arrays, *places, tokens, parents, chosen, self._outputs[0]
        )
        return drafter.deferred_tokens[first : first + count].tolist()


@kernel
def _settle(target, drafter, length, first, tokens, parents, chosen, taps):
    """Follow the target's tokens `chosen` [R] down a tree of tokens and parents [R]; how many they are.

    What was chosen beside the way is not looked at. The rows on the way move to the end of a sequence of
    `length` tokens; their taps [>= R, 3 * H] and the tokens chosen there join the deferred rows from `first`
    on. The pool's scores are cleared. target, drafter: bundled `TargetArrays` and `DraftArrays`.
    """
    rows, scores = accepted_path(tokens, parents, chosen), drafter.value.pool.scores
    keep_rows(target, length, rows)
    defer_rows(taps, rows, chosen[rows], drafter.value.deferred_taps, drafter.value.deferred_tokens, first)
    for node in range(len(scores)):
        scores[node] = -np.inf
    return len(rows)
