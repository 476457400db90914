"""Verification, compiled: selecting a tree, the pass over it, sampling and what follows are a call each.

After a pass has streamed the weights, a call finds nothing of itself in the processor's caches and takes
several times what it takes in a loop: the fewer, the better.
"""

from typing import NamedTuple

import numpy as np
from torch import Tensor

from ltd.engine.compiled.arithmetic import copy, kernel
from ltd.engine.compiled.attention import check_slots
from ltd.engine.compiled.bundle import bundle, compile_for
from ltd.engine.compiled.drafting import CompiledDrafter, defer_rows
from ltd.engine.compiled.forward import keep_rows, target_pass
from ltd.engine.compiled.sampling import CompiledSampler, sampled_path
from ltd.engine.compiled.tree import accepted_path, select_tree
from ltd.engine.target import TargetModel
from ltd.engine.verification import Verification


class TreeArrays(NamedTuple):
    """The tree that is verified, its root the newest token, in arrays for R rows or more; a plain step
    verifies the root alone.

    tokens, depths, parents [>= R]; visible [>= R * R]: what each row sees, row by row. The pass writes taps
    [>= R, 3 * H], logits [>= R, >= vocab], and what greedy decoding chooses after each row, chosen [>= R];
    sampling puts its own choices there.
    """

    tokens: np.ndarray
    depths: np.ndarray
    parents: np.ndarray
    visible: np.ndarray
    taps: np.ndarray
    logits: np.ndarray
    chosen: np.ndarray


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
        rows, self._rows = 1 if drafter is None else target.max_tree + 1, 1
        numbers = (np.zeros(rows, np.int64) for _ in range(3))
        self._arrays = TreeArrays(*numbers, np.ones(rows**2, bool), *self._forward.empty_outputs(rows, rows))
        self._bundle = bundle(self._arrays)
        self._compile_kernels()

    def begin(self, token: Tensor) -> None:
        """Go on after a prefill; see `Verification.begin`."""
        self._set_root(int(token))

    def step(self) -> None:
        """Plain pass over the newest token."""
        self._rows = 1
        self._pass()

    def select(self, size: int) -> int:
        """Choose the best `size` drafted nodes; see `Verification.select`.

        Raises IndexError for a larger tree than the target was made for: kernels check no bounds.
        """
        most = len(self._arrays.tokens) - 1
        if min(size, self.drafter.state.pool) > most:
            raise IndexError(f"tree: {size} nodes do not fit; make the target with a max_tree above {most}")
        self._rows = _select(*self.drafter.pool_arguments(), self._bundle, size)
        return self._rows - 1

    def verify(self) -> None:
        """Pass over the selected tree."""
        self._pass()

    def follow(self, position: int) -> list[int]:
        """Tokens that the target chooses; see `Verification.follow`.

        Raises IndexError where more rows wait for the drafter than it has room for.
        """
        if not self._greedy:
            _sample(self._bundle, self._rows, self.target.vocab_size, position, *self.sampler.rule)
        forward, drafter = self._forward, self.drafter
        if drafter is None:
            self._tokens = self._arrays.chosen.tolist()
        else:
            first, longest = drafter.pending, min(self._rows, drafter.state.depth + 1)
            check_slots(first + longest, len(drafter.deferred_tokens), "draft head")
            count = _settle(forward.arrays, forward.length, self._bundle, self._rows, drafter.arrays, first)
            self._tokens = drafter.deferred_tokens[first : first + count].tolist()
            drafter.note_deferred(count)
        forward.length += len(self._tokens)
        return self._tokens

    def keep(self, count: int) -> None:
        """Take back all but the first `count` tokens."""
        surplus = len(self._tokens) - count
        if surplus:
            self._forward.length -= surplus
            self.drafter.forget_deferred(surplus)
        self._set_root(self._tokens[count - 1])

    def _pass(self) -> None:
        self._forward.check_room(self._rows)
        _tree_pass(self._forward.arrays, self._forward.length, self._bundle, self._rows)

    def _set_root(self, token: int) -> None:
        """The newest token is the root of what comes next; that it sees itself, at depth 0, never changes."""
        self._arrays.tokens[0] = token

    def _compile_kernels(self) -> None:
        """Compile now, if it is not done yet, so that it is not done while time is taken."""
        target, drafter = self._forward.arrays, self.drafter
        compile_for(_tree_pass, target, 0, self._bundle, 1)
        if not self._greedy:
            compile_for(_sample, self._bundle, 1, 1, 0, *self.sampler.rule)
        if drafter is not None:
            compile_for(_select, *drafter.pool_arguments(), self._bundle, 1)
            compile_for(_settle, target, 0, self._bundle, 1, drafter.arrays, 0)


# Below, tree is bundled `TreeArrays`, target bundled `TargetArrays`, drafter bundled `DraftArrays`.


@kernel
def _select(drafter, drafted, root, tree, size):
    """Enter the best `size` of the `drafted` nodes below the token `root`; how many rows that are with it."""
    head, pool, _, _, _ = drafter.value
    chosen = select_tree(pool.scores[:drafted], head.parents, pool.tokens, root, size)
    tokens, depths, parents, ancestors = chosen
    into, rows = tree.value, len(tokens)
    copy(tokens, into.tokens)
    copy(depths, into.depths)
    copy(parents, into.parents)
    for row in range(rows):
        copy(ancestors[row], into.visible[row * rows : (row + 1) * rows])
    return rows


@kernel
def _tree_pass(target, length, tree, rows):
    """The target's pass over the first `rows` rows, behind a sequence of `length` tokens."""
    tokens, depths, _, visible, taps, logits, chosen = tree.value
    visible = visible[: rows * rows].reshape(rows, rows)
    target_pass(
        target, length, tokens[:rows], depths[:rows], visible, taps[:rows], logits[:rows], chosen[:rows]
    )


@kernel
def _sample(tree, rows, vocab_size, position, stream, temperature, top_k, top_p):
    """Put what is sampled in the place of what greedy decoding chooses; see `sampled_path`."""
    tokens, _, parents, _, _, logits, chosen = tree.value
    rule = stream, temperature, top_k, top_p
    copy(sampled_path(tokens[:rows], parents[:rows], logits[:rows], vocab_size, position, *rule), chosen)


@kernel
def _settle(target, length, tree, rows, drafter, first):
    """Follow what the target chooses down the tree of `rows` rows; how many tokens that is.

    What was chosen beside the way is not looked at. The rows on the way move to the end of a sequence of
    `length` tokens; their taps and the tokens chosen there join the deferred rows from `first` on. The pool's
    scores are cleared.
    """
    tokens, _, parents, _, taps, _, chosen = tree.value
    _, pool, deferred_taps, deferred_tokens, _ = drafter.value
    path = accepted_path(tokens[:rows], parents[:rows], chosen)
    keep_rows(target, length, path)
    defer_rows(taps, path, chosen[path], deferred_taps, deferred_tokens, first)
    for node in range(len(pool.scores)):
        pool.scores[node] = -np.inf
    return len(path)
