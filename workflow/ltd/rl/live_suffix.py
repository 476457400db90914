"""Looking newest tokens up in the tree of suffixes, compiled."""

import numpy as np

from ltd.engine.compiled.arithmetic import kernel
from ltd.rl.suffix_prior import TOKENS


@kernel
def suffix_number(edges, recent):
    """Number of the longest suffix of `recent` int64 [RECENT] in a `SuffixPrior` of these edges, int64 [K]: the
    row of its values, 0 where it knows none.
    """
    number = np.int64(0)
    for token in recent:
        key = number * TOKENS + token + 1
        place = np.searchsorted(edges, key)
        if place == len(edges) or edges[place] != key:
            break
        number = np.int64(place + 1)
    return number
