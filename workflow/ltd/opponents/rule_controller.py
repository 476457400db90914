"""Decoding with the marginal rule."""

from typing import Any

import numpy as np
import torch

from ltd.opponents.marginal_rule import Growth, MarginalRule


class RuleController:
    """Asks the rule in every cycle; a `ltd.engine.controllers.Controller`."""

    def __init__(self, rule: MarginalRule, name: str = "marginal_rule") -> None:
        self.rule, self.name = rule, name
        self._growth = Growth(1, rule.calibration, rule.beam, rule.sizes)
        self._tensor: torch.Tensor | None = None

    @property
    def weights(self) -> dict[str, int]:
        """What replay charges decisions by."""
        return self.rule.weights

    def asked(self, depth: int) -> bool:
        """Tell whether the rule decides at `depth`."""
        return self.rule.asked(depth)

    def begin(self, prompt_length: int) -> None:
        """Forget the previous answer's last cycle."""
        self._growth.clear()

    def continue_drafting(self, state: Any) -> bool:
        """Whether the next level is expected to pay."""
        if not self.rule.asked(state.depth):
            return True
        growth = self._seen(state)
        return bool(self.rule.goes_on(state.depth, growth)[0])

    def choose_size(self, state: Any) -> int:
        """The size that is expected to pay best."""
        expected, context = self._seen(state).expected(), np.array([state.context_length])
        return self.rule.sizes[self.rule.stop_values(state.depth, expected, context)[0].argmax()]

    def accepted(self, count: int) -> None:
        """The cycle is over; another draft begins."""
        self._growth.clear()

    def _seen(self, state: Any) -> Growth:
        if state.scores is not self._tensor or state.scores.is_cuda:
            # On a CPU the array shares the tensor's memory and stays valid from cycle to cycle.
            self._tensor, self._scores = state.scores, state.scores.numpy(force=True)[None]
        self._growth.extend(self._scores, state.depth)
        return self._growth
