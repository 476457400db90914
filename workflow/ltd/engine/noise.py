"""The noise of sampling: a hash of (stream, output position, token), the same on every device.

Nothing is drawn one after another, so a token's noise is known wherever and whenever it is asked for. The
hash is the SplitMix64 generator; `ltd.engine.compiled.sampling` has it as a kernel.
"""

import torch
from torch import Tensor

# The step of the generator's counter; shifts and factors of its finaliser.
STEP = 0x9E3779B97F4A7C15
SHIFTS = 30, 27, 31
FACTORS = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
# Every output position has room for 2^32 tokens; of a number's bits the first 53 are used.
POSITION_SHIFT, UNUSED_BITS = 32, 11
SMALLEST = 2.0**-53
# The noise of a number that float32 rounds to 1, in the place of minus infinity: the token loses to all that
# are not e^87 times less likely, which is where the compiled race has no weight left.
LEAST = -87.0
MASK64 = (1 << 64) - 1


def noise_stream(seed: int) -> int:
    """Where the numbers of a seed, any integer, begin: from 0 to 2^64 - 1."""
    mixed = (seed * STEP) & MASK64
    for shift, factor in zip(SHIFTS, FACTORS, strict=False):
        mixed = ((mixed ^ (mixed >> shift)) * factor) & MASK64
    return mixed ^ (mixed >> SHIFTS[-1])


def signed(number: int) -> int:
    """The int64 of the same bits as a number below 2^64: torch calculates with no others."""
    return number - (1 << 64) if number >> 63 else number


def uniform_noise(streams: Tensor, positions: Tensor, vocab_size: int) -> Tensor:
    """Numbers in (0, 1], float32 [R, vocab], of streams (`signed`) and output positions, int64 [R]."""
    tokens = torch.arange(vocab_size, device=streams.device)
    begin = streams + signed(STEP) * (positions << POSITION_SHIFT)
    mixed = begin[:, None] + signed(STEP) * tokens
    for shift, factor in zip(SHIFTS, FACTORS, strict=False):
        mixed = (mixed ^ _shifted(mixed, shift)) * signed(factor)
    mixed = mixed ^ _shifted(mixed, SHIFTS[-1])
    return _shifted(mixed, UNUSED_BITS).float().add_(1).mul_(SMALLEST)


def _shifted(numbers: Tensor, bits: int) -> Tensor:
    """Shifted to the right as unsigned numbers."""
    return (numbers >> bits) & ((1 << (64 - bits)) - 1)


def gumbel_noise(streams: Tensor, positions: Tensor, vocab_size: int) -> Tensor:
    """Gumbel noise float32 [R, vocab], finite; arguments as of `uniform_noise`."""
    # In double precision: the noise of a token that wins against the odds comes from a very small number.
    noise = uniform_noise(streams, positions, vocab_size).double().neg_().log1p_().neg_().log_().neg_()
    return noise.clamp_(min=LEAST).float()
