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

from ltd.engine.fusion import fused
from ltd.engine.pool import pool_size


def top_nodes(scores: Tensor, count: int) -> Tensor:
    """Indices [min(count, n)] of the best of scores [n], by score descending, then index ascending."""
    order = torch.sort(scores, dim=0, descending=True, stable=True)[1]
    return order.narrow(0, 0, min(count, order.shape[0]))


def best_children(logits: Tensor, beam: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities and draft ids [..., W] of the best children of rows with logits [..., Vd].

    Chosen by logit, because rounding may make log-probabilities tie. Of equal logits topk takes any: a stable
    order would take more than twice as long. Float32 hardly ever brings any; where logits are products of 16
    bits made float32, on a GPU without the kernels of `ltd.engine.gpu`, ties are common.
    """
    indices = torch.topk(logits, beam, dim=-1)[1]
    return log_probabilities(logits, indices), indices


@fused
def log_probabilities(logits: Tensor, indices: Tensor) -> Tensor:
    """Log-probabilities [..., W] of `indices` [..., W] in rows with logits [..., Vd].

    On a CPU log_softmax is one operation where logsumexp is a dozen.
    """
    return logits.log_softmax(dim=-1).gather(-1, indices)


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


class TreeLayout:
    """Constant tables over the nodes of a tree of beam W and maximum depth D, the root before the pool.

    Node 0 is the root, node i + 1 the pool's node i: the root is selected, gathered and compared like any
    other node, which spares a dozen operations a tree.
    """

    def __init__(self, beam: int, max_depth: int, device: torch.device) -> None:
        """Tables [1 + pool]: `levels`, and `parent_slots`, the row of a node's parent in a [D * W] table of
        beam nodes.

        The first W rows of such a table stand for the root, the next W for the beam of level 1, and so on.
        """
        indices = torch.arange(-1, pool_size(beam, max_depth), device=device)
        deeper = (indices - beam).clamp(min=0)
        first = indices < beam
        self.levels = torch.where(first, 1, deeper // (beam * beam) + 2)
        self.levels[0] = 0
        self.parent_slots = torch.where(first, 0, beam + deeper // beam)


def root_paths(beam: int, max_depth: int, device: torch.device) -> Tensor:
    """Paths int64 [D * W, 1 + D] of beam nodes before anything is drafted: a beam node's ancestor at each
    level, itself included, the root at level 0, -1 below it.
    """
    paths = torch.full((max_depth * beam, 1 + max_depth), -1, dtype=torch.int64, device=device)
    paths[:, 0] = 0
    return paths


def advance_beam(
    scores: Tensor, tokens: Tensor, hidden: Tensor, paths: Tensor, tree_mask: Tensor, level: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Make the best W nodes of `level` its beam; their features [W, H], tokens [W] and scores [W].

    scores [pool], tokens [pool]; hidden [rows, H] of the pass that predicted them. Enters the beam in paths
    (see `root_paths`; rows as in `TreeLayout`) and in tree_mask [W, (D - 1) * W] (bool, or added
    to attention scores; the columns of level 1 are the last, those of the newest level already show each node
    itself alone).
    """
    beam = tree_mask.shape[0]
    if level == 1:
        nodes = torch.arange(beam, device=scores.device)
        ranks, features = nodes, hidden.expand(beam, -1)
    else:
        first = pool_size(beam, level - 1)
        best = top_nodes(scores.narrow(0, first, beam * beam), beam)
        ranks, nodes = torch.div(best, beam, rounding_mode="floor"), best + first
        features = hidden.index_select(0, ranks)
        earlier = tree_mask.narrow(1, tree_mask.shape[1] - (level - 1) * beam, (level - 1) * beam)
        earlier.copy_(earlier.index_select(0, ranks))
    rows = paths.narrow(0, level * beam, beam)
    rows.copy_(paths.narrow(0, (level - 1) * beam, beam).index_select(0, ranks))
    rows.select(1, level).copy_(nodes + 1)
    return features, tokens.index_select(0, nodes), scores.index_select(0, nodes)


def tree_rows(
    scores: Tensor, size: int, levels: Tensor, parent_slots: Tensor, paths: Tensor, tokens: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Fields of the `DraftTree` of the best `size` of the drafted nodes; ancestors never score less than
    they.

    scores [1 + n] of the root, which is infinite, and of the nodes drafted so far; tokens int64 [1 + pool];
    levels and parent_slots as in `TreeLayout`, paths as in `root_paths`.
    """
    nodes = torch.sort(top_nodes(scores, size + 1))[0]
    depths = levels.index_select(0, nodes)
    parent_paths = paths.index_select(0, parent_slots.index_select(0, nodes))
    own = parent_paths.scatter(1, depths.unsqueeze(1), nodes.unsqueeze(1))
    # Node j is an ancestor of node i, or i itself, when it is what i's path passes at j's level.
    ancestors = own.index_select(1, depths) == nodes
    # The level above; the root is its own parent.
    above = (depths - 1).clamp_(min=0).unsqueeze(1)
    parents = torch.searchsorted(nodes, parent_paths.gather(1, above).squeeze(1))
    return tokens.index_select(0, nodes), depths, parents, ancestors


def padded_tree_rows(
    scores: Tensor,
    count: Tensor,
    rows: int,
    levels: Tensor,
    parent_slots: Tensor,
    paths: Tensor,
    tokens: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `tree_rows`, in a fixed number of rows of which the last `count` [1] are the tree, the root among
    them.

    scores [1 + pool] of all nodes, -inf where nothing is drafted. Rows before the tree are copies of the root
    that see themselves and it, and that no row of the tree sees.
    """
    order = top_nodes(scores, rows)
    chosen = torch.where(torch.arange(len(order), device=order.device) < count, order, -1)
    if len(order) < rows:
        chosen = torch.cat([chosen, chosen.new_full((rows - len(order),), -1)])
    chosen = torch.sort(chosen)[0]
    real, nodes = chosen >= 0, chosen.clamp(min=0)
    depths = levels.index_select(0, nodes)
    parent_paths = paths.index_select(0, parent_slots.index_select(0, nodes))
    own = parent_paths.scatter(1, depths.unsqueeze(1), nodes.unsqueeze(1))
    alone = torch.eye(rows, dtype=torch.bool, device=nodes.device)
    ancestors = (own.index_select(1, depths) == nodes) & real | alone
    above = (depths - 1).clamp_(min=0).unsqueeze(1)
    parents = torch.searchsorted(chosen, parent_paths.gather(1, above).squeeze(1))
    return tokens.index_select(0, nodes), depths, parents, ancestors
