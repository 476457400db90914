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
    "root",
    MACHINE_PART,
)
