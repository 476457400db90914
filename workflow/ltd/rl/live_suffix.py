"""Looking newest tokens up in the tree of suffixes, compiled."""

import numpy as np

from ltd.engine.compiled.arithmetic import kernel
from ltd.rl.suffix_prior import TOKENS


@kernel
def suffix_number(edges, recent):
    """Number, from 0, of the longest suffix of `recent` int64 [RECENT] that is in a `SuffixPrior` of these edges
    int64 [K]: the row of its values.
    """
    number = np.int64(0)
    for token in recent:
        key = number * TOKENS + token + 1
        place = np.searchsorted(edges, key)
        if place == len(edges) or edges[place] != key:
            break
        number = np.int64(place + 1)
    return number
