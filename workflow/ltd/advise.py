"""What an experiment teaches whoever deploys its target and head on another engine.

    python -m ltd.advise --experiment results/default

From traces and latency profile alone: the best static setting in the terms of SGLang, vLLM and TensorRT-LLM,
what it gains, what adapting every cycle adds, and whether speculation pays. Settings are chosen on the
validation prompts; gains are replayed on the test prompts, with 95% intervals over prompts.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ltd.errors import InputError
from ltd.options import option, parse_options
from ltd.replay.chains import chain_profile, chain_traces
from ltd.replay.latency import LatencyProfile
from ltd.replay.oracle import oracle
from ltd.replay.simulator import Simulation, simulate
from ltd.replay.static_grid import static_grid
from ltd.replay.traces import Traces, of_tasks
from ltd.reporting.advice import Advice, render
from ltd.rl.policies import DESCRIPTION
from ltd.rl.policy_controller import PolicyController


@dataclass(frozen=True, kw_only=True)
class AdviseOptions:
    """Options of the command."""

    experiment: Path = option(Path("results/default"), "folder of the experiment")
    seed: int = option(0, "seed of the resamples behind the intervals")
    temperature: float | None = option(
        None, "temperature of the traces to read; none: that of the validation traces, where there is one"
    )
    test_tasks: tuple[str, ...] = option((), "tasks to measure on; none: all of the test traces")
    policies: Path | None = option(None, "folder of trained policies; none: the experiment's tuned ones")
    max_size: int = option(60, "largest tree or chain considered, as far as the profile goes")


@dataclass(frozen=True)
class Evidence:
    """Traces to choose settings on, traces to measure them on, the machine's profile: the newer of that which
    policies learned from and that which the benchmark took between its prompts, `times_of_benchmark`.
    """

    choosing: Traces
    measuring: Traces
    profile: LatencyProfile
    held_out: bool
    times_of_benchmark: bool

    @classmethod
    def load(cls, options: AdviseOptions) -> "Evidence":
        """Read the files of an experiment; raises InputError naming what is missing.

        Without traces of the test prompts the validation prompts serve twice.
        """
        learned_from = options.experiment / "latency" / "profile.json"
        profile = LatencyProfile.load(learned_from)
        validation = validation_traces(options, profile.beam)
        choosing = Traces.load(validation)
        later = options.experiment / "benchmark" / f"t{choosing.temperature:g}" / "profile.json"
        of_benchmark = later.is_file() and later.stat().st_mtime > learned_from.stat().st_mtime
        if of_benchmark:
            profile = LatencyProfile.load(later)
        test = validation.with_name(validation.name.replace("validation", "test", 1))
        if not test.is_file():
            return cls(choosing, choosing, profile, False, of_benchmark)
        measuring = of_tasks(Traces.load(test), options.test_tasks, str(test), "test_tasks")
        return cls(choosing, measuring, profile, True, of_benchmark)


def validation_traces(options: AdviseOptions, beam: int) -> Path:
    """The trace file to choose settings on; raises InputError where there is none or no telling which."""
    temperature = "*" if options.temperature is None else f"{options.temperature:g}"
    pattern = f"validation-t{temperature}-w{beam}.safetensors"
    found = sorted((options.experiment / "traces").glob(pattern))
    if not found:
        raise InputError(
            f"{options.experiment}/traces: no {pattern}; record one with snakemake --cores all record_traces"
        )
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise InputError(f"temperature: there are {names}; say which with --temperature")
    return found[0]


def best_tree(evidence: Evidence, max_size: int) -> tuple[int, int, float] | None:
    """Depth, size and throughput of the fastest tree of two nodes or more; None where none was timed."""
    largest = min(max_size, evidence.profile.max_size)
    if largest < 2:
        return None
    depths = range(1, evidence.choosing.max_depth + 1)
    return static_grid(evidence.choosing, evidence.profile, depths, range(2, largest + 1)).best()


def best_chain(evidence: Evidence, max_size: int) -> tuple[int, float]:
    """Length and throughput of the fastest chain, what was not recorded of it taken as rejected."""
    longest = min(evidence.choosing.max_depth, evidence.profile.max_size, max_size)
    chains, _ = chain_traces(evidence.choosing, unknown_accepted=False)
    grid = static_grid(chains, chain_profile(evidence.profile), range(1, longest + 1), [longest])
    length, _, throughput = grid.best()
    return length, throughput


def replay_settings(evidence: Evidence, tree: tuple[int, int] | None, chain: int) -> dict[str, Simulation]:
    """Plain decoding, the settings and the oracle on the measuring traces; chains in both readings."""
    traces, profile = evidence.measuring, evidence.profile
    plain = static_grid(traces, profile, [0], [1]).setting(0, 1)
    found = {"plain": plain, "oracle": oracle(traces, profile, range(1, profile.max_size + 1))}
    for name, accepted in (("chain", False), ("chain at most", True)):
        chains, narrow = chain_traces(traces, accepted)[0], chain_profile(profile)
        found[name] = static_grid(chains, narrow, [chain], [chain]).setting(chain, chain)
    if tree is not None:
        found["tree"] = static_grid(traces, profile, [tree[0]], [tree[1]]).setting(*tree)
    return found


def replay_policies(options: AdviseOptions, evidence: Evidence) -> Simulation | None:
    """The trained policies on the measuring traces, their own time charged; None where there are none.

    Raises InputError for a folder asked for that has none.
    """
    folder = options.policies or options.experiment / "policies" / "ltd" / "best"
    if not (folder / DESCRIPTION).is_file():
        if options.policies is None:
            return None
        raise InputError(f"policies: {folder} has no {DESCRIPTION}; give a folder of trained policies")
    return simulate(PolicyController.load(folder), evidence.measuring, evidence.profile)


def advise(options: AdviseOptions) -> str:
    """Read, search, replay, and put into words; raises InputError for options that cannot be, and for files
    that are absent or disagree.
    """
    if options.max_size < 1:
        raise InputError(f"max_size: {options.max_size} is not at least 1")
    if options.seed < 0:  # as config.yaml's
        raise InputError(f"seed: {options.seed} is negative; use a whole number from 0 up")
    evidence = Evidence.load(options)
    tree = best_tree(evidence, options.max_size)
    chain, of_chain = best_chain(evidence, options.max_size)
    # A chain is what every engine can draft, and verified like a tree of its size.
    tree = tree[:2] if tree is not None and tree[2] > of_chain else None
    found = replay_settings(evidence, tree, chain)
    policies = replay_policies(options, evidence)
    if policies is not None:
        found["policies"] = policies
    exact = chain_traces(evidence.measuring, unknown_accepted=False)[1]
    advice = Advice(
        experiment=options.experiment,
        profile=evidence.profile,
        traces=evidence.measuring,
        held_out=evidence.held_out,
        times_of_benchmark=evidence.times_of_benchmark,
        tree=tree,
        chain=chain,
        chain_exact=float(exact.mean()),
        simulations=found,
        seed=options.seed,
    )
    return render(advice)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the options and print the advice; wrong input is one line and exit status 2."""
    options = parse_options(AdviseOptions, __doc__, argv)
    try:
        print(advise(options))
    except InputError as error:
        print(f"advise: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
