"""What the Eagle3 head learns from: draft vocabulary, training-time test, loss and acceptance. Pure
functions.

Indices. An answer of a sequence x_0 .. x_{T-1} with P prompt tokens begins at x_P, which the target itself
produces in prefill; the head is first asked for x_{P+1}. So a chain of draft steps may start at every row
t = P-1 .. T-3. Its step s reads the token x_{t+1+s} at rotary position t+s and predicts x_{t+2+s}, as long as
that token is there. Nothing outside that range is computed, so no loss ever falls on a token that is not
there, and none is missing at the beginning of the answer.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ltd.devices import multiplies_bfloat16
from ltd.draft_head.eagle3 import Eagle3Head, rotary_of

# Rows of the loss computed at once under gradient checkpointing; logits of 32,000 tokens are 125 MiB then.
LOSS_ROWS = 1024

Result = TypeVar("Result")


def row_multiple(device: torch.device) -> int:
    """What the rows of a matrix product are padded to a multiple of, about.

    On a CPU, oneDNN makes code for every new shape of a product in bfloat16, which takes ten times as long as
    the product; it keeps that of some thousand shapes, so shapes have to come again. With 32 a tenth of the
    rows is padding.
    """
    return 32 if device.type == "cpu" and multiplies_bfloat16(device) else 1


def rounded_up(count: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is not less than `count`."""
    return -(-count // multiple) * multiple


@dataclass(frozen=True)
class Chains:
    """Draft chains of a batch, the longest of each sequence first.

    rows [B, A]: the row t a chain starts at. depths [B, A]: its number of steps, descending, 0 for padding.
    A is a multiple of `granule`.
    """

    rows: Tensor
    depths: Tensor
    granule: int = 1

    def alive(self, step: int) -> Tensor:
        """Bool [B, n], whether the first n chains take this step; n covers all that do, a multiple of
        `granule`.
        """
        count = rounded_up(sum(depth > step for depth in self.longest), self.granule)
        return self.depths[:, :count] > step

    @cached_property
    def longest(self) -> list[int]:
        """Steps of the longest chain of every column, descending; read once: reading waits for a GPU."""
        return self.depths.amax(0).tolist()


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
    multiple: int = 1,
) -> Chains:
    """One chain for every row that decoding may start from, of at most `steps` draft steps.

    Both lengths are [B], in tokens; see `row_multiple` for `multiple`. After each step a chain goes on with
    probability `step_weight`. A mean over all steps taken then weighs step s by step_weight**s, as the
    published loss does, but what would count little is mostly not computed at all: with 0.8 and ten steps
    less than half remains.
    """
    counts = (lengths - 1 - prompt_lengths).clamp(min=0)[:, None]
    index = torch.arange(int(counts.max()), device=lengths.device)[None]
    depths = (counts - index).clamp(min=0, max=steps)
    if step_weight < 1:
        draws = torch.rand(depths.shape, generator=generator).to(lengths.device)
        going_on = draws.log() / torch.tensor(step_weight).log()
        depths = torch.minimum(depths, 1 + going_on.clamp(max=steps).long())
    granule = -(-multiple // len(lengths))
    depths = F.pad(depths, (0, -depths.shape[1] % granule))
    depths, order = depths.sort(dim=1, descending=True, stable=True)
    rows = prompt_lengths[:, None] - 1 + order
    return Chains(rows.where(depths > 0, prompt_lengths[:, None] - 1), depths, granule)


def unroll(
    head: Eagle3Head, features: Tensor, tokens: Tensor, chains: Chains, checkpointing: bool = False
) -> list[Tensor]:
    """Training-time test: the head's residual streams for every step of every chain, teacher-forced tokens.

    features [B, S, H] are the fused target features and tokens [B, S] the sequence x. Item s of the result is
    [B, n, H], aligned with `chains.alive(s)`. The first step attends causally to all earlier rows, as the
    prefix pass does in decoding. Step s > 0 attends to those up to the chain's first row, and to the chain's
    own rows: one softmax over the causal block of the first step and one key for each later step of the chain
    (EAGLE-3, section 3.2). These keys are the diagonals of the usual S x (s*S) mask, which is never built.

    With `checkpointing` only what passes between the steps, streams, keys and values, is kept for the
    gradient; the inside of a step is computed again in the backward pass.
    """
    run, rows = _recomputed if checkpointing else _kept, chains.rows
    count = chains.alive(0).shape[1]
    blocked = torch.arange(features.shape[1] - 1, device=rows.device) > rows[..., None]
    hidden, keys, values = run(_first_step, head, features, tokens, rows[:, :count], blocked[:, :count])
    outputs = [hidden]
    own_keys: list[Tensor] = []
    own_values: list[Tensor] = []
    for step in range(1, chains.longest[0]):
        count = chains.alive(step).shape[1]
        positions = rows[:, :count] + step
        read = tokens.gather(1, (positions + 1).clamp(max=tokens.shape[1] - 1))
        own_keys = [past[:, :, :count] for past in own_keys]
        own_values = [past[:, :, :count] for past in own_values]
        causal = (keys, values, blocked[:, :count])
        hidden, key, value = run(
            _later_step, head, hidden[:, :count], read, positions, causal, own_keys, own_values
        )
        own_keys, own_values = [*own_keys, key], [*own_values, value]
        outputs.append(hidden)
    return outputs


def _kept(function: Callable[..., Result], *inputs: Any) -> Result:
    """Call it; what its gradient needs is kept."""
    return function(*inputs)


def _recomputed(function: Callable[..., Result], *inputs: Any) -> Result:
    """Call it, keeping its inputs alone: what its gradient needs is computed again when it is asked for."""
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)  # nothing is random


def _first_step(
    head: Eagle3Head, features: Tensor, tokens: Tensor, rows: Tensor, blocked: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Residual streams [B, A, H] of the chains' first rows [B, A]; keys and values [B, nkv, S - 1, hd] of
    all.
    """
    layer, positions = head.midlayer, torch.arange(features.shape[1] - 1, device=tokens.device)[None]
    embeddings, angles = head.embed_tokens(tokens[:, 1:]), rotary_of(head.config, positions)
    queries, keys, values = _precise(layer.project(embeddings, features[:, :-1], *angles))
    attended = _attend(_take(queries, rows[:, None], 2), keys, values, blocked, [], [])
    return layer.finish(_take(features, rows, 1), attended), keys, values


def _later_step(
    head: Eagle3Head,
    hidden: Tensor,
    read: Tensor,
    positions: Tensor,
    causal: tuple[Tensor, Tensor, Tensor],
    own_keys: list[Tensor],
    own_values: list[Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Residual streams [B, A, H] after one more token [B, A] of each chain, with its key and value
    [B, nkv, A, hd].

    hidden [B, A, H] are those of the step before. `causal` are keys, values and mask of the first step.
    """
    angles = rotary_of(head.config, positions)
    queries, key, value = _precise(head.midlayer.project(head.embed_tokens(read), hidden, *angles))
    attended = _attend(queries, *causal, [*own_keys, key], [*own_values, value])
    return head.midlayer.finish(hidden, attended), key, value


def _take(states: Tensor, rows: Tensor, dim: int) -> Tensor:
    """Select rows [..., A] of states [..., S, size] along `dim`, the last but one."""
    return torch.take_along_dim(states, rows[..., None], dim=dim)


def _precise(projected: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Queries, keys and values as attention takes them: on a CPU in float32 or better, because its shapes
    seldom come again (see `row_multiple`).
    """
    if projected[0].is_cuda:
        return projected
    return tuple(states.to(torch.promote_types(states.dtype, torch.float32)) for states in projected)


def _attend(queries: Tensor, keys: Tensor, values: Tensor, *masked: Any) -> Tensor:
    """`_attention`; on a CPU in the precision of its arguments (see `_precise`)."""
    if queries.is_cuda:
        return _attention(queries, keys, values, *masked)
    with torch.autocast(queries.device.type, enabled=False):
        return _attention(queries, keys, values, *masked)


def _attention(
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
    head: Eagle3Head,
    outputs: Sequence[Tensor],
    chains: Chains,
    teacher: Tensor,
    teacher_rows: Tensor,
    checkpointing: bool = False,
    multiple: int = 1,
) -> Tensor:
    """Mean cross-entropy between the target's and the head's distribution over all steps taken.

    teacher [N, Vd]: distributions of the target within the draft vocabulary. teacher_rows [B, S] says
    which of them follows each token of a sequence, -1 where none counts. With `checkpointing` distributions
    of LOSS_ROWS rows at a time exist, computed again in the backward pass. See `row_multiple` for `multiple`.
    """
    wanted = taught_rows(chains, teacher_rows, len(outputs))
    rows = torch.cat([states[row >= 0] for states, row in zip(outputs, wanted, strict=True)])
    if not len(rows):
        return rows.sum()
    run, size = (_recomputed, LOSS_ROWS) if checkpointing else (_kept, len(rows))
    indices = torch.cat([row[row >= 0] for row in wanted])
    parts = zip(rows.split(size), indices.split(size), strict=True)
    # These are the rows of all steps together, so a coarser multiple costs no more.
    losses = [run(_summed_loss, head, part, teacher, index, 4 * multiple) for part, index in parts]
    return torch.stack(losses).sum() / len(rows)


def _summed_loss(head: Eagle3Head, rows: Tensor, teacher: Tensor, indices: Tensor, multiple: int) -> Tensor:
    # A padded row has no probability to predict, so no loss.
    padding = (0, 0, 0, -len(rows) % multiple)
    return F.cross_entropy(
        head.logits(F.pad(rows, padding)), F.pad(teacher[indices], padding), reduction="sum"
    )


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
