"""Write the latency profile of a machine that nobody measured: a measured one, changed.

For looking at how policies fare elsewhere: verification that grows more slowly or comes in fixed shapes,
drafting that takes more or less of an autoregressive step. The autoregressive step is kept.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltd.errors import InputError
from ltd.options import StageOptions, option, run_stage
from ltd.replay.latency import LatencyProfile
from ltd.replay.latency_family import Change, changed


@dataclass(frozen=True, kw_only=True)
class VaryProfileOptions(StageOptions):
    """Options of the change."""

    profile: Path = option(help="latency profile to start from")
    output: Path = option(help="latency profile to write")
    slower_growth: float = option(1.0, "how many times more slowly verification grows")
    draft: float = option(1.0, "factor of the time of all draft passes")
    rest: float = option(1.0, "factor of the time of the rest of a cycle")
    buckets: tuple[int, ...] = option((), "sizes up to which verifications are padded; none: as measured")


def vary_profile(options: VaryProfileOptions, run: Any) -> None:
    """Read, change, write."""
    for name in ("slower_growth", "draft", "rest"):
        if getattr(options, name) <= 0:
            raise InputError(f"{name}: {getattr(options, name)}: expected more than 0")
    if min(options.buckets, default=1) < 1:
        raise InputError(f"buckets: {min(options.buckets)}: expected sizes from 1 up")
    change = Change(options.slower_growth, options.draft, options.rest, options.buckets)
    changed(LatencyProfile.load(options.profile), change).save(options.output)
    run.artifact(options.output)


def main(argv: list[str] | None = None) -> None:
    """Run the stage from the command line."""
    run_stage("vary_profile", VaryProfileOptions, vary_profile, __doc__, argv)


if __name__ == "__main__":
    main()
