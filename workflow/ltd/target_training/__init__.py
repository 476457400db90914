"""Training the embedded target model from scratch."""

# Blocks that are wired to copy before training begins: the least that a model has.
WIRED_BLOCKS = 2
