"""Draft trees as tensors: how the pool of drafted nodes is numbered, which nodes are verified, and who
descends from whom.

The pool of a tree of depth D and beam W has W + (D - 1) * W^2 nodes (EAGLE-2, arXiv 2406.16858, section
4.1): level 1 has W nodes in rank order, every later level W children of each of the W beam nodes of the
level before, in the order (rank of the parent in the beam, rank of the child). No function here loops over
nodes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


def pool_size(beam: int, depth: int) -> int:
    """Number of nodes of a full tree of `depth` levels."""
    return beam + (depth - 1) * beam * beam if depth > 0 else 0


def level_start(beam: int, level: int) -> int:
    """Pool index of the first node of `level` (1 is the first level)."""
    return 0 if level <= 1 else beam + (level - 2) * beam * beam


def top_nodes(scores: Tensor, count: int) -> Tensor:
    """Indices [min(count, n)] of the best of scores [n], by score descending, then index ascending."""
    return torch.sort(scores, descending=True, stable=True).indices[:count]


@dataclass(frozen=True)
class DraftTree:
    """The rows that the target verifies: the root in row 0, then the selected nodes in pool order, parents
    first.

    tokens, depths, parents int64 [V + 1] (depth of the root is 0; `parents` are row numbers, the root is
    its own); ancestors bool [V + 1, V + 1], True where the column's row is the row's ancestor or the row
    itself.
    """

    tokens: Tensor
    depths: Tensor
    parents: Tensor
    ancestors: Tensor

    @property
    def size(self) -> int:
        """Draft nodes, the root not counted."""
        return len(self.tokens) - 1


class PoolLayout:
    """Constant tables over the pool of a tree of beam W and maximum depth D."""

    def __init__(self, beam: int, max_depth: int, device: torch.device) -> None:
        """Tables [pool]: `levels` and `parent_slots`, the row of a node's parent in a [D * W] table of beam
        nodes.

        The first W rows of such a table stand for the root, the next W for the beam of level 1, and so on.
        """
        indices = torch.arange(pool_size(beam, max_depth), device=device)
        deeper = (indices - beam).clamp(min=0)
        first = indices < beam
        self.levels = torch.where(first, 1, deeper // (beam * beam) + 2)
        self.parent_slots = torch.where(first, 0, beam + deeper // beam)


def build_tree(nodes: Tensor, layout: PoolLayout, paths: Tensor, tokens: Tensor, root: Tensor) -> DraftTree:
    """Tree of the selected pool indices `nodes` [V], ascending and closed under parents.

    paths int64 [D * W, D]: for every beam node (rows as in `PoolLayout`) the pool index of its ancestor at
    each level, itself included, -1 below it. tokens int64 [pool]: target ids. root int64 [1]: the token of
    the root.
    """
    count = len(nodes)
    levels = layout.levels.index_select(0, nodes)
    parent_paths = paths.index_select(0, layout.parent_slots.index_select(0, nodes))
    columns = levels - 1
    own = parent_paths.scatter(1, columns[:, None], nodes[:, None])
    ancestors = torch.ones(count + 1, count + 1, dtype=torch.bool, device=nodes.device)
    ancestors[0, 1:] = False
    # Node j is an ancestor of node i, or i itself, when it is what i's path passes at j's level.
    torch.eq(own.index_select(1, columns), nodes, out=ancestors[1:, 1:])
    parent_nodes = torch.where(
        columns > 0, parent_paths.gather(1, (columns - 1).clamp_(min=0)[:, None])[:, 0], -1
    )
    parents = torch.searchsorted(nodes, parent_nodes, right=True)
    zero = parents.new_zeros(1)
    return DraftTree(
        tokens=torch.cat([root, tokens.index_select(0, nodes)]),
        depths=torch.cat([zero, levels]),
        parents=torch.cat([zero, parents]),
        ancestors=ancestors,
    )
