"""What the paper's static Eagle3 would gain on a measured machine: its acceptance lengths, our times.

    python -m ltd.what_if --profiles llama31-8b=workflow/profiles/llama31-8b-h200.json \\
        vicuna-13b=workflow/profiles/vicuna-13b-h200.json

A profile of the real shapes (`python -m ltd.profile_latency --weights random`) says what a cycle takes; how
many tokens it gives is the paper's, for the same head and tree. Compare the shape with the paper's column,
not the numbers: its engine was another one, on an A100.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ltd.errors import InputError
from ltd.options import option, parse_options
from ltd.replay.latency import LatencyProfile
from ltd.reporting.findings import markdown
from ltd.reporting.paper_results import SOURCE, main_table


@dataclass(frozen=True, kw_only=True)
class WhatIfOptions:
    """Options of the what-if."""

    profiles: tuple[str, ...] = option(help="profiles by the paper's names of models, <model>=<file>")
    temperature: float = option(0.0, "the paper's temperature, 0 or 1")
    context: int = option(512, "tokens in the cache")
    depth: int = option(8, "depth of the static tree")
    size: int = option(60, "size of the static tree")


def predictions(options: WhatIfOptions) -> pd.DataFrame:
    """One row a model and task: acceptance length, predicted and published speedup of static Eagle3."""
    paper = main_table(options.temperature)
    paper = paper[paper["method"] == "eagle3"]
    if not options.profiles:
        raise InputError("what_if.profiles: none given; expected <model>=<file>, one or more")
    tables = []
    for entry in options.profiles:
        model, _, path = entry.partition("=")
        rows = paper[paper["model"] == model]
        if rows.empty or not path:
            known = ", ".join(dict.fromkeys(paper["model"])) or "none at this temperature"
            raise InputError(
                f"what_if.profiles: {entry!r}; expected <model>=<file>, the model one of {known}"
            )
        profile = LatencyProfile.load(path)
        tables.append(rows.assign(predicted=speedup(profile, rows["acceptance_length"].to_numpy(), options)))
    columns = {"speedup": "published", "acceptance_length": "acceptance length"}
    table = pd.concat(tables).rename(columns=columns)
    return table[["model", "task", "acceptance length", "predicted", "published"]].reset_index(drop=True)


def speedup(profile: LatencyProfile, acceptance_length: np.ndarray, options: WhatIfOptions) -> np.ndarray:
    """Tokens a cycle over its time, against one token a plain step.

    The prefix pass takes what the cycle before emitted; between whole numbers of rows its time is linear.
    """
    rows = np.floor(acceptance_length)
    shorter, longer = (
        profile.cycle_seconds(options.depth, options.size, options.context, prefix_rows=count)
        for count in (rows, rows + 1)
    )
    seconds = shorter + (acceptance_length - rows) * (longer - shorter)
    return acceptance_length * profile.autoregressive_step(options.context) / seconds


def main(argv: list[str] | None = None) -> None:
    """Print the table."""
    try:
        options = parse_options(WhatIfOptions, __doc__, argv)
        table = predictions(options)
    except InputError as error:
        print(f"what_if: {error}", file=sys.stderr)
        sys.exit(2)
    formats = dict.fromkeys(("acceptance length", "predicted", "published"), ".2f")
    machines = {str(LatencyProfile.load(Path(p.partition("=")[2])).device) for p in options.profiles}
    print(
        f"Static Eagle3, depth {options.depth}, size {options.size}, {options.context} tokens of context, on "
        f"{', '.join(sorted(machines))}; published: {SOURCE}.\n"
    )
    print(markdown(table, formats))


if __name__ == "__main__":
    main()
