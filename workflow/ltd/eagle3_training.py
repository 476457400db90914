"""What the Eagle3 head learns from: draft vocabulary, training-time test, loss and acceptance. Pure
functions.

Indices. An answer of a sequence x_0 .. x_{T-1} with P prompt tokens begins at x_P, which the target itself
produces in prefill; the head is first asked for x_{P+1}. So there is one chain of draft steps for every row t
= P-1+a with a = 0 .. A-1 and A = T-1-P. Step s of chain a reads the token x_{P+a+s} at rotary position t+s
and predicts x_{P+1+a+s}; it exists while a+s < A. Nothing outside that range is computed, so no loss ever
falls on a token that was not there, and none is missing at the beginning of the answer.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ltd.eagle3 import Eagle3Head, rotary


def choose_draft_vocabulary(answers: Iterable[Tensor], vocab_size: int, size: int) -> Tensor:
    """Ids [size], ascending, of the most frequent tokens of the answers; the smaller id wins a tie."""
    counts = torch.zeros(vocab_size, dtype=torch.int64)
    for answer in answers:
        counts += torch.bincount(answer, minlength=vocab_size)
    return counts.argsort(descending=True, stable=True)[:size].sort().values


def chain_rows(prompt_lengths: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [B, A] at which chains start, and bool [B, A] whether the chain exists.

    Both lengths are [B], in tokens. A is the largest number of chains of a sequence; rows of chains that do
    not exist repeat the last one.
    """
    counts = (lengths - 1 - prompt_lengths).clamp(min=0)
    index = torch.arange(int(counts.max()), device=lengths.device)
    exists = index < counts[:, None]
    last = (counts - 1).clamp(min=0)[:, None]
    return prompt_lengths[:, None] - 1 + torch.minimum(index, last), exists


def unroll(head: Eagle3Head, features: Tensor, tokens: Tensor, rows: Tensor, steps: int) -> list[Tensor]:
    """Training-time test: the head's residual streams for every draft step of every chain, teacher-forced
    tokens.

    features [B, S, H] are the fused target features and tokens [B, S] the sequence x; rows [B, A] come from
    `chain_rows`. Item s of the result is [B, A-s, H]. The first step attends causally to all earlier rows, as
    the prefix pass does in decoding. Step s > 0 of chain a attends to those up to its row, and to its own
    chain: one softmax over the causal block of the first step and one key for each later step of the chain
    (EAGLE-3, section 3.2). The chain's keys are the diagonals of the usual S x (s*S) mask, which is never
    built.
    """
    config, layer = head.config, head.midlayer
    size = features.shape[1]
    positions = torch.arange(size - 1, device=tokens.device)[None]
    angles = rotary(positions, config.head_dim, config.rope_theta)
    queries, keys, values = layer.project(head.embed_tokens(tokens[:, 1:]), features[:, :-1], *angles)
    queries = _take(queries, rows[:, None], 2)
    hidden = _take(features, rows, 1)
    blocked = torch.arange(size - 1, device=rows.device) > rows[..., None]
    chain_keys: list[Tensor] = []
    chain_values: list[Tensor] = []
    outputs: list[Tensor] = []
    for step in range(min(steps, rows.shape[1])):
        count = rows.shape[1] - step
        if step:
            hidden = outputs[-1][:, :count]
            read = (rows[:, :count] + 1 + step).clamp(max=size - 1)
            angles = rotary(rows[:, :count] + step, config.head_dim, config.rope_theta)
            queries, key, value = layer.project(head.embed_tokens(tokens.gather(1, read)), hidden, *angles)
            chain_keys = [*(past[:, :, :count] for past in chain_keys), key]
            chain_values = [*(past[:, :, :count] for past in chain_values), value]
        attended = _attend(queries, keys, values, blocked[:, :count], chain_keys, chain_values)
        outputs.append(layer.finish(hidden, attended))
    return outputs


def _take(states: Tensor, rows: Tensor, dim: int) -> Tensor:
    """Select rows [..., A] of states [..., S, size] along `dim`, the last but one."""
    return torch.take_along_dim(states, rows[..., None], dim=dim)


def _attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    blocked: Tensor,
    chain_keys: Sequence[Tensor],
    chain_values: Sequence[Tensor],
) -> Tensor:
    """Attention [B, nh, A, hd] of queries [B, nh, A, hd] over keys [B, nkv, S, hd] and chain keys [B, nkv, A,
    hd].
    """
    kv_heads, size = keys.shape[1], keys.shape[2]
    grouped = queries.unflatten(1, (kv_heads, -1)) * queries.shape[-1] ** -0.5
    scores = (grouped.flatten(2, 3) @ keys.transpose(2, 3)).unflatten(2, grouped.shape[2:4])
    scores = scores.masked_fill(blocked[:, None, None], float("-inf"))
    own = [(grouped * key[:, :, None]).sum(-1, keepdim=True) for key in chain_keys]
    weights = torch.cat([scores, *own], dim=-1).softmax(-1)
    mixed = (weights[..., :size].flatten(2, 3) @ values).unflatten(2, grouped.shape[2:4])
    for index, value in enumerate(chain_values):
        mixed = mixed + weights[..., size + index, None] * value[:, :, None]
    return mixed.flatten(1, 2)


def unroll_loss(
    head: Eagle3Head, outputs: Sequence[Tensor], teacher: Tensor, counted: Tensor, step_weight: float
) -> tuple[Tensor, Tensor]:
    """Weighted loss of an unroll, and the unweighted cross-entropy [steps] of its steps.

    teacher [B, A, Vd] is the target's distribution within the draft vocabulary after the tokens x_{P+a};
    counted bool [B, A] says which of these rows take part: those that exist and whose most likely token the
    head can produce at all. Step s is compared with the row s further on and weighs step_weight**s.
    """
    losses = []
    for step, hidden in enumerate(outputs):
        select = counted[:, step:]
        if select.any():
            losses.append(F.cross_entropy(head.logits(hidden[select]), teacher[:, step:][select]))
    if not losses:
        zero = outputs[0].sum() * 0
        return zero, zero.detach()[None]
    steps = torch.stack(losses)
    weights = step_weight ** torch.arange(len(losses), device=steps.device)
    return (steps * weights).sum() / weights.sum(), steps.detach()


@torch.no_grad()
def unroll_hits(
    head: Eagle3Head, outputs: Sequence[Tensor], tokens: Tensor, rows: Tensor, exists: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """Whether each step's best token is the answer's, and whether that step exists: two bool tensors [B, A,
    steps].
    """
    shape = (*rows.shape, steps)
    hits, valid = torch.zeros(2, *shape, dtype=torch.bool, device=rows.device)
    for step, hidden in enumerate(outputs):
        count = hidden.shape[1]
        wanted = tokens.gather(1, (rows[:, :count] + 2 + step).clamp(max=tokens.shape[1] - 1))
        valid[:, :count, step] = exists[:, step:]
        proposed = head.to_target(head.logits(hidden).argmax(-1))
        hits[:, :count, step] = (proposed == wanted) & exists[:, step:]
    return hits, valid


def acceptance(hits: Tensor, valid: Tensor) -> tuple[Tensor, float]:
    """Top-1 acceptance [steps] per draft step, and the simulated acceptance length of a chain.

    hits, valid bool [chains, steps]. The length counts the steps before the first miss plus the target's own
    token; it is exact for greedy decoding without branches, since up to a miss the teacher-forced tokens are
    the drafted ones.
    """
    per_step = hits.sum(0) / valid.sum(0).clamp(min=1)
    length = 1 + hits.to(torch.int64).cumprod(-1).sum(-1).double().mean().item()
    return per_step, length
