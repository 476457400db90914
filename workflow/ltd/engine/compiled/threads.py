"""How many threads the kernels share their work over: as many as torch does."""

import numba
import torch


def share_threads() -> int:
    """Tell Numba torch's number of threads, and return it.

    Whoever starts Numba's threads first sets OpenMP's number, which is torch's, to that of all cores.
    """
    threads = torch.get_num_threads()
    use_threads(threads)
    torch.set_num_threads(threads)
    return threads


def use_threads(threads: int) -> None:
    """Share kernels that this thread of Python calls over so many: each begins with all cores."""
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
