"""How many nodes a draft tree has. Snakemake reads this module for its plan, so it imports nothing heavy."""


def pool_size(beam: int, depth: int) -> int:
    """Number of nodes of a full tree of `depth` levels."""
    return beam + (depth - 1) * beam * beam if depth > 0 else 0
