"""The two policies: what they see, what they are paid, how they are trained and handed out."""

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
