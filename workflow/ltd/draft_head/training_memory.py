"""How much memory training a head will take, from shapes alone, said before it starts.

Beside what stays, the target and the head with its optimisers, there is the work of the moment: a batch with
what autograd keeps for its gradient, a step of the optimisers, or a pass of the target. They follow each
other, so the largest counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PretrainedConfig

from ltd.draft_head.head_config import Eagle3Config
from ltd.draft_head.training import LOSS_ROWS

GIB = 1 << 30
FLOAT = 4  # weights, gradients and optimiser states of the head, softmax and loss are float32


@dataclass(frozen=True)
class BatchShape:
    """The largest batch: sequences, tokens of the longest one, chains in all."""

    sequences: int
    longest: int
    chains: int

    @property
    def tokens(self) -> int:
        """Tokens with their padding."""
        return self.sequences * self.longest


def largest_batch(
    lengths: Sequence[int], chains: Sequence[int], batches: Sequence[Sequence[int]]
) -> BatchShape:
    """The shape of the batch with the most padded tokens; `batches` hold indices into the other two."""
    shapes = (
        BatchShape(len(batch), max(lengths[i] for i in batch), sum(chains[i] for i in batch))
        for batch in batches
    )
    return max(shapes, key=lambda shape: shape.tokens)


def head_bytes(head: Eagle3Config) -> int:
    """Weights, gradients, momentum of the matrices, two moments of the output head, the target's rows for the
    same tokens, the frozen embedding.
    """
    output = head.draft_vocab_size * head.hidden_size
    return FLOAT * (3 * sum(_matrices(head)) + 5 * output + head.vocab_size * head.hidden_size)


def step_bytes(head: Eagle3Config) -> int:
    """What a step of Muon holds for a while: an update of every matrix, then copies of the largest group."""
    matrices = _matrices(head)
    return FLOAT * (sum(matrices) + 4 * max(matrices))


def _matrices(head: Eagle3Config) -> tuple[int, ...]:
    """Numbers in the head's matrices of one shape: fusion, queries, keys and values, output, MLP."""
    hidden, wide = head.hidden_size, head.num_attention_heads * head.head_dim
    narrow = head.num_key_value_heads * head.head_dim
    fusion, mlp = 3 * head.target_hidden_size * hidden, 3 * hidden * head.intermediate_size
    return fusion, 2 * hidden * wide, 4 * hidden * narrow, wide * hidden, mlp


def batch_bytes(
    head: Eagle3Config,
    batch: BatchShape,
    steps: int,
    step_weight: float,
    *,
    kept: int = FLOAT,
    checkpointing: bool = False,
) -> int:
    """The peak of a batch, from its features to its gradient; `kept` bytes for an activation."""
    hidden, wide = head.hidden_size, head.num_attention_heads * head.head_dim
    narrow, vocabulary = head.num_key_value_heads * head.head_dim, head.draft_vocab_size
    shares = [step_weight**step for step in range(steps)]
    rows = batch.chains * sum(shares)
    # A row of a step: norms and residuals, queries and attended values, the MLP, the norm of the loss.
    row = kept * (13 * hidden + 3 * wide + 4 * head.intermediate_size)
    # Attention weights are a softmax's, and once more what they are multiplied in.
    pair = head.num_attention_heads * (FLOAT if kept == FLOAT else FLOAT + kept)
    scores = [pair * batch.chains * share * (batch.longest + i) for i, share in enumerate(shares)]
    features = batch.tokens * (
        FLOAT * 3 * head.target_hidden_size
        + kept * (head.target_hidden_size + 4 * hidden + 2 * narrow + wide)
    )
    # Logits, the distributions of head and target and their product.
    loss_rows = min(LOSS_ROWS, rows) if checkpointing else rows
    loss = FLOAT * vocabulary * 4 * loss_rows
    teacher = FLOAT * vocabulary * batch.chains
    if not checkpointing:
        return int(features + teacher + rows * row + sum(scores) + loss)
    # Streams, their copies for the loss, keys and values; then the larger of the loss and the first step
    # with the gradients of its attention.
    passed = rows * kept * (2 * hidden + 2 * narrow)
    first = batch.chains * (row + 2 * FLOAT * head.num_attention_heads * batch.longest) + scores[0]
    return int(features + teacher + passed + max(loss, first))


def pass_bytes(target: PretrainedConfig, rows: int, longest: int, itemsize: int) -> int:
    """A pass of the target over `rows` padded tokens: the widest layer, taps, logits of one sequence."""
    inner = getattr(target, "intermediate_size", None) or 4 * target.hidden_size
    return itemsize * (rows * (2 * inner + 10 * target.hidden_size) + longest * target.vocab_size)


def described(parts: dict[str, int]) -> str:
    """The sum and its parts in words."""
    listed = ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items())
    return f"{sum(parts.values()) / GIB:.2f} GiB ({listed})"
