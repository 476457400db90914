"""The two policies: what they see, what they are paid, how they are trained and handed out."""

KINDS = ("size", "depth")
MACHINE_PART = "machine"
# What an observation can be made of.
OBSERVATION_PARTS = (
    "nodes",
    "level",
    "mass",
    "levels",
    "depth",
    "one_hot_depth",
    "length",
    "entropy",
    "hidden",
    "suffix",
    MACHINE_PART,
)
# Those that kernels write, too, numbered there in this order (`ltd.rl.live_decision`); policies that see
# others decide through numpy.
COMPILED_PARTS = ("nodes", "level", "mass", "levels", "depth", "one_hot_depth", "length", "entropy", "suffix")


def retrained_kind(iteration: int) -> str:
    """Which policy an iteration of co-adaptation from 1 on retrains: size in odd ones, depth in even ones."""
    return KINDS[(iteration - 1) % 2]
