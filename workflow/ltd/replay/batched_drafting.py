"""Draft trees of many positions at once: the trees that `ltd.engine.drafting` drafts one by one in decoding.

The true rows of a sequence (target features, known tokens) pass through the head once. The tree at a position
sees the true rows before it and its own ancestors, which masks express; so any positions share a pass.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ltd.draft_head.eagle3 import Eagle3Head
from ltd.engine.tree import best_children, pool_size


@dataclass(frozen=True)
class TrueRows:
    """What the head made of R true rows of G sequences.

    hidden [G, R, H], keys and values [G, heads, R, head_dim]. Row j holds the target's feature of position j
    and the token of position j + 1.
    """

    hidden: Tensor
    keys: Tensor
    values: Tensor


@dataclass(frozen=True)
class DraftedTrees:
    """Trees of C positions in pool order, see `ltd.replay.traces.Traces`.

    scores float32 and target tokens int64 [C, pool], beams int64 [C, D, W], entropy float32 [C, D] in nats;
    features [C, D, H], the hidden state that every pass computed for the best of the nodes it expanded.
    """

    scores: Tensor
    tokens: Tensor
    beams: Tensor
    entropy: Tensor
    features: Tensor


@torch.inference_mode()
def run_true_rows(head: Eagle3Head, taps: Tensor, tokens: Tensor) -> TrueRows:
    """Pass right-padded sequences through the head: taps [G, S, 3 * Ht], tokens [G, S]; R = S - 1.

    Rows of the padding are meaningless, and no earlier row sees them.
    """
    features, following = head.fuse(taps[:, :-1]), tokens[:, 1:]
    groups, rows = following.shape
    positions = torch.arange(rows, device=tokens.device)
    mask = positions <= positions[:, None]
    hidden, (keys, values) = head(
        features, following, positions.expand(groups, rows), mask.expand(groups, 1, rows, rows)
    )
    return TrueRows(hidden, keys, values)


@torch.inference_mode()
def draft_trees(
    head: Eagle3Head, rows: TrueRows, sequence: Tensor, root: Tensor, beam: int, max_depth: int
) -> DraftedTrees:
    """Draft C trees of `max_depth` levels: sequence [C] numbers the rows, root [C] is the position, from 1.

    Memory grows with C times the largest root; callers choose C.
    """
    count, prefix = len(root), int(root.max())
    keys, values = (
        _with_room(states[sequence, :, :prefix], beam * (max_depth - 1))
        for states in (rows.keys, rows.values)
    )
    seen = (torch.arange(prefix, device=root.device) < root[:, None])[:, None].expand(count, beam, prefix)
    own = torch.eye(beam, dtype=torch.bool, device=root.device).expand(count, beam, beam)
    ancestors = own[:, :, :0]
    scores, tokens, beams, entropy, features = [], [], [], [], []
    hidden, parent_scores = rows.hidden[sequence, root - 1][:, None], 0.0
    for level in range(1, max_depth + 1):
        logits = head.logits(hidden).float()
        log_probs, children = best_children(logits, beam)
        scores.append((log_probs + parent_scores).flatten(1))
        tokens.append(head.to_target(children).flatten(1))
        entropy.append(torch.distributions.Categorical(logits=logits[:, 0], validate_args=False).entropy())
        features.append(hidden[:, 0])
        # Level 1 is its own beam: topk returns it in order, and the sort is stable.
        order = torch.sort(scores[-1], dim=-1, descending=True, stable=True).indices[:, :beam]
        beams.append(order)
        if level == max_depth:
            break
        parents = order // beam if level > 1 else torch.zeros_like(order)
        parent_scores = scores[-1].gather(1, order)[..., None]
        ancestors = torch.cat([_take(ancestors, parents), own], dim=-1)
        used = prefix + (level - 1) * beam
        hidden, new = head(
            _take(hidden, parents),
            tokens[-1].gather(1, order),
            (root + level - 1)[:, None].expand(count, beam),
            torch.cat([seen, ancestors], dim=-1)[:, None],
            past=(keys[:, :, :used], values[:, :, :used]),
        )
        keys[:, :, used : used + beam], values[:, :, used : used + beam] = new
    levels = [torch.stack(values, 1) for values in (beams, entropy, features)]
    return DraftedTrees(torch.cat(scores, 1), torch.cat(tokens, 1), *levels)


def _with_room(states: Tensor, rows: int) -> Tensor:
    """Copy of keys or values [C, heads, P, head_dim] with space for `rows` more."""
    shape = (*states.shape[:2], states.shape[2] + rows, states.shape[3])
    grown = states.new_empty(shape)
    grown[:, :, : states.shape[2]] = states
    return grown


def _take(states: Tensor, index: Tensor) -> Tensor:
    """Rows index [C, W] of states [C, *, X]."""
    return states.gather(1, index[..., None].expand(-1, -1, states.shape[-1]))


def true_nodes(trees: DraftedTrees, continuation: Tensor) -> Tensor:
    """Pool index of every level's node on the continuation, int64 [C, D], -1 where it left the tree or beam.

    continuation int64 [C, D]: the target's tokens after the root, -1 past the end of the answer.
    """
    count, max_depth, beam = trees.beams.shape
    nodes = torch.full((count, max_depth), -1, dtype=torch.int64, device=continuation.device)
    place = torch.zeros(count, dtype=torch.int64, device=continuation.device)  # in the beam; -1: lost
    for level in range(max_depth):
        start, width = pool_size(beam, level), beam if level == 0 else beam * beam
        parent = torch.arange(width, device=place.device) // beam
        of_parent = parent == place[:, None]
        match = of_parent & (trees.tokens[:, start : start + width] == continuation[:, level, None])
        child = match.int().argmax(dim=1)
        found = match.any(dim=1)
        nodes[:, level] = torch.where(found, start + child, -1)
        kept = (trees.beams[:, level] == child[:, None]) & found[:, None]
        place = torch.where(kept.any(dim=1), kept.int().argmax(dim=1), -1)
    return nodes
