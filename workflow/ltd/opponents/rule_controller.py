"""Decoding with the marginal rule."""

from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ltd import devices
from ltd.opponents.marginal_rule import Growth, MarginalRule

if TYPE_CHECKING:  # a GPU can do without Numba
    from ltd.engine.compiled.draft_loop import CompiledDecisions


class RuleController:
    """Asks the rule in every cycle; a `ltd.engine.controllers.Controller`."""

    def __init__(self, rule: MarginalRule, name: str = "marginal_rule") -> None:
        self.rule, self.name = rule, name
        self._decisions = _decisions(rule)
        self._asked = [rule.asked(depth) for depth in range(rule.max_depth)]

    @property
    def tree(self) -> tuple[int, int]:
        """Beam and largest depth of the trees that the rule knows."""
        return self.rule.beam, self.rule.max_depth

    def compiled_decisions(self) -> "CompiledDecisions":
        """The same decisions within one call."""
        return self._of_tree

    @cached_property
    def _of_tree(self) -> "CompiledDecisions":
        from ltd.opponents.live_rule import tree_decisions

        return tree_decisions(self.rule)

    @property
    def weights(self) -> dict[str, int]:
        """What replay charges decisions by."""
        return self.rule.weights

    def asked(self, depth: int) -> bool:
        """Tell whether the rule decides at `depth`."""
        return self.rule.asked(depth)

    def begin(self, prompt_length: int) -> None:
        """Forget the previous answer's last cycle."""
        self._decisions.clear()

    def continue_drafting(self, state: Any) -> bool:
        """Whether drafting on is expected to pay."""
        return not self._asked[state.depth] or self._decisions.goes_on(state)

    def choose_size(self, state: Any) -> int:
        """The size that is expected to pay best."""
        return self.rule.sizes[self._decisions.best_size(state)]

    def accepted(self, count: int) -> None:
        """The cycle is over; another draft begins."""
        self._decisions.clear()


class DraftDecisions(Protocol):
    """The rule's answers about the `ltd.engine.controllers.DraftState` in progress."""

    def goes_on(self, state: Any) -> bool:
        """Whether drafting on is expected to pay."""

    def best_size(self, state: Any) -> int:
        """Index of the size that is expected to pay best."""

    def clear(self) -> None:
        """Another draft begins."""


def _decisions(rule: MarginalRule) -> DraftDecisions:
    if not devices.has_numba():
        return GrowingDecisions(rule)
    from ltd.opponents.live_rule import LiveRule

    return LiveRule(rule)


class GrowingDecisions:
    """By `Growth`, which adds level by level, in numpy."""

    def __init__(self, rule: MarginalRule) -> None:
        self.rule = rule
        self._growth = Growth(1, rule.calibration, rule.beam, rule.sizes)

    def goes_on(self, state: Any) -> bool:
        """Whether drafting on is expected to pay."""
        return bool(self.rule.goes_on(state.depth, self._seen(state), state.recent[None])[0])

    def best_size(self, state: Any) -> int:
        """Index of the size that is expected to pay best."""
        expected, context = self._seen(state).expected(), np.array([state.context_length])
        return int(self.rule.stop_values(state.depth, expected, context)[0].argmax())

    def clear(self) -> None:
        """Another draft begins."""
        self._growth.clear()

    def _seen(self, state: Any) -> Growth:
        self._growth.extend(state.score_array[None], state.depth)
        return self._growth
