"""Choosing the target's tokens, greedily or by sampling, and how much of a draft tree they follow.

Sampling adds Gumbel noise to logits over temperature and takes the maximum of the tokens that top-k and top-p
keep. The noise of an output position depends on (seed, position) alone (`ltd.engine.noise`), so every method
emits the same tokens for the same seed, and a tree changes when a token is computed but never which one it
is. A node is accepted when it is the token that the target chose after its parent: exactly
distribution-preserving for any tree that was built without looking at the noise.
"""

import math
import operator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ltd.engine.noise import gumbel_noise, noise_stream, signed
from ltd.engine.tree import DraftTree
from ltd.errors import InputError


@dataclass(frozen=True)
class SamplingOptions:
    """temperature 0 is greedy; top_k and top_p None keep the whole vocabulary; top_p applies to what top_k
    keeps. Raises InputError for other values.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise InputError(f"temperature: {self.temperature} is not 0 (greedy) or a positive number")
        for name in ("top_k", "seed"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, _integer(name, value))
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"top_k: {self.top_k} keeps no token; use at least 1, or none for no limit")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InputError(f"top_p: {self.top_p} is not in (0, 1]")


def _integer(name: str, value: object) -> int:
    """A Python integer: NumPy's overflow where a seed is hashed."""
    try:
        return operator.index(value)
    except TypeError:
        raise InputError(f"{name}: {value!r} is not an integer") from None


class Sampler(Protocol):
    """Chooses the target's tokens at output positions, by some options."""

    options: SamplingOptions

    def choose(self, logits: Tensor, position: int) -> Tensor:
        """The token [1] of an output position after logits [1, vocab]."""

    def follow(self, logits: Tensor, position: int, tree: DraftTree, levels: int) -> tuple[Tensor, Tensor]:
        """Rows [m] of a verified tree that the target's tokens reach, from the root down, and those tokens.

        logits [R, vocab] of the tree's rows; `position` is the root's, `levels` the tree's largest depth.
        """


def choose_tokens(logits: Tensor, noise: Tensor, options: SamplingOptions) -> Tensor:
    """Sampled tokens [R] after rows of logits [R, vocab] with their Gumbel noise [R, vocab]."""
    logits = logits.float() / options.temperature
    if options.top_k is not None and options.top_k < logits.shape[-1]:
        threshold = logits.topk(options.top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < threshold, float("-inf"))
    scores = logits + noise
    chosen = scores.argmax(dim=-1, keepdim=True)
    if options.top_p is None or options.top_p == 1:
        return chosen[:, 0]
    # Without sorting. A token stays while the probability of the better ones has not reached top_p, so where
    # the winner does not stay, no token behind it does.
    probabilities, tokens = logits.softmax(dim=-1), torch.arange(logits.shape[-1], device=logits.device)
    while True:
        own = logits.gather(-1, chosen)
        before = (logits > own) | ((logits == own) & (tokens < chosen))
        beyond = (probabilities * before).sum(dim=-1, keepdim=True) >= options.top_p
        beyond &= before.any(dim=-1, keepdim=True)  # the best token always stays
        if not beyond.any():
            return chosen[:, 0]
        scores = scores.masked_fill(beyond & ~before, float("-inf"))
        chosen = scores.argmax(dim=-1, keepdim=True)


class TensorSampler:
    """A `Sampler` on any device, for trees of up to `max_depth` levels."""

    def __init__(
        self, options: SamplingOptions, vocab_size: int, max_depth: int, device: torch.device
    ) -> None:
        self.options = options
        if options.temperature > 0:
            self._stream = torch.tensor([signed(noise_stream(options.seed))], device=device)
            self._noise = torch.empty(max_depth + 1, vocab_size, dtype=torch.float32, device=device)
            self._first, self._end = 0, 0  # output positions whose noise the ring holds

    def choose(self, logits: Tensor, position: int) -> Tensor:
        """See `Sampler.choose`."""
        return self.choose_rows(logits, position, torch.zeros(1, dtype=torch.int64, device=logits.device), 0)

    def choose_rows(self, logits: Tensor, position: int, depths: Tensor, levels: int) -> Tensor:
        """Tokens [R] after rows of logits [R, vocab]; row r decides output position `position + depths[r]`,
        and `levels` is the largest depth.
        """
        if self.options.temperature == 0:
            return logits.argmax(dim=-1)
        self._look_ahead(position, position + levels + 1)
        noise = self._noise.index_select(0, (depths + position) % len(self._noise))
        return choose_tokens(logits, noise, self.options)

    def follow(self, logits: Tensor, position: int, tree: DraftTree, levels: int) -> tuple[Tensor, Tensor]:
        """See `Sampler.follow`."""
        chosen = self.choose_rows(logits, position, tree.depths, levels)
        rows = accepted_rows(tree.tokens, tree.parents, tree.ancestors, chosen)
        return rows, chosen.index_select(0, rows)

    def _look_ahead(self, first: int, end: int) -> None:
        """Have the noise of output positions from `first` to before `end` in the ring."""
        if not self._first <= first <= self._end:
            self._end = first
        if self._end < end:
            vocab_size, device = self._noise.shape[1], self._noise.device
            positions = torch.arange(self._end, end, device=device)
            noise = gumbel_noise(self._stream, positions, vocab_size)
            self._noise.index_copy_(0, positions % len(self._noise), noise)
            self._end = end
        self._first = max(first, self._end - len(self._noise))


def make_sampler(options: SamplingOptions, vocab_size: int, max_depth: int, device: torch.device) -> Sampler:
    """The sampler that suits a device; arguments as of `TensorSampler`."""
    if device.type == "cpu":
        from ltd.engine.compiled.sampling import CompiledSampler  # a GPU needs no Numba

        return CompiledSampler(options, vocab_size)
    return TensorSampler(options, vocab_size, max_depth, device)


def sample_each(logits: Tensor, seeds: list[int], position: int, options: SamplingOptions) -> Tensor:
    """Sampled tokens [R] of one output position after logits [R, vocab], each row with a seed of its own in
    the place of that of the options.
    """
    streams = [noise_stream(seed) for seed in seeds]
    if logits.device.type == "cpu":
        from ltd.engine.compiled.sampling import sample_rows  # a GPU needs no Numba

        return sample_rows(logits, streams, [position] * len(seeds), options)
    rows = torch.tensor([signed(stream) for stream in streams], device=logits.device)
    noise = gumbel_noise(rows, torch.full_like(rows, position), logits.shape[-1])
    return choose_tokens(logits, noise, options)


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
