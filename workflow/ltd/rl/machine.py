"""The machine as policies see it: a few numbers from its latency profile, the observation part `machine`.

They say what an autoregressive step is worth: the first draft pass, every later level with its decision, and
a whole verification of every size that a policy may choose. They stand still as long as the machine does, so
a deployed policy has them in its first layer's bias and decides at no extra cost.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ltd.errors import InputError
from ltd.replay.latency import LatencyProfile
from ltd.rl import MACHINE_PART as PART

if TYPE_CHECKING:
    from ltd.rl.policies import Policy

# Tokens of a typical cycle: the rows of the first draft pass.
TYPICAL_PREFIX_ROWS = 3
# Growth below a hundredth of a step makes no difference worth telling apart.
SMALLEST_GROWTH = 0.01
# Before the sizes' growth: first draft pass, a level, verification of the smallest tree.
FIXED_NUMBERS = 3


def machine_width(sizes: Sequence[int]) -> int:
    """How many numbers describe a machine to a policy that chooses among `sizes`."""
    return FIXED_NUMBERS + len(sizes) - 1


def machine_numbers(profile: LatencyProfile, sizes: Sequence[int]) -> np.ndarray:
    """Describe a machine, float32 [machine_width(sizes)]; means over the profile's context lengths.

    In autoregressive steps: the first draft pass, a later level, verification of the smallest size with the
    rest of the cycle; then for each larger size the logarithm of how much more it takes, brought to the order
    of one. A level counts with a decision, whether drafting waits for it or not. Logarithms, because
    machines differ by factors. Raises InputError for a size beyond the profile.
    """
    context = np.asarray(profile.context_lengths)
    step = profile.autoregressive_step(context).mean()
    prefix = profile.draft_prefix(TYPICAL_PREFIX_ROWS, context).mean()
    levels = np.arange(2, profile.max_depth + 1)[:, None]
    level = profile.draft_step(levels, context).mean() + profile.depth_policy
    chosen = np.asarray(sizes)[:, None]
    verify = (profile.verify(chosen, context) + profile.rest(chosen, context)).mean(axis=1) / step
    growth = np.log2(np.maximum(verify[1:] - verify[0], 0) + SMALLEST_GROWTH) / 4
    fixed = 4 * np.array([prefix / step, level / step, (verify[0] - 1) / 2])
    return np.concatenate([fixed, growth]).astype(np.float32)


def settled(policy: "Policy", profile: LatencyProfile | None = None) -> "Policy":
    """The same policy for one machine, which it no longer observes: it is part of the first layer's bias.

    Without a profile it is the machine that the policy file names. A policy that does not observe the machine
    comes back as it is. Raises InputError when there is neither a profile nor a machine in the file.
    """
    spec = policy.spec
    if PART not in spec.parts:
        return policy
    machine = np.asarray(policy.machine if profile is None else machine_numbers(profile, spec.sizes))
    if len(machine) != machine_width(spec.sizes):
        raise InputError(
            f"{policy.kind} policy: it observes the machine, its file names none; give the latency profile "
            "of the machine to run on"
        )
    (weight, bias), *rest = policy.network.layers
    seen = spec.without_machine.width
    folded = (weight[:, :seen], bias + weight[:, seen:] @ machine.astype(np.float32))
    network = type(policy.network)([folded, *rest])
    return replace(policy, network=network, spec=spec.without_machine, machine=())
