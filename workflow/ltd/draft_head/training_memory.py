"""How much memory training a head will take, from shapes alone, said before it starts.

What is kept for the gradient is counted as autograd keeps it: float32 on a CPU, two bytes a number in mixed
precision on a GPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ltd.draft_head.head_config import Eagle3Config

GIB = 1 << 30
FLOAT = 4  # weights, gradients and optimiser states of the head are float32


@dataclass(frozen=True)
class BatchShape:
    """The largest batch: sequences, tokens of the longest one, chains in all."""

    sequences: int
    longest: int
    chains: int


def largest_batch(
    lengths: Sequence[int], chains: Sequence[int], batches: Sequence[Sequence[int]]
) -> BatchShape:
    """The shape of the batch with the most padded tokens; `batches` hold indices into the other two."""
    shapes = (
        BatchShape(len(batch), max(lengths[i] for i in batch), sum(chains[i] for i in batch))
        for batch in batches
    )
    return max(shapes, key=lambda shape: shape.sequences * shape.longest)


def training_parts(
    head: Eagle3Config,
    batch: BatchShape,
    target_weights: int,
    steps: int,
    step_weight: float,
    kept_bytes: int = FLOAT,
) -> dict[str, int]:
    """Bytes by purpose: the target, the head with its optimisers, what a batch keeps for the gradient."""
    hidden, wide = head.hidden_size, head.num_attention_heads * head.head_dim
    narrow, vocabulary = head.num_key_value_heads * head.head_dim, head.draft_vocab_size
    matrices = 3 * head.target_hidden_size * hidden + 2 * hidden * (wide + 2 * narrow) + wide * hidden
    matrices += 3 * hidden * head.intermediate_size
    # Weight, gradient and momentum of the matrices; two moments of the output head; the frozen embedding.
    weights = 3 * matrices + 4 * vocabulary * hidden + head.vocab_size * hidden
    shares = [step_weight**step for step in range(steps)]
    rows = batch.chains * sum(shares)
    # Per row of a step: norms and residuals, queries and attended values, the MLP; then the logits.
    row = 10 * hidden + 3 * wide + 4 * head.intermediate_size + 3 * hidden + 2 * vocabulary
    attention = batch.chains * head.num_attention_heads
    attention *= sum(share * (batch.longest + step) for step, share in enumerate(shares))
    features = (
        batch.sequences * batch.longest * (4 * head.target_hidden_size + 4 * hidden + 2 * narrow + wide)
    )
    return {
        "target": target_weights,
        "head and optimisers": FLOAT * weights,
        "largest batch": int(kept_bytes * (rows * row + attention + features)),
    }


def described(parts: dict[str, int]) -> str:
    """The sum and its parts in words."""
    listed = ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items())
    return f"{sum(parts.values()) / GIB:.2f} GiB ({listed})"
