"""Training the embedded target model from scratch."""

# Blocks that are wired to copy before training begins: the least that a model has.
WIRED_BLOCKS = 2
# The longest context that it is made for.
MAX_POSITIONS = 1024
