"""Sampling, compiled: an exponential race for the tokens of the rows that an answer reaches, and no others.

Every token has a waiting time, an exponential number divided by its probability, and the first one wins: with
just that probability. It is the Gumbel maximum of `ltd.engine.sampling`, with the same noise, without its
logarithms: a token that cannot win even with the shortest time that its noise allows needs none.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltd.engine import noise as hashing
from ltd.engine.compiled.arithmetic import AS_WRITTEN, exponential, kernel
from ltd.engine.compiled.tree import accepted_path, child_of, greedy_path, largest
from ltd.engine.noise import noise_stream
from ltd.engine.sampling import SamplingOptions
from ltd.engine.tree import DraftTree

STEP = np.uint64(hashing.STEP)
SHIFTS = tuple(map(np.uint64, hashing.SHIFTS))
FACTORS = tuple(map(np.uint64, hashing.FACTORS))
POSITION_SHIFT, UNUSED_BITS = np.uint64(hashing.POSITION_SHIFT), np.uint64(hashing.UNUSED_BITS)
SMALLEST = np.float32(hashing.SMALLEST)


@kernel
def fill_noise(noise, stream, position):
    """As `ltd.engine.noise.uniform_noise` for one output position, [vocab]; stream is a uint64."""
    state = stream + STEP * (np.uint64(position) << POSITION_SHIFT)
    for token in range(len(noise)):
        mixed = state + STEP * np.uint64(token)
        mixed = (mixed ^ (mixed >> SHIFTS[0])) * FACTORS[0]
        mixed = (mixed ^ (mixed >> SHIFTS[1])) * FACTORS[1]
        mixed = mixed ^ (mixed >> SHIFTS[2])
        noise[token] = (np.float32(mixed >> UNUSED_BITS) + np.float32(1)) * SMALLEST


@kernel(arithmetic=AS_WRITTEN)
def first_arrival(weights, noise, likeliest):
    """The token whose waiting time -log(1 - noise) / weight is the shortest, noise and weights [vocab];
    the likeliest where no weight is positive.
    """
    winner, best = likeliest, np.float32(0)
    for token in range(len(weights)):
        # No waiting time is shorter than noise / weight.
        if weights[token] > best * noise[token]:
            speed = weights[token] / np.float32(-np.log1p(-np.float64(noise[token])))
            if speed > best:
                winner, best = token, speed
    return winner


@kernel
def kth_largest(numbers, best):
    """The smallest of the len(best) largest numbers [>= len(best)]; best [k] is written over: a heap whose
    first entry is the smallest.
    """
    for place in range(len(best)):
        best[place] = -np.inf
    for i in range(len(numbers)):
        if numbers[i] > best[0]:
            place, child = 0, 1
            while child < len(best):
                if child + 1 < len(best) and best[child + 1] < best[child]:
                    child += 1
                if best[child] >= numbers[i]:
                    break
                best[place] = best[child]
                place, child = child, 2 * child + 1
            best[place] = numbers[i]
    return best[0]


@kernel
def leave_out_unlikely(weights, logits, top_k):
    """Weights [vocab] of tokens whose logits are not among the `top_k` largest become zero; ties stay."""
    if top_k < len(logits):
        threshold = kth_largest(logits, np.empty(top_k, np.float32))
        for token in range(len(logits)):
            if logits[token] < threshold:
                weights[token] = 0


@kernel
def weight_before(weights, logits, token):
    """Sum of the weights [vocab] of the tokens that come before this one: larger logits, then lower ids."""
    total, own = np.float32(0), logits[token]
    for other in range(len(logits)):
        if logits[other] > own or (logits[other] == own and other < token):
            total += weights[other]
    return total


@kernel
def leave_out_from(weights, logits, token):
    """Weights of this token and of all that come after it become zero; order as in `weight_before`."""
    own = logits[token]
    for other in range(len(logits)):
        if logits[other] < own or (logits[other] == own and other >= token):
            weights[other] = 0


@kernel
def sampled_token(logits, position, stream, temperature, top_k, top_p, weights, noise):
    """The token at an output position after logits [vocab].

    temperature and top_p are float32, top_k is an integer; top_k = vocab and top_p = 1 leave nothing out.
    weights, noise [vocab] float32 are written over.
    """
    likeliest = largest(logits)
    for token in range(len(logits)):
        weights[token] = exponential((logits[token] - logits[likeliest]) / temperature)
    leave_out_unlikely(weights, logits, top_k)
    fill_noise(noise, stream, position)
    token = first_arrival(weights, noise, likeliest)
    if top_p < 1:
        total = weights.sum()
        # Kept are the first tokens, always the likeliest: where the winner is not, none after it is.
        while token != likeliest and weight_before(weights, logits, token) >= top_p * total:
            leave_out_from(weights, logits, token)
            token = first_arrival(weights, noise, likeliest)
    return token


@kernel
def sampled_rows(logits, vocab_size, positions, streams, temperature, top_k, top_p):
    """Tokens [R] after rows of logits [R, >= vocab_size], each at its output position, of its stream, [R]."""
    weights, noise = np.empty(vocab_size, np.float32), np.empty(vocab_size, np.float32)
    chosen = np.empty(len(logits), np.int64)
    for row in range(len(logits)):
        chosen[row] = sampled_token(
            logits[row, :vocab_size],
            positions[row],
            streams[row],
            temperature,
            top_k,
            top_p,
            weights,
            noise,
        )
    return chosen


@kernel
def sampled_path(tokens, parents, logits, vocab_size, position, stream, temperature, top_k, top_p):
    """What the target chooses at the rows of a tree, tokens and parents [R], that its answer reaches.

    logits [R, >= vocab_size]; `position` is the root's. Returns tokens [R], -1 at the other rows.
    """
    weights, noise = np.empty(vocab_size, np.float32), np.empty(vocab_size, np.float32)
    chosen, row = np.full(len(tokens), -1, np.int64), 0
    while row >= 0:
        chosen[row] = sampled_token(
            logits[row, :vocab_size], position, stream, temperature, top_k, top_p, weights, noise
        )
        row, position = child_of(tokens, parents, row, chosen[row]), position + 1
    return chosen


def sample_rows(
    logits: Tensor, streams: Sequence[int], positions: Sequence[int], options: SamplingOptions
) -> Tensor:
    """Sampled tokens [R] after rows of logits [R, vocab], each of a stream (`noise_stream`), in the place of
    the options' seed, and at an output position.
    """
    vocab_size = logits.shape[1]
    where = np.asarray(positions, np.int64), np.asarray(streams, np.uint64)
    return torch.from_numpy(
        sampled_rows(logits.float().numpy(), vocab_size, *where, *kernel_options(options, vocab_size))
    )


def kernel_options(options: SamplingOptions, vocab_size: int) -> tuple[np.float32, int, np.float32]:
    """temperature, top_k and top_p as kernels take them."""
    top_k = vocab_size if options.top_k is None else min(options.top_k, vocab_size)
    top_p = 1.0 if options.top_p is None else options.top_p
    return np.float32(options.temperature), top_k, np.float32(top_p)


class CompiledSampler:
    """A `ltd.engine.sampling.Sampler` on a CPU."""

    def __init__(self, options: SamplingOptions, vocab_size: int) -> None:
        self.options, self.vocab_size = options, vocab_size
        if options.temperature > 0:
            self._stream = noise_stream(options.seed)
            self.rule = np.uint64(self._stream), *kernel_options(options, vocab_size)
            if not sampled_path.signatures:
                self._meet_kernels()

    def choose(self, logits: Tensor, position: int) -> Tensor:
        """See `Sampler.choose`."""
        if self.options.temperature == 0:
            return logits.argmax(dim=-1)
        return sample_rows(logits, [self._stream], [position], self.options)

    def follow(self, logits: Tensor, position: int, tree: DraftTree, levels: int) -> tuple[Tensor, Tensor]:
        """See `Sampler.follow`."""
        tokens, parents, rows = tree.tokens.numpy(), tree.parents.numpy(), logits.float().numpy()
        if self.options.temperature == 0:
            path, chosen = greedy_path(tokens, parents, rows)
        else:
            at_rows = self.choose_on_path(tokens, parents, rows, position)
            path = accepted_path(tokens, parents, at_rows)
            chosen = at_rows[path]
        return torch.from_numpy(path), torch.from_numpy(chosen)

    def choose_on_path(self, tokens: NDArray, parents: NDArray, logits: NDArray, position: int) -> NDArray:
        """Sample at the rows of a tree, tokens and parents [R], that the answer reaches.

        logits [R, >= vocab] float32; `position` is the root's. Returns tokens [R], -1 at the other rows.
        """
        return sampled_path(tokens, parents, logits, self.vocab_size, position, *self.rule)

    def _meet_kernels(self) -> None:
        """Compile now, so that it is not done while time is taken."""
        alone, logits = np.zeros(1, np.int64), np.zeros((1, self.vocab_size), np.float32)
        self.choose_on_path(alone, alone, logits, 0)
        self.choose(torch.from_numpy(logits), 0)
