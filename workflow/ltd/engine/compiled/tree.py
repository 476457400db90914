"""Draft trees, compiled: the same numbering and results as `ltd.engine.tree` and `ltd.engine.sampling`."""

import numpy as np

from ltd.engine.compiled.arithmetic import copy, exponential, highest, kernel


@kernel
def pool_size(beam, depth):
    """Nodes of a tree of `depth` levels."""
    return beam + (depth - 1) * beam * beam if depth > 0 else 0


@kernel
def best_nodes(scores, nodes):
    """Indices of the best len(nodes) of scores [n], by score descending, then index ascending, into nodes."""
    filled = 0
    for node in range(len(scores)):
        place = filled
        while place > 0 and scores[node] > scores[nodes[place - 1]]:
            place -= 1
        if place < len(nodes):
            filled = min(filled + 1, len(nodes))
            for later in range(filled - 1, place, -1):
                nodes[later] = nodes[later - 1]
            nodes[place] = node


@kernel
def best_children(logits, parent_score, target_ids, scores, tokens):
    """Cumulative log-probabilities and token ids [W] of the best children of a row with logits [>= Vd]."""
    best, count = np.empty(len(scores), np.int64), len(target_ids)
    best_nodes(logits[:count], best)
    top, total = logits[best[0]], np.float32(0)
    for i in range(count):
        total += exponential(logits[i] - top)
    normaliser = np.log(total) + top
    for rank in range(len(best)):
        # Compiled sums may be taken in another order. Never above its parent: trees are selected by that.
        scores[rank] = min(logits[best[rank]] - normaliser, np.float32(0)) + parent_score
        tokens[rank] = target_ids[best[rank]]


@kernel
def advance_beam(scores, level, parents, visible, beam_nodes, ranks):
    """Make the best W nodes of `level` its beam.

    scores [pool]. Writes the beam's nodes [W] (pool indices) and the `ranks` [W] of their parents in the beam
    before; parents [pool] of the nodes that the beam's children will be; and visible [W, (D - 1) * W]: which
    beam nodes of all levels but the last, W columns each, lie on the path to each node of this one.
    """
    beam = len(beam_nodes)
    start, end = pool_size(beam, level - 1), pool_size(beam, level)
    best_nodes(scores[start:end], beam_nodes)
    before, width = visible.copy(), (level - 1) * beam
    for place in range(beam):
        node = beam_nodes[place]
        rank = place if level == 1 else node // beam
        ranks[place], beam_nodes[place] = rank, start + node
        for column in range(visible.shape[1]):
            visible[place, column] = before[rank, column] if column < width else column == width + place
        children = end + place * beam
        for child in range(children, min(children + beam, len(parents))):
            parents[child] = start + node


@kernel
def select_tree(scores, parents, tokens, root, size):
    """Fields of the `DraftTree` of the best `size` of the drafted nodes (all, if there are fewer).

    scores [drafted], parents [>= drafted] (-1: the root), tokens [>= drafted], root the newest token.
    """
    count = min(size, len(scores))
    best = np.empty(count, np.int64)
    best_nodes(scores, best)
    row_of = np.zeros(len(scores) + 1, np.int64)  # the last entry is the root's: index -1
    for place in range(count):
        row_of[best[place]] = 1
    chosen, depths = np.zeros(count + 1, np.int64), np.zeros(count + 1, np.int64)
    parent_rows = np.zeros(count + 1, np.int64)
    ancestors = np.zeros((count + 1, count + 1), np.bool_)
    chosen[0], ancestors[0, 0] = root, True
    row = 0
    for node in range(len(scores)):
        if row_of[node]:
            row += 1
            row_of[node] = row
            parent = row_of[parents[node]]
            chosen[row], depths[row], parent_rows[row] = tokens[node], depths[parent] + 1, parent
            copy(ancestors[parent], ancestors[row])
            ancestors[row, row] = True
    return chosen, depths, parent_rows, ancestors


@kernel
def greedy_path(tokens, parents, logits):
    """Rows [m] that greedy decoding reaches, and its tokens [m] there, from logits [R, vocab]."""
    path, chosen, length, row = np.zeros(len(tokens), np.int64), np.zeros(len(tokens), np.int64), 0, 0
    while row >= 0:
        path[length], chosen[length] = row, largest(logits[row])
        row = child_of(tokens, parents, row, chosen[length])
        length += 1
    return path[:length], chosen[:length]


@kernel
def largest(values):
    """Index of the first of the largest values, as torch's argmax on a CPU."""
    top = highest(values)
    for i in range(len(values)):
        if values[i] == top:
            return i
    return 0


@kernel
def child_of(tokens, parents, row, token):
    """The child of a row that is this token, or -1; parents come before their children."""
    for child in range(row + 1, len(tokens)):
        if parents[child] == row and tokens[child] == token:
            return child
    return -1


@kernel
def accepted_path(tokens, parents, chosen):
    """Rows [m] of the tree that the target's tokens `chosen` [R] reach, from the root (row 0) down."""
    path, length, row = np.zeros(len(tokens), np.int64), 0, 0
    while row >= 0:
        path[length] = row
        row = child_of(tokens, parents, row, chosen[row])
        length += 1
    return path[:length]
