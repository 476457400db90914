"""Keys of config.yaml that change how long something takes or how much memory, and not what comes of it.

Rules, checkpoints and `reuse` all read this table: another value makes nothing again. Snakemake reads this
module for its plan, so it imports nothing heavy.
"""

# Options of the stage that trains or computes what the block is about.
OPTIONS: dict[str, tuple[str, ...]] = {
    "target": ("checkpoint_every",),
    "draft": ("gradient_checkpointing", "feature_cache_gib"),
    "responses": ("batch_size",),
    "traces": ("chunk",),
}
# How many processes work on it, which the rules start.
PROCESSES = ("draft.processes", "tune.workers")
KEYS = frozenset([*(f"{block}.{key}" for block, keys in OPTIONS.items() for key in keys), *PROCESSES])
