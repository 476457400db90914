"""What the Eagle3 head learns from: draft vocabulary, training-time test, loss and acceptance. Pure
functions.

Indices. An answer of a sequence x_0 .. x_{T-1} with P prompt tokens begins at x_P, which the target itself
produces in prefill; the head is first asked for x_{P+1}. So a chain of draft steps may start at every row
t = P-1 .. T-3. Its step s reads the token x_{t+1+s} at rotary position t+s and predicts x_{t+2+s}, as long as
that token is there. Nothing outside that range is computed, so no loss ever falls on a token that is not
there, and none is missing at the beginning of the answer.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ltd.draft_head.eagle3 import Eagle3Head, rotary_of


@dataclass(frozen=True)
class Chains:
    """Draft chains of a batch, the longest of each sequence first.

    rows [B, A]: the row t a chain starts at. depths [B, A]: its number of steps, 0 for padding.
    """

    rows: Tensor
    depths: Tensor

    def alive(self, step: int) -> Tensor:
        """Bool [B, n], whether the first n chains take this step; n covers all that do."""
        taken = self.depths > step
        return taken[:, : int(taken.sum(1).max())]


def choose_draft_vocabulary(answers: Iterable[Tensor], vocab_size: int, size: int) -> Tensor:
    """Ids [size], ascending, of the most frequent tokens of the answers; the smaller id wins a tie."""
    counts = torch.zeros(vocab_size, dtype=torch.int64)
    for answer in answers:
        counts += torch.bincount(answer, minlength=vocab_size)
    return counts.argsort(descending=True, stable=True)[:size].sort().values


def plan_chains(
    prompt_lengths: Tensor,
    lengths: Tensor,
    steps: int,
    step_weight: float = 1.0,
    generator: torch.Generator | None = None,
) -> Chains:
    """One chain for every row that decoding may start from, of at most `steps` draft steps.

    Both lengths are [B], in tokens. After each step a chain goes on with probability `step_weight`. A mean
    over all steps taken then weighs step s by step_weight**s, as the published loss does, but what would
    count little is mostly not computed at all: with 0.8 and ten steps less than half remains.
    """
    counts = (lengths - 1 - prompt_lengths).clamp(min=0)[:, None]
    index = torch.arange(int(counts.max()), device=lengths.device)[None]
    depths = (counts - index).clamp(min=0, max=steps)
    if step_weight < 1:
        draws = torch.rand(depths.shape, generator=generator).to(lengths.device)
        going_on = draws.log() / torch.tensor(step_weight).log()
        depths = torch.minimum(depths, 1 + going_on.clamp(max=steps).long())
    depths, order = depths.sort(dim=1, descending=True, stable=True)
    rows = prompt_lengths[:, None] - 1 + order
    return Chains(rows.where(depths > 0, prompt_lengths[:, None] - 1), depths)


def unroll(head: Eagle3Head, features: Tensor, tokens: Tensor, chains: Chains) -> list[Tensor]:
    """Training-time test: the head's residual streams for every step of every chain, teacher-forced tokens.

    features [B, S, H] are the fused target features and tokens [B, S] the sequence x. Item s of the result is
    [B, n, H], aligned with `chains.alive(s)`. The first step attends causally to all earlier rows, as the
    prefix pass does in decoding. Step s > 0 attends to those up to the chain's first row, and to the chain's
    own rows: one softmax over the causal block of the first step and one key for each later step of the chain
    (EAGLE-3, section 3.2). These keys are the diagonals of the usual S x (s*S) mask, which is never built.
    """
    config, layer, rows = head.config, head.midlayer, chains.rows
    size = features.shape[1]
    positions = torch.arange(size - 1, device=tokens.device)[None]
    angles = rotary_of(config, positions)
    queries, keys, values = layer.project(head.embed_tokens(tokens[:, 1:]), features[:, :-1], *angles)
    count = chains.alive(0).shape[1]
    queries = _take(queries, rows[:, None, :count], 2)
    hidden = _take(features, rows[:, :count], 1)
    blocked = torch.arange(size - 1, device=rows.device) > rows[..., None]
    outputs = [layer.finish(hidden, _attend(queries, keys, values, blocked[:, :count], [], []))]
    own_keys: list[Tensor] = []
    own_values: list[Tensor] = []
    for step in range(1, int(chains.depths.max())):
        count = chains.alive(step).shape[1]
        hidden, start = outputs[-1][:, :count], rows[:, :count]
        embeddings = head.embed_tokens(tokens.gather(1, (start + 1 + step).clamp(max=size - 1)))
        angles = rotary_of(config, start + step)
        queries, key, value = layer.project(embeddings, hidden, *angles)
        own_keys = [*(past[:, :, :count] for past in own_keys), key]
        own_values = [*(past[:, :, :count] for past in own_values), value]
        attended = _attend(queries, keys, values, blocked[:, :count], own_keys, own_values)
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
    head: Eagle3Head, outputs: Sequence[Tensor], chains: Chains, teacher: Tensor, teacher_rows: Tensor
) -> Tensor:
    """Mean cross-entropy between the target's and the head's distribution over all steps taken.

    teacher [N, Vd]: distributions of the target within the draft vocabulary. teacher_rows [B, S] says
    which of them follows each token of a sequence, -1 where none counts.
    """
    wanted = taught_rows(chains, teacher_rows, len(outputs))
    rows = torch.cat([states[row >= 0] for states, row in zip(outputs, wanted, strict=True)])
    if not len(rows):
        return rows.sum()
    return F.cross_entropy(head.logits(rows), teacher[torch.cat([row[row >= 0] for row in wanted])])


def taught_rows(chains: Chains, teacher_rows: Tensor, steps: int) -> list[Tensor]:
    """For every step the teacher's row of every chain, aligned with `chains.alive(step)`; -1: none counts."""
    wanted = []
    for step in range(steps):
        alive = chains.alive(step)
        after = (chains.rows[:, : alive.shape[1]] + 1 + step).clamp(max=teacher_rows.shape[1] - 1)
        wanted.append(teacher_rows.gather(1, after).where(alive, -1))
    return wanted


@torch.no_grad()
def unroll_hits(
    head: Eagle3Head, outputs: Sequence[Tensor], chains: Chains, tokens: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """Whether each step's best token is the answer's, and whether the step is taken: bool [B, A, steps]."""
    hits, taken = torch.zeros(2, *chains.rows.shape, steps, dtype=torch.bool, device=tokens.device)
    for step, states in enumerate(outputs):
        alive = chains.alive(step)
        count = alive.shape[1]
        wanted = tokens.gather(1, (chains.rows[:, :count] + 2 + step).clamp(max=tokens.shape[1] - 1))
        proposed = head.to_target(head.logits(states).argmax(-1))
        hits[:, :count, step] = (proposed == wanted) & alive
        taken[:, :count, step] = alive
    return hits, taken


def acceptance(hits: Tensor, taken: Tensor) -> tuple[Tensor, float]:
    """Top-1 acceptance [steps] per draft step, and the simulated acceptance length of a chain.

    hits, taken bool [chains, steps]. The length counts the steps before the first miss plus the target's own
    token; it is exact for greedy decoding without branches, since up to a miss the teacher-forced tokens are
    the drafted ones.
    """
    per_step = hits.sum(0) / taken.sum(0).clamp(min=1)
    length = 1 + hits.to(torch.int64).cumprod(-1).sum(-1).double().mean().item()
    return per_step, length
