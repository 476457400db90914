"""How many threads the kernels share their work over: as many as torch does."""

import numba
import torch


def share_threads() -> int:
    """Tell Numba torch's number of threads, and return it.

    Whoever starts Numba's threads first sets OpenMP's number, which is torch's, to that of all cores.
    """
    threads = torch.get_num_threads()
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    torch.set_num_threads(threads)
    return threads
