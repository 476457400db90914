"""Move policies to another machine, in replay: what those of the old machine, those for any machine and newly
trained ones attain there.

The grid is searched again for the machine on the validation prompts; all methods decode the test prompts. The
retrained pair has the settings of the old one, the same traces and the new latency profile: its seconds are
what a move costs whoever wants nothing but the best.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ltd.files import atomic_path, file_hash, read_json, write_json
from ltd.measurement.replayed_runs import answer_labels, replayed_runs
from ltd.measurement.summary import MEAN_TASK, compare
from ltd.methods import BASELINE, GRID, ORACLE
from ltd.options import StageOptions, option, run_stage
from ltd.replay.latency import LatencyProfile
from ltd.replay.oracle import oracle
from ltd.replay.simulator import Simulation
from ltd.replay.static_grid import static_grid
from ltd.replay.traces import Traces, of_tasks
from ltd.reporting.transfer import CONDITIONED, FACTS, LEARNED, MOVED, RATIOS, RETRAINED, RUNS
from ltd.rl import KINDS
from ltd.rl.co_adaptation import train_chain
from ltd.rl.evaluation import evaluate
from ltd.rl.machine import settled
from ltd.rl.policies import Policy, load_policy, save_policies
from ltd.rl.policy_folders import SETTINGS
from ltd.rl.policy_settings import PolicySettings, with_overrides
from ltd.rl.replay_walk import ReplayWorld
from ltd.rl.workshop_files import open_workshop

Policies = dict[str, Policy]


@dataclass(frozen=True, kw_only=True)
class TransferOptions(StageOptions):
    """Options of one move."""

    traces: Path = option(help="traces of the training prompts")
    validation_traces: Path = option(help="traces of the validation prompts")
    test_traces: Path = option(help="traces of the test prompts")
    profile: Path = option(help="latency profile of the machine to move to")
    policies: Path = option(help="folder of a pair trained for another machine; the new one has its settings")
    conditioned: Path = option(help="folder of a pair that observes the machine")
    test_tasks: tuple[str, ...] = option((), "tasks to compare on; none: all of the test traces")
    output: Path = option(help="folder of the results; its name is the machine's")
    rounds: int = option(3, "rounds of co-adaptation of the retrained pair")
    max_size: int = option(60, "largest tree of the grid; every size from 1 to this one is tried")


def transfer(options: TransferOptions, run: Any) -> None:
    """Replay every method on the machine; write what every prompt took, ratios with intervals, and facts."""
    machine, settings = LatencyProfile.load(options.profile), settings_of(options.policies)
    compared_on = options.test_tasks, str(options.test_traces), "benchmark.test_tasks"
    test = of_tasks(Traces.load(options.test_traces), *compared_on)
    pairs = {MOVED: load(options.policies), CONDITIONED: load(options.conditioned)}
    chosen_for = settings.train_tasks, str(options.validation_traces)
    validation = of_tasks(Traces.load(options.validation_traces), *chosen_for)
    sizes = range(1, options.max_size + 1)
    depth, size, _ = static_grid(validation, machine, range(test.max_depth + 1), sizes).best()
    facts: dict[str, Any] = {"machine": options.output.name, "device": machine.device}
    facts |= {"grid": {"depth": depth, "size": size}}
    if pairs[MOVED]["depth"].trained_on["profile"] == file_hash(options.profile):
        pairs[RETRAINED] = pairs[MOVED]  # at home
    else:
        pairs[RETRAINED], facts["retraining"] = retrain(options, settings)
    static = static_grid(test, machine, sorted({0, depth}), [size])
    simulations = {BASELINE: static.setting(0, size), GRID: static.setting(depth, size)}
    for name, pair in pairs.items():
        simulations[name], facts[name] = replay(pair, test, machine)
    simulations[ORACLE] = oracle(test, machine, sizes)
    runs = replayed_runs(simulations, answer_labels(test))
    ratios = pd.concat(compared(runs, options.seed), ignore_index=True)
    with atomic_path(options.output) as folder:
        folder.mkdir()
        save_policies(folder, *pairs[RETRAINED].values())
        runs.to_csv(folder / RUNS, index=False)
        ratios.to_csv(folder / RATIOS, index=False)
        write_json(folder / FACTS, facts)
    means = ratios[ratios["task"] == MEAN_TASK]
    run.metrics({f"{row.method}.over_{row.baseline}": row.ratio for row in means.itertuples()})
    run.metrics(facts.get("retraining", {}))
    run.artifact(options.output)
    print(means.drop(columns="task").round(4).to_string(index=False))


def load(folder: Path) -> Policies:
    """Read both policies of a folder."""
    return {kind: load_policy(folder, kind) for kind in KINDS}


def settings_of(folder: Path) -> PolicySettings:
    """With which the pair of a folder was trained."""
    source = folder / SETTINGS
    return with_overrides(PolicySettings(), read_json(source), str(source))


def retrain(options: TransferOptions, settings: PolicySettings) -> tuple[Policies, dict[str, float]]:
    """Train a pair for the machine; also the seconds it took, by the clock and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    paths = options.traces, options.validation_traces, options.profile
    workshop = open_workshop(settings, *paths, options.seed)
    pair, _ = train_chain(workshop, options.rounds, seed=options.seed)
    spent = {"seconds": time.perf_counter() - clock, "cpu_seconds": time.process_time() - processor}
    return {kind: trained.policy for kind, trained in pair.items()}, spent


def replay(pair: Policies, traces: Traces, machine: LatencyProfile) -> tuple[Simulation, dict[str, float]]:
    """Decode all answers with a pair on a machine; also its mean depth and size."""
    pair = {kind: settled(policy, machine) for kind, policy in pair.items()}
    world = ReplayWorld(traces, machine, pair["size"].actions)
    world = world.charged_for(*pair.values())
    evaluation = evaluate(world, pair["depth"], pair["size"])
    answers, count = evaluation.answer, len(traces.starts)
    seconds, cycles = np.bincount(answers, evaluation.seconds, count), np.bincount(answers, minlength=count)
    simulation = Simulation(traces.tasks, traces.answer_tokens, seconds, cycles)
    return simulation, {name: evaluation.summary()[name] for name in ("mean_depth", "mean_size")}


def compared(runs: pd.DataFrame, seed: int) -> Iterator[pd.DataFrame]:
    """Throughput ratios of all methods to plain decoding, of learned ones to the grid and the retrained."""
    for method in (GRID, *LEARNED, ORACLE):
        baselines = (BASELINE, GRID, RETRAINED) if method in LEARNED else (BASELINE,)
        for baseline in baselines:
            if method != baseline:
                yield compare(runs, method, baseline, seed).assign(method=method, baseline=baseline)


def main(argv: list[str] | None = None) -> None:
    """Run the stage from the command line."""
    run_stage("transfer", TransferOptions, transfer, __doc__, argv)


if __name__ == "__main__":
    main()
