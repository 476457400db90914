"""The controller that decodes with trained policies.

Only numpy, torch and safetensors are needed to run them.
"""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ltd import devices
from ltd.replay.latency import LatencyProfile
from ltd.rl import COMPILED_PARTS
from ltd.rl.machine import settled
from ltd.rl.observations import DraftView, Levels, ObservationSpec
from ltd.rl.policies import CONTINUE, Policy, all_blind, load_policy

if TYPE_CHECKING:  # a GPU can do without Numba
    from ltd.engine.compiled.draft_loop import CompiledDecisions


class PolicyController:
    """Decodes with a depth and a size policy; either may be a constant instead.

    Every decision is the policy's most probable action. Implements `ltd.engine.controllers.Controller`.
    """

    def __init__(self, depth: Policy | int, size: Policy | int, name: str = "ltd") -> None:
        self.depth, self.size, self.name = depth, size, name
        specs = {policy.spec for policy in (depth, size) if isinstance(policy, Policy)}
        # Two policies that look at the same share one observer: at the stop, the size policy sees it ready.
        observers = {spec: LiveObserver(spec) for spec in specs}
        self._observers = tuple(observers.values())
        if isinstance(depth, Policy):
            self._choose_depth = _decision(depth, observers[depth.spec])
            self._asked = [bool(depth.asked(level)) for level in range(depth.spec.max_depth)]
        if isinstance(size, Policy):
            self._choose_size = _decision(size, observers[size.spec])

    @classmethod
    def load(
        cls, folder: str | Path, name: str = "ltd", profile: LatencyProfile | None = None
    ) -> "PolicyController":
        """Read both policies of a folder; `profile` is that of the machine to run on (`ltd.rl.machine`)."""
        return cls(*(settled(load_policy(folder, kind), profile) for kind in ("depth", "size")), name)

    @property
    def tree(self) -> tuple[int, int] | None:
        """Beam and largest depth of the trees that the policies know; None for two constants."""
        specs = [policy.spec for policy in (self.depth, self.size) if isinstance(policy, Policy)]
        return (specs[0].beam, specs[0].max_depth) if specs else None

    def compiled_decisions(self) -> "CompiledDecisions | None":
        """Both policies' decisions, as far as kernels know what they look at."""
        return self._decisions

    @cached_property
    def _decisions(self) -> "CompiledDecisions | None":
        policies = [policy for policy in (self.depth, self.size) if isinstance(policy, Policy)]
        if any(map(_needs_numpy, policies)):
            return None
        from ltd.rl.live_decision import pair_decisions

        return pair_decisions(self.depth, self.size)

    @property
    def weights(self) -> dict[str, int]:
        """Weights of the networks, by kind; a constant has none."""
        policies = (policy for policy in (self.depth, self.size) if isinstance(policy, Policy))
        return {policy.kind: policy.network.weights for policy in policies}

    @property
    def blind(self) -> bool:
        """Whether all decisions are made from what is known before the first draft pass."""
        return all_blind((self.depth, self.size))

    def asked(self, depth: int) -> bool:
        """Whether a network decides about the depth here."""
        return isinstance(self.depth, Policy) and self._asked[depth]

    def begin(self, prompt_length: int) -> None:
        """Forget the previous answer's last cycle."""
        self.accepted(0)

    def continue_drafting(self, state: Any) -> bool:
        """Decide whether one more level is drafted."""
        if isinstance(self.depth, int):
            return state.depth < self.depth
        if not self._asked[state.depth]:
            return True
        return self._choose_depth(state) == CONTINUE

    def choose_size(self, state: Any) -> int:
        """Decide how many of the drafted nodes are verified."""
        if isinstance(self.size, int):
            return self.size
        return self.size.actions[self._choose_size(state)]

    def accepted(self, count: int) -> None:
        """The cycle is over; every cycle is decided by its own tree alone, whatever was accepted."""
        for observer in self._observers:
            observer.clear()


def _decision(policy: Policy, observer: "LiveObserver") -> Callable[[Any], int]:
    """What chooses the index of an action for a draft in progress."""
    if _needs_numpy(policy) or not devices.has_numba():
        return lambda state: policy.network.choose(observer.observe(state))
    from ltd.rl.live_decision import LiveDecision

    return LiveDecision(policy)


def _needs_numpy(policy: Policy) -> bool:
    """Whether a policy looks at what kernels do not know."""
    return not set(policy.spec.parts) <= set(COMPILED_PARTS)


class LiveObserver:
    """The observation of the draft in progress; what earlier levels contributed to it is kept."""

    def __init__(self, spec: ObservationSpec) -> None:
        self.spec = spec
        self._view = DraftView(np.empty((1, 0)), 0, np.zeros(1, np.int64), levels=Levels(1, spec))
        self._scores: np.ndarray | None = None
        self._observations = np.zeros((1, spec.width), dtype=np.float32)
        self._columns = spec.columns(self._observations)
        self._fresh = False

    def clear(self) -> None:
        """Another draft begins."""
        self._view.levels.clear()
        self._view.suffix = None
        self._fresh = False

    def observe(self, state: Any) -> np.ndarray:
        """Return the observation [width] of a `ltd.engine.controllers.DraftState`, valid until the next."""
        view, depth = self._view, state.depth
        if self._fresh and view.depth == depth:
            return self._observations[0]
        if depth < view.depth:
            self.clear()
        if not self.spec.blind:  # looking waits for a GPU
            scores = state.score_array  # for one draft state always the same
            if scores is not self._scores:
                self._scores, view.scores = scores, scores[None]
        view.depth, view.context_length[0] = depth, state.context_length
        if "suffix" in self.spec.parts and view.suffix is None:
            view.suffix = self.spec.suffix_prior.after(state.recent[None])
        if "entropy" in self.spec.parts:
            view.entropy = np.asarray([state.entropy() if depth else 0.0], dtype=np.float32)
        if "hidden" in self.spec.parts and depth:
            view.hidden = state.feature.float().numpy(force=True)[None]
        self._observations.fill(0)
        for write, out in self._columns:
            write(self.spec, view, out)
        self._fresh = True
        return self._observations[0]
