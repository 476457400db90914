"""Sampling, compiled: an exponential race for the tokens of the rows that an answer reaches, and no others.

Every token has a waiting time, an exponential number divided by its probability, and the first one wins: with
just that probability. It is the Gumbel maximum of `ltd.engine.sampling` without its logarithms, since a token
that cannot win even with the shortest time that its noise allows needs none. The noise is a hash of (stream,
output position, token), so that nothing is drawn ahead, and nothing kept.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltd.engine.compiled.arithmetic import AS_WRITTEN, exponential, kernel
from ltd.engine.compiled.tree import accepted_path, child_of, greedy_path, largest
from ltd.engine.sampling import SamplingOptions, TokenSampler, noise_key
from ltd.engine.tree import DraftTree

# SplitMix64: the step of its counter, the shifts and factors of its finaliser.
STEP = np.uint64(0x9E3779B97F4A7C15)
SHIFTS = np.uint64(30), np.uint64(27), np.uint64(31)
FACTORS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
# Every output position has room for 2^32 tokens; of a number's bits the first 53 are used.
POSITION_SHIFT, UNUSED_BITS = np.uint64(32), np.uint64(11)
SMALLEST = np.float32(2**-53)


@kernel
def fill_noise(noise, stream, position):
    """Numbers in (0, 1] for the tokens [vocab] of an output position: number `position * 2^32 + token` of the
    SplitMix64 generator that starts at `stream`, a uint64.
    """
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
def leave_out_unlikely(weights, logits, top_k):
    """Weights [vocab] of tokens whose logits are not among the `top_k` largest become zero; ties stay."""
    if top_k < len(logits):
        threshold = np.partition(logits, len(logits) - top_k)[len(logits) - top_k]
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
def sampled_rows(logits, vocab_size, positions, stream, temperature, top_k, top_p):
    """Tokens [R] after rows of logits [R, >= vocab_size], each at its output position [R]."""
    weights, noise = np.empty(vocab_size, np.float32), np.empty(vocab_size, np.float32)
    chosen = np.empty(len(logits), np.int64)
    for row in range(len(logits)):
        chosen[row] = sampled_token(
            logits[row, :vocab_size], positions[row], stream, temperature, top_k, top_p, weights, noise
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


class CompiledSampler(TokenSampler):
    """Same interface as `TokenSampler` on a CPU, the same distribution, and noise of its own."""

    def __init__(self, options: SamplingOptions, vocab_size: int) -> None:
        self.options, self.vocab_size = options, vocab_size
        if options.temperature > 0:
            top_k = vocab_size if options.top_k is None else options.top_k
            top_p = 1.0 if options.top_p is None else options.top_p
            stream, temperature = np.uint64(noise_key(options.seed, 0)), np.float32(options.temperature)
            self._rule = stream, temperature, top_k, np.float32(top_p)
            if not sampled_path.signatures:
                self._meet_kernels()

    def choose(self, logits: Tensor, position: int, depths: Tensor | None = None, levels: int = 0) -> Tensor:
        """Tokens [R] after rows of logits [R, vocab]; see `TokenSampler.choose`."""
        if self.options.temperature == 0:
            return logits.argmax(dim=-1)
        ahead = np.zeros(len(logits), np.int64) if depths is None else depths.numpy()
        return torch.from_numpy(
            sampled_rows(logits.float().numpy(), self.vocab_size, ahead + position, *self._rule)
        )

    def follow(self, logits: Tensor, position: int, tree: DraftTree, levels: int) -> tuple[Tensor, Tensor]:
        """Rows [m] of a verified tree, and the tokens chosen there; see `TokenSampler.follow`."""
        tokens, parents = tree.tokens.numpy(), tree.parents.numpy()
        if self.options.temperature > 0:
            chosen = self.choose_on_path(tokens, parents, logits.float().numpy(), position)
            rows = accepted_path(tokens, parents, chosen)
            return torch.from_numpy(rows), torch.from_numpy(chosen[rows])
        rows, chosen = greedy_path(tokens, parents, logits.float().numpy())
        return torch.from_numpy(rows), torch.from_numpy(chosen)

    def choose_on_path(self, tokens: NDArray, parents: NDArray, logits: NDArray, position: int) -> NDArray:
        """Sample at the rows of a tree, tokens and parents [R], that the answer reaches.

        logits [R, >= vocab] float32; `position` is the root's. Returns tokens [R], -1 at the other rows.
        """
        return sampled_path(tokens, parents, logits, self.vocab_size, position, *self._rule)

    def _meet_kernels(self) -> None:
        """Compile now, so that it is not done while time is taken."""
        alone = np.zeros(1, np.int64)
        logits = np.zeros((1, self.vocab_size), np.float32)
        self.choose_on_path(alone, alone, logits, 0)
        sampled_rows(logits, self.vocab_size, alone, *self._rule)
