"""How many threads the kernels share their work over: as many as torch does."""

import numba
import torch

from ltd.errors import InputError


def share_threads() -> int:
    """Tell Numba torch's number of threads, and return it; raises InputError where it cannot start any.

    Whoever starts Numba's threads first sets OpenMP's number to that of all cores, which is torch's number,
    too, where both use one OpenMP library.
    """
    threads = torch.get_num_threads()
    try:
        use_threads(threads)
    except ValueError as error:  # Numba's own words name no remedy on Linux
        raise InputError(
            "Numba finds no OpenMP library (libgomp.so.1) for the compiled engine's threads; install it: "
            "apt-get install libgomp1, or dnf install libgomp"
        ) from error
    torch.set_num_threads(threads)
    return threads


def use_threads(threads: int) -> None:
    """Share kernels that this thread of Python calls over so many: each begins with all cores."""
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
