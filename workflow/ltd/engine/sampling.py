"""Choosing the target's tokens, greedily or by sampling, and how much of a draft tree they follow.

Sampling adds Gumbel noise to the processed logits and takes the maximum (on a CPU, the same without most of
its work: `ltd.engine.compiled.sampling`). The noise of an output position depends on (seed, position) alone,
so every method emits the same tokens for the same seed, and a tree changes when a token is computed but never
which one it is. A node is accepted when it is the token that the
target chose after its parent: exactly distribution-preserving for any tree that was built without looking
at the noise.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ltd.engine.tree import DraftTree
from ltd.errors import InputError

MASK64 = (1 << 64) - 1


@dataclass(frozen=True)
class SamplingOptions:
    """temperature 0 is greedy; top_k and top_p None keep the whole vocabulary. Raises InputError for other
    values.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise InputError(f"temperature: {self.temperature} is not 0 (greedy) or positive")
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"top_k: {self.top_k} keeps no token; use at least 1, or none for no limit")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InputError(f"top_p: {self.top_p} is not in (0, 1]")


def process_logits(logits: Tensor, options: SamplingOptions) -> Tensor:
    """Logits [..., vocab] in float32 after temperature, top-k and top-p, in that order; excluded tokens are
    -inf.
    """
    logits = logits.float() / options.temperature
    if options.top_k is not None and options.top_k < logits.shape[-1]:
        threshold = logits.topk(options.top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < threshold, float("-inf"))
    if options.top_p is not None and options.top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True, stable=True)
        probabilities = ordered.softmax(dim=-1)
        # A token stays while the probability of the better ones has not reached top_p; the best always stays.
        beyond = probabilities.cumsum(dim=-1) - probabilities >= options.top_p
        logits = logits.masked_fill(beyond.scatter(-1, order, beyond), float("-inf"))
    return logits


def noise_key(seed: int, position: int) -> int:
    """Mix (seed, output position) into a 64-bit key (the finaliser of SplitMix64)."""
    key = (seed * 0x9E3779B97F4A7C15 + (position + 1) * 0xD1B54A32D192ED03) & MASK64
    key = ((key ^ (key >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    key = ((key ^ (key >> 27)) * 0x94D049BB133111EB) & MASK64
    return key ^ (key >> 31)


def fill_gumbel(out: Tensor, generator: torch.Generator, key: int) -> Tensor:
    """Fill `out` with the Gumbel noise that belongs to `key`."""
    generator.manual_seed(key)
    return out.exponential_(generator=generator).log_().neg_()


class TokenSampler:
    """Chooses the target's token at output positions, for up to `max_depth` positions ahead."""

    def __init__(
        self, options: SamplingOptions, vocab_size: int, max_depth: int, device: torch.device
    ) -> None:
        self.options = options
        if options.temperature > 0:
            self._noise = torch.empty(max_depth + 1, vocab_size, device=device)
            self._position = [-1] * (max_depth + 1)  # the output position whose noise a row of the ring holds
            self._generator = torch.Generator(device)

    def choose(self, logits: Tensor, position: int, depths: Tensor | None = None, levels: int = 0) -> Tensor:
        """Tokens [R] after rows of logits [R, vocab]; row r decides output position `position + depths[r]`.

        `levels` is the largest depth; without `depths` all rows decide `position`.
        """
        if self.options.temperature == 0:
            return logits.argmax(dim=-1)
        processed = process_logits(logits, self.options)
        ring = len(self._position)
        for ahead in range(position, position + levels + 1):
            self._draw(ahead, ahead % ring)
        if depths is None:
            return (processed + self._noise[position % ring]).argmax(dim=-1)
        return (processed + self._noise.index_select(0, (depths + position) % ring)).argmax(dim=-1)

    def follow(self, logits: Tensor, position: int, tree: DraftTree, levels: int) -> tuple[Tensor, Tensor]:
        """Rows [m] of a verified tree that the target's tokens reach, from the root down, and those tokens.

        logits [R, vocab] of the tree's rows; `position` is the root's, `levels` the tree's largest depth.
        """
        chosen = self.choose(logits, position, tree.depths, levels)
        rows = accepted_rows(tree.tokens, tree.parents, tree.ancestors, chosen)
        return rows, chosen.index_select(0, rows)

    def _draw(self, position: int, row: int) -> None:
        if self._position[row] != position:
            fill_gumbel(self._noise[row], self._generator, noise_key(self.options.seed, position))
            self._position[row] = position


def make_sampler(
    options: SamplingOptions, vocab_size: int, max_depth: int, device: torch.device
) -> TokenSampler:
    """The sampler that suits a device; arguments as of `TokenSampler`."""
    if device.type == "cpu":
        from ltd.engine.compiled.sampling import CompiledSampler  # a GPU needs no Numba

        return CompiledSampler(options, vocab_size)
    return TokenSampler(options, vocab_size, max_depth, device)


def accepted_mask(tokens: Tensor, parents: Tensor, ancestors: Tensor, chosen: Tensor) -> Tensor:
    """Which rows bool [..., R] the target's tokens `chosen` [..., R] reach: the root, then a path of nodes.

    The other arguments are fields of a `DraftTree`. Siblings are different tokens, so at most one child of a
    row is what the target chose there.
    """
    strays = tokens != chosen.index_select(-1, parents)
    strays.select(-1, 0).fill_(False)
    return (ancestors & strays.unsqueeze(-2)).any(dim=-1).logical_not()


def accepted_rows(tokens: Tensor, parents: Tensor, ancestors: Tensor, chosen: Tensor) -> Tensor:
    """Rows [m] of the accepted path, from the root (row 0, always there) down, for `chosen` [R].

    The target's tokens at these rows are the cycle's output: the accepted draft tokens, then its own.
    """
    return accepted_mask(tokens, parents, ancestors, chosen).nonzero().squeeze(1)


def padded_accepted_rows(
    tokens: Tensor, parents: Tensor, ancestors: Tensor, chosen: Tensor, count: Tensor, longest: int
) -> tuple[Tensor, Tensor]:
    """As `accepted_rows`, in a fixed shape: rows [longest], of which the first n belong to the path; n [1].

    Of the rows the last `count` [1] are the tree; see `ltd.engine.tree.padded_tree_rows`.
    """
    rows = len(tokens)
    places = torch.arange(rows, device=tokens.device)
    root = rows - count
    strays = (tokens != chosen.index_select(0, parents)) & (places != root)
    accepted = (ancestors & strays).any(dim=-1).logical_not() & (places >= root)
    path = torch.sort(torch.where(accepted, places, rows))[0].clamp(max=rows - 1)
    if rows < longest:
        path = torch.cat([path, path[-1:].expand(longest - rows)])
    return path.narrow(0, 0, longest), accepted.sum(dim=0, keepdim=True)
