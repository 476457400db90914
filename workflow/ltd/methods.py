"""Names of the methods that the benchmark decodes with, and of the bound that only replay knows.

Snakemake reads this module for its plan, so it imports nothing heavy.
"""

from collections.abc import Sequence

from ltd.ablations.catalogue import GRID, LOOKUP, LOOKUP_LEARNED, TUNED, parse_method
from ltd.baselines import METHODS as BASELINES
from ltd.errors import InputError
from ltd.opponents import NAMES as OPPONENTS

BASELINE, ORACLE = "autoregressive", "oracle"
OTHERS = (BASELINE, "eagle3", GRID, *BASELINES, *OPPONENTS, LOOKUP, LOOKUP_LEARNED)


def check(methods: Sequence[str]) -> None:
    """Raise InputError unless every method is known and named once, and the first is the baseline."""
    for number, name in enumerate(methods):
        if name in methods[:number]:
            raise InputError(f"benchmark.methods: {name!r} is named twice; name every method once")
        if name.partition(":")[0] == TUNED:
            try:
                parse_method(name)
            except InputError as error:
                raise InputError(f"benchmark.methods: {error}") from error
        elif name not in OTHERS:
            raise InputError(
                f"benchmark.methods: {name!r} is unknown; choose from ltd, ltd:<variant>, {', '.join(OTHERS)}"
            )
    if not methods or methods[0] != BASELINE:
        raise InputError(
            f"benchmark.methods: the first is not {BASELINE!r}, to which every speedup is relative; "
            "put it first"
        )
