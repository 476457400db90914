"""Who decides how deep to draft and how many nodes to verify.

A controller sees what a deployed one could see: the scores of the tree so far, how long the context is, and
what was accepted before. It never sees the target's logits of the cycle that it decides about.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltd.engine.tree import pool_size
from ltd.errors import InputError

if TYPE_CHECKING:  # a GPU needs no Numba
    from ltd.engine.compiled.draft_loop import CompiledDecisions

PAPER_TREE = 10, 12  # beam and largest depth
# How many of the answer's newest tokens a draft shows, and what stands before its first.
RECENT, NO_TOKEN = 4, -1


def distribution_entropy(logits: Tensor) -> Tensor:
    """Entropy (nats, float32 []) of a draft distribution, logits [Vd]."""
    log_probs = logits.float().log_softmax(dim=-1)
    return -(log_probs.exp() * log_probs).sum()


@dataclass
class DraftState:
    """The tree drafted so far in this cycle.

    depth: draft passes made; scores float32 [pool(max_depth)]: cumulative log-probabilities in pool order,
    -inf where nothing is drafted yet; context_length: tokens in the target's cache; recent int64 [RECENT]:
    the answer's newest tokens, the root first, `NO_TOKEN` before its first; feature [H] and draft_logits
    [Vd]: the head's hidden state and output at the best row of the newest pass (None at depth 0; in replay
    the latter always, the former where the traces hold no features); entropy_of: computes the entropy of
    draft_logits on a GPU.
    One object serves all cycles and changes in place.
    """

    max_depth: int
    beam: int
    scores: Tensor
    depth: int = 0
    context_length: int = 0
    recent: NDArray = field(default_factory=lambda: np.full(RECENT, NO_TOKEN))
    feature: Tensor | None = None
    draft_logits: Tensor | None = field(default=None, repr=False)
    entropy_of: Callable[[Tensor], Tensor] = field(default=distribution_entropy, repr=False)

    def __post_init__(self) -> None:
        self._fetched = 0  # depth at which the scores were copied from a GPU

    def clear(self) -> None:
        """Another draft begins."""
        self.depth, self.feature, self.draft_logits, self._fetched = 0, None, None, 0

    def continue_answer(self, tokens: Sequence[int]) -> None:
        """Show the newest of all tokens of the answer so far."""
        newest = tokens[: -RECENT - 1 : -1]
        self.recent[: len(newest)] = newest
        self.recent[len(newest) :] = NO_TOKEN

    @property
    def pool(self) -> int:
        """Nodes drafted so far."""
        return pool_size(self.beam, self.depth)

    @property
    def score_array(self) -> NDArray:
        """The scores for code on the host; on a CPU in the same memory. From a GPU they are fetched once a
        level, always into the same array, which says nothing about levels that are not drafted yet.
        """
        on_host, array = self._on_host
        if self._fetched != self.depth and self.scores.is_cuda:
            on_host.copy_(self.scores)
            self._fetched = self.depth
        return array

    @cached_property
    def _on_host(self) -> tuple[Tensor, NDArray]:
        """Made once: asking torch for the array every time costs tens of microseconds on a CPU where its code
        has left the caches. Pinned: a copy from a GPU goes straight there.
        """
        on_host = self.scores
        if on_host.is_cuda:
            with torch.inference_mode(False):  # whoever looks first, it can be written to outside, too
                on_host = torch.empty(on_host.shape, dtype=on_host.dtype, pin_memory=True)
        return on_host, on_host.numpy()

    def entropy(self) -> float:
        """Entropy (nats) of the draft distribution at the best row of the newest pass; computed when
        asked.
        """
        if self.draft_logits.device.type == "cpu" and self.draft_logits.dtype == torch.float32:
            from ltd.engine.compiled.signals import entropy  # a GPU needs no Numba

            return float(entropy(self.draft_logits.numpy()))
        return float(self.entropy_of(self.draft_logits))


class Controller(Protocol):
    """Chooses depth and size of every cycle."""

    name: str

    def begin(self, prompt_length: int) -> None:
        """A new answer starts."""

    def continue_drafting(self, state: DraftState) -> bool:
        """Whether to make another draft pass; asked at depth 0, 1, ..., max_depth - 1. No at 0 is a plain
        step.
        """

    def choose_size(self, state: DraftState) -> int:
        """How many nodes to verify, at least 1; asked once a cycle of depth 1 or more."""

    def accepted(self, count: int) -> None:
        """So many draft tokens of this cycle were accepted (0 after a plain step)."""


@runtime_checkable
class CompiledController(Controller, Protocol):
    """A controller whose decisions can be part of one compiled call that drafts a whole tree.

    A subclass that decides otherwise is asked level by level, unless it overrides `compiled_decisions` too.
    """

    def compiled_decisions(self) -> "CompiledDecisions | None":
        """What the decisions of the next cycle are made by; none, then for every cycle, where only Python can
        make them.
        """


def fitted_tree(controller: Controller) -> tuple[int, int] | None:
    """Beam and largest depth of the trees that a controller was fitted to, its attribute `tree`; None for one
    that has no such attribute and suits all trees.
    """
    return getattr(controller, "tree", None)


def check_tree(controller: Controller, beam: int, max_depth: int) -> None:
    """Raise InputError when a controller was fitted to trees of another beam or to shallower ones, or its
    fixed depth is beyond `max_depth`.
    """
    if isinstance(controller, StaticController) and controller.depth > max_depth:
        raise InputError(
            f"controller {controller.name}: trees here are drafted to depth {max_depth}; raise max_depth to "
            f"{controller.depth}"
        )
    fitted = fitted_tree(controller)
    if fitted is not None and (fitted[0] != beam or fitted[1] < max_depth):
        raise InputError(
            f"controller {controller.name}: fitted to trees of beam {fitted[0]} and depth {fitted[1]}, those "
            f"here are of {beam} and {max_depth}; make them with the former"
        )


def tree_for(controller: Controller, beam: int | None, max_depth: int | None) -> tuple[int, int]:
    """Beam and largest depth to draft with: as given, or as the controller was fitted, or the paper's.

    Raises InputError for values below 1, before a model is read.
    """
    for name, value in (("beam", beam), ("max_depth", max_depth)):
        if value is not None and value < 1:
            raise InputError(f"{name}: {value} is not at least 1")
    fitted = fitted_tree(controller) or PAPER_TREE
    fixed = controller.depth if isinstance(controller, StaticController) else 0
    return (
        fitted[0] if beam is None else beam,
        max(fitted[1], fixed) if max_depth is None else max_depth,
    )


def largest_size(controller: Controller) -> int | None:
    """Most nodes that a controller asks for; None for one that does not say.

    It says by `size`, a number or a policy that chooses among `actions`, or by a `rule` with `sizes`.
    """
    size = getattr(controller, "size", None)
    if isinstance(size, int):
        return size
    sizes = getattr(size, "actions", None) or getattr(getattr(controller, "rule", None), "sizes", None)
    return max(sizes) if sizes else None


class StaticController:
    """The same depth and size every cycle, as in EAGLE-2 and EAGLE-3."""

    def __init__(self, depth: int, size: int) -> None:
        if depth < 0 or size < 1:
            raise InputError(f"static controller: depth {depth} and size {size} must be at least 0 and 1")
        self.name, self.depth, self.size = f"static({depth},{size})", depth, size

    def compiled_decisions(self) -> "CompiledDecisions":
        """They stand before the first pass."""
        return self._decisions

    @cached_property
    def _decisions(self) -> "CompiledDecisions":
        from ltd.engine.compiled.draft_loop import static_decisions

        return static_decisions(self.depth, self.size)

    def begin(self, prompt_length: int) -> None:
        """Nothing to remember."""

    def continue_drafting(self, state: DraftState) -> bool:
        """Until the fixed depth."""
        return state.depth < self.depth

    def choose_size(self, state: DraftState) -> int:
        """The fixed size."""
        return self.size

    def accepted(self, count: int) -> None:
        """Nothing to learn."""


def static_or_plain(depth: int, size: int) -> StaticController | None:
    """The controller of the best static setting. Where no tree pays, at depth 0, that is None: plain
    decoding, without a draft head that waits for its turn.
    """
    return StaticController(depth, size) if depth else None
