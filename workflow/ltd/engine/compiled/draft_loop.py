"""Drafting a tree under a controller in one compiled call, the controller's decisions among it.

Between two passes of the head a call from Python finds nothing of itself in the processor's caches: a
decision that takes three microseconds in a loop then takes twenty.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

from ltd.engine.compiled.arithmetic import kernel
from ltd.engine.compiled.bundle import Bundle, bundle
from ltd.engine.compiled.clock import seconds_now
from ltd.engine.compiled.drafting import CompiledDrafter, Prefix, draft_level, draft_prefix
from ltd.engine.controllers import CompiledController
from ltd.engine.draft_loop import DraftLoop
from ltd.engine.phases import PhaseClock

# Where a loop writes the seconds that it has spent: deciding about the depth, choosing the size, and from
# FIRST_LEVEL on drafting each level.
DECIDING, CHOOSING, FIRST_LEVEL = range(3)


class Draft(NamedTuple):
    """What decisions may look at, as in `ltd.engine.controllers.DraftState`; feature [H] and logits [Vd] are
    those of the best row of the newest pass, before the first one of an earlier tree's: not to be looked at.
    """

    scores: np.ndarray
    depth: int
    beam: int
    context_length: int
    recent: np.ndarray
    feature: np.ndarray
    logits: np.ndarray


class CompiledDecisions(NamedTuple):
    """What a controller decides by: a kernel that calls what `make_draft_kernel` makes, the arguments of its
    decisions in a `Bundle`, and the size that each choice stands for.
    """

    kernel: Callable
    arguments: Bundle
    sizes: tuple[int, ...]


class CompiledDraftLoop(DraftLoop):
    """Same results, for a `ltd.engine.compiled.drafting.CompiledDrafter` and a controller of kernels.

    `seconds` are those of the last call by what they were spent on. What Python takes to begin it counts as
    drafting.
    """

    drafter: CompiledDrafter
    controller: CompiledController

    def __init__(self, drafter: CompiledDrafter, controller: CompiledController, clock: PhaseClock) -> None:
        super().__init__(drafter, controller, clock)
        self.seconds = np.zeros(FIRST_LEVEL + drafter.max_depth)
        # Compiled now, if it is not yet: drafting no level at all takes no time that matters.
        draft, arguments, _ = controller.compiled_decisions()
        draft(arguments, 0, self.seconds, *drafter.loop_arguments(pending=0))

    def __call__(self, deepest: int | None = None) -> tuple[int, int]:
        """Draft a tree of at most `deepest` levels (none: the drafter's); depth and size."""
        seconds, drafter = self.seconds, self.drafter
        seconds.fill(0.0)
        draft, arguments, sizes = self.controller.compiled_decisions()
        deepest = drafter.max_depth if deepest is None else min(deepest, drafter.max_depth)
        depth, choice = draft(arguments, deepest, seconds, *drafter.loop_arguments())
        drafter.note_levels(depth)
        self.clock.mark("draft")
        self.clock.move(float(seconds[DECIDING] + seconds[CHOOSING]), "draft", "policy")
        return depth, sizes[choice] if depth else 0


def make_draft_kernel(goes_on: Callable, choose: Callable) -> Callable:
    """Kernel that drafts while `goes_on(arguments, draft)`, before each level, and then returns the depth and
    `choose(arguments, draft)`, 0 where nothing is drafted.

    It takes a `Bundle` of those arguments, the largest depth, where to write its seconds
    [FIRST_LEVEL + depth], and what `CompiledDrafter.loop_arguments` gives: a bundle of `DraftArrays`, the
    length of the head's cache, and how many of the deferred rows are to join it.
    """

    @kernel(kept=False)
    def draft_tree(decisions, deepest, seconds, drafter, length, rows):
        arguments, (head, pool, deferred_taps, deferred_tokens, recent) = decisions.value, drafter.value
        prefix = Prefix(deferred_taps[:rows], deferred_tokens[:rows], length)
        beam, context = len(head.visible), length + rows
        feature, logits = pool.hidden[0], pool.logits[0, : len(head.weights.target_ids)]
        depth, choice, begun = np.int64(0), np.int64(0), seconds_now()
        draft = Draft(pool.scores, depth, beam, context, recent, feature, logits)
        while depth < deepest and goes_on(arguments, draft):
            decided = seconds_now()
            seconds[DECIDING] += decided - begun
            if depth == 0:
                draft_prefix(prefix, drafter)
            else:
                draft_level(depth, context, drafter)
            begun = seconds_now()
            seconds[FIRST_LEVEL + depth] = begun - decided
            depth += 1
            draft = Draft(pool.scores, depth, beam, context, recent, feature, logits)
        decided = seconds_now()
        seconds[DECIDING] += decided - begun
        if depth > 0:
            choice = np.int64(choose(arguments, draft))
            seconds[CHOOSING] = seconds_now() - decided
        return depth, choice

    return draft_tree


@kernel
def _up_to_depth(depth, draft):
    return draft.depth < depth


@kernel
def only_size(arguments, draft):
    """The choice of a size where there is one."""
    return 0


_draft_static = make_draft_kernel(_up_to_depth, only_size)


@kernel
def _static_tree(decisions, deepest, seconds, drafter, length, rows):
    return _draft_static(decisions, deepest, seconds, drafter, length, rows)


@cache
def static_decisions(depth: int, size: int) -> CompiledDecisions:
    """Decisions that are made before the cycle begins."""
    return CompiledDecisions(_static_tree, bundle(depth), (size,))
