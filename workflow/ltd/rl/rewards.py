"""What a policy is paid for a finished draft-and-verify cycle.

`throughput`, `acceptance` and `time` are the paper's reward and its ablations (table 2). `marginal` pays
tokens - rate * seconds. With `rate` the long-run throughput the policies attain, the policy that maximises
its mean maximises sum of tokens / sum of seconds (Dinkelbach's method; the marginal value theorem), where the
mean of per-cycle ratios spends too much on hard cycles and too little on easy ones. `saving` has no common
rate: it pays what the tokens are worth where they stand, the time that the pair as it stands would take for
them, less the time that the cycle takes. Its mean is by how much a cycle decided otherwise, and the pair from
there on, are faster, so that a better policy is a step of policy iteration towards the least time of all.
"""

from dataclasses import dataclass

import numpy as np

from ltd.errors import InputError

KINDS = ("throughput", "acceptance", "time", "marginal", "saving")


@dataclass
class Reward:
    """Pays cycles; time is counted in autoregressive steps so that values have the same scale on any machine.

    step_seconds: seconds of one autoregressive step of the profile.
    rate: tokens per autoregressive step that a cycle's time is worth under `marginal` and `saving`, and the
    training loop moves it to the throughput that the pair attains. Over a family of P machines every one has
    its own rate, [P].
    worth: seconds [N, D + 2] that tokens at every position are worth (`ltd.rl.time_to_go`); `saving` alone,
    which is `marginal` until they are known.
    """

    kind: str
    step_seconds: float
    rate: float | np.ndarray = 1.0
    worth: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"reward: {self.kind!r} is unknown; choose from {', '.join(KINDS)}")

    def __call__(
        self,
        tokens: np.ndarray,
        seconds: np.ndarray,
        machines: np.ndarray | int = 0,
        positions: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return the reward of cycles that emitted `tokens` in `seconds`; same shape, float32.

        machines: places in the family; positions: where the cycles began, which `saving` alone asks for. Both
        broadcast.
        """
        steps = seconds / self.step_seconds
        if self.kind == "throughput":
            value = tokens / steps
        elif self.kind == "acceptance":
            value = tokens
        elif self.kind == "time":
            value = -steps
        elif self.worth is not None:
            value = self.rate * (self.worth[positions, tokens] - seconds) / self.step_seconds
        else:
            rate = self.rate if np.ndim(self.rate) == 0 else self.rate[machines]
            value = tokens - rate * steps
        return np.asarray(value, dtype=np.float32)

    def attain(self, tokens: float | np.ndarray, seconds: float | np.ndarray) -> None:
        """Move the rate to the throughput just attained: one step of Dinkelbach's iteration.

        For a family: tokens and seconds [P] of every machine; one without any takes the rate of all together.
        """
        together = np.sum(tokens) / np.sum(seconds)
        measured = np.divide(tokens, seconds, out=np.full(np.shape(seconds), together), where=seconds > 0)
        rate = measured * self.step_seconds
        self.rate = rate if np.size(rate) > 1 else float(np.squeeze(rate))
