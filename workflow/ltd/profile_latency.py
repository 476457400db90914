"""Measure how long every phase of a cycle takes on this machine, by size and context length.

Each repetition visits every context length and, at each, every size in a random order, as whole cycles: all
phases see the processor's caches as decoding leaves them, and a machine that drifts does so for all alike.
Some sizes and one context length are measured only to see how far interpolation is off there, and whole
cycles of the decoding loop show how far the profile is off.
"""

import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ltd.engine.loading import load_engine
from ltd.engine.model_loading import WEIGHTS
from ltd.files import atomic_path, read_json, write_json
from ltd.hub import identity
from ltd.measurement.matrix_products import matrix_product_share
from ltd.measurement.phase_timer import PhaseTimer, own_text, random_text
from ltd.measurement.profile_tables import interpolation_error, latency_tables, machine_facts
from ltd.measurement.visits import between, check_room, room_needed
from ltd.option_checks import check_latency
from ltd.options import ModelOptions, StageOptions, option, run_stage
from ltd.replay.latency import LatencyProfile
from ltd.tracking import StageRun


@dataclass(frozen=True, kw_only=True)
class LatencyOptions(StageOptions, ModelOptions):
    """Options of the timer."""

    target: str = option(help="folder or hub id of the target model")
    draft: str | None = option(
        None, "Eagle3 head, folder or hub id; none: a random one, a layer like the target's"
    )
    output: Path = option(help="profile to write (JSON)")
    weights: str = option(
        "checkpoint",
        "checkpoint, or random: target and head made from their config.json alone, which are as fast",
        choices=WEIGHTS,
    )
    beam: int = option(10, "beam width of the draft tree")
    max_depth: int = option(10, "largest number of draft passes")
    sizes: tuple[int, ...] = option(
        (1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 15, 16, 23, 24, 31, 32, 38),
        "verified nodes to time, from 1 to the largest, ascending",
    )
    context_lengths: tuple[int, ...] = option((32, 96, 192, 384), "tokens in the cache to time at, ascending")
    repetitions: int = option(30, "times that every point is measured; means are kept, long pauses cut")
    policy_network: tuple[int, ...] = option(
        (32, 32), "hidden layers of the policies timed beside the paper's"
    )


def profile_latency(options: LatencyOptions, run: StageRun) -> None:
    """The stage: measure, tabulate, check against held-out points, write."""
    check_latency(options)
    target, drafter = load_engine(
        options.target,
        options.draft,
        beam=options.beam,
        max_depth=options.max_depth,
        device=options.device,
        dtype=options.dtype,
        quantisation=options.quantisation,
        weights=options.weights,
        max_context=options.context_lengths[-1] + room_needed(options.sizes, options.max_depth),
        max_tree=options.sizes[-1],
    )
    check_room(options.context_lengths, options.sizes, options.max_depth, target.max_context)
    write_text = own_text if options.weights == "checkpoint" else random_text
    text = write_text(target, options.context_lengths[-1] + 1, options.seed)
    timer = PhaseTimer(
        *(target, drafter, text, options.sizes, options.context_lengths),
        policy_network=options.policy_network,
        seed=options.seed,
        held_out_sizes=between(options.sizes),
        held_out_contexts=between(options.context_lengths)[:1],
    )
    timer.run(options.repetitions)
    profile = LatencyProfile(
        **machine_facts(target, options.quantisation),
        target_hash=identity(options.target),
        draft_hash=identity(options.draft) if options.draft is not None else "random",
        beam=options.beam,
        max_depth=options.max_depth,
        context_lengths=list(options.context_lengths),
        policy_network=list(options.policy_network),
        tables=latency_tables(timer.watch.samples(), timer.axes, options.context_lengths),
    )
    profile.interpolation_error.update(interpolation_error(profile, timer))
    share = matrix_product_share(target, text[: options.context_lengths[len(options.context_lengths) // 2]])
    facts = {"matrix_product_share": share, "repetitions": options.repetitions, "weights": options.weights}
    write(profile, options.output, facts | environment(target.device))
    log(profile, share, run, options.output)


def environment(device: torch.device) -> dict[str, Any]:
    """When this was measured, and with which GPU software."""
    facts = {"date": datetime.now(UTC).date().isoformat()}
    if device.type == "cuda":
        facts |= {"cuda": torch.version.cuda, "driver": driver_version()}
    return facts


def driver_version() -> str | None:
    """Version of the GPU's driver, where its own tool tells."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.split("\n")[0].strip()


def write(profile: LatencyProfile, path: Path, more: dict[str, Any]) -> None:
    """Write the profile and what else was measured into one JSON file."""
    with atomic_path(path) as temporary:
        profile.save(temporary)
        write_json(temporary, read_json(temporary) | more)


def log(profile: LatencyProfile, share: float, run: StageRun, path: Path) -> None:
    """Log a few numbers by which profiles are compared, and the file; print them."""
    context = profile.context_lengths[len(profile.context_lengths) // 2]
    sizes = profile.tables["verify"].axis
    values = {
        "autoregressive_step_ms": 1e3 * float(profile.autoregressive_step(context)),
        "plain_step_ms": 1e3 * float(profile.plain_step(context)),
        "draft_prefix_ms": 1e3 * float(profile.draft_prefix(1, context)),
        "draft_step_ms": 1e3 * float(profile.draft_step(2, context)),
        f"verify_{sizes[0]}_ms": 1e3 * float(profile.verify(sizes[0], context)),
        f"verify_{sizes[-1]}_ms": 1e3 * float(profile.verify(sizes[-1], context)),
        "depth_policy_ms": 1e3 * profile.depth_policy,
        "size_policy_ms": 1e3 * profile.size_policy,
        "matrix_product_share": share,
    }
    for name, error in profile.interpolation_error.items():
        values |= {f"{name}_error_{kind}": error[kind] for kind in ("bias", "median")}
    run.metrics(values)
    run.artifact(path)
    print("\n".join(f"{name}: {value:.3f}" for name, value in values.items()))


def main(argv: list[str] | None = None) -> None:
    """Run the stage from the command line."""
    run_stage("profile_latency", LatencyOptions, profile_latency, __doc__, argv)


if __name__ == "__main__":
    main()
