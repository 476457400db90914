"""Looking newest tokens up in the tree of suffixes, compiled."""

import numpy as np

from ltd.engine.compiled.arithmetic import kernel
from ltd.rl.suffix_prior import TOKENS


@kernel
def suffix_number(edges, recent):
    """Row of a `SuffixPrior`'s values, 0 where it knows none of the tokens.

    edges int64 [K] are the prior's; recent int64 [RECENT], the newest token first.
    """
    number = np.int64(0)
    for token in recent:
        key = number * TOKENS + token + 1
        place = np.searchsorted(edges, key)
        if place == len(edges) or edges[place] != key:
            break
        number = np.int64(place + 1)
    return number
