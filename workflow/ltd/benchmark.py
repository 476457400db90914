"""Decode the test prompts for real with every method and compare wall-clock throughput.

For every prompt the methods run in an order of their own, two repeats shuffled together, so that a machine
that speeds up or slows down does so for all alike, and the odd and the even repeats of one method form an
A/A pair that shows timing noise. Between prompts the phases of a cycle are timed, for the replayed
rows beside the measured ones. Greedy answers, and sampled ones with the same seed, are the same tokens for
every method: `lossless` in the summary says whether they were. One temperature is decoded at a time, that
of the traces; `ltd.join_benchmark` puts several together.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from ltd.ablations.policy_methods import DEFAULT_DEPTH, load_policy_controller
from ltd.baselines import METHODS as BASELINES
from ltd.baselines.catalogue import load_controller
from ltd.devices import device_name, resolve_device
from ltd.engine.controllers import Controller, StaticController, static_or_plain
from ltd.engine.decoding import Generation, decode, decode_autoregressive
from ltd.engine.drafting import Drafter
from ltd.engine.loading import load_engine
from ltd.engine.lookup_drafting import LookupDrafter
from ltd.engine.lookup_folder import load_lookup
from ltd.engine.target import TargetModel
from ltd.errors import InputError
from ltd.files import atomic_path, discard, file_hash, read_json, write_json
from ltd.hub import identity
from ltd.measurement.profile_rounds import ProfileRounds, drift, rounds_between
from ltd.measurement.protocol import check_answers, schedule, select_prompts
from ltd.measurement.reference_check import compare_with_transformers
from ltd.measurement.replay_rows import as_recorded, replay_rows
from ltd.measurement.summary import (
    MEAN_TASK,
    clock_gap,
    mark_lossless,
    metric_label,
    summarise,
)
from ltd.measurement.timing import garbage_kept
from ltd.measurement.visits import check_room, room_needed
from ltd.methods import BASELINE, LOOKUP, LOOKUP_LEARNED, LOOKUP_POLICIES, needed_folders
from ltd.methods import check as check_methods
from ltd.opponents import NAMES as OPPONENTS
from ltd.opponents.folders import load_opponent
from ltd.options import ModelOptions, StageOptions, option, run_stage
from ltd.replay.dense_latency import check_together
from ltd.replay.latency import LatencyProfile
from ltd.replay.static_grid import in_hindsight, read_best
from ltd.replay.traces import Traces, of_tasks
from ltd.rl.policy_controller import PolicyController
from ltd.texts.responses import Responses, Sequence
from ltd.tracking import StageRun

CYCLE_COLUMNS = (
    "context_length",
    "depth",
    "size",
    "verified",
    "accepted",
    "tokens",
    "draft_ms",
    "verify_ms",
    "policy_ms",
    "rest_ms",
)


POSITIVE = (
    *("prompts_per_task", "repeats", "max_new_tokens"),
    *("default_depth", "default_size", "profile_rounds"),
)
# Table 1 of the paper, the strongest opponents, and what each policy is worth (table 4).
DEFAULT_METHODS = (
    *(BASELINE, "eagle3", "eagle3_grid"),
    *("ddd", "svip", "gammatune", "disco", "specdecpp", "c2t"),
    *("best_constant", "marginal_rule", "supervised", "optimal_stopping"),
    *("ltd:paper", "ltd", "ltd:no-depth", "ltd:no-size", "ltd:iteration-0"),
)


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions(StageOptions, ModelOptions):
    """Options of the benchmark."""

    target: str = option(help="folder or hub id of the target model")
    draft: Path = option(help="folder of the Eagle3 head")
    profile: Path = option(help="latency profile of this machine: the trees, and what to time for replay")
    grid: Path = option(help="result of the static grid search")
    policies: Path = option(help="folder with one folder a chain of policies")
    baselines: Path = option(help="folder with one folder a published baseline; only those asked for")
    opponents: Path = option(help="folder with one folder an opponent of the policies; only those asked for")
    lookup: Path = option(help="folder of the look-up drafter; only where it is asked for")
    responses: Path = option(help="the target's answers to the test prompts; their prompts are decoded")
    traces: Path = option(help="traces of the same answers, for the replayed rows and the oracle")
    output: Path = option(
        help="folder of cycles.parquet, runs.parquet, summary.csv, benchmark.json and profile.json"
    )
    state: Path = option(help="folder that keeps finished prompts of an interrupted benchmark")
    methods: tuple[str, ...] = option(DEFAULT_METHODS, "methods to decode with, the first the baseline")
    test_tasks: tuple[str, ...] = option(
        ("chat", "maths", "instructions", "qa", "code", "stdlib"), "tasks whose test prompts are decoded"
    )
    prompts_per_task: int = option(
        24,
        "test prompts a task, as far as they fit the target; a conversation counts once, with all its turns",
    )
    repeats: int = option(4, "times that every method decodes every prompt; at least 2 for the A/A spread")
    max_new_tokens: int = option(128, "largest number of tokens of an answer")
    default_depth: int = option(DEFAULT_DEPTH, "depth of `eagle3`, the published static setting")
    default_size: int = option(30, "size of `eagle3`; published: 60, a beam of 2 has 30 at depth 8")
    profile_rounds: int = option(20, "times that every point of the latency profile is measured meanwhile")


@dataclass(frozen=True)
class Engine:
    """What decodes: the target, the drafter, and a controller a method (None: autoregressive).

    `own_drafters` are those of methods that do not draft with the head.
    """

    target: TargetModel
    drafter: Drafter
    controllers: dict[str, Controller | None]
    max_new_tokens: int
    temperature: float
    own_drafters: dict[str, LookupDrafter] = field(default_factory=dict)

    def run(self, method: str, prompt: Sequence) -> Generation:
        """Decode one prompt with one method."""
        settings = {
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "seed": prompt.seed_key,
            "eos_ids": self.target.eos_ids,
        }
        tokens = prompt.tokens[: prompt.prompt_length]
        controller = self.controllers[method]
        if controller is None:
            return decode_autoregressive(self.target, tokens, **settings)
        drafter = self.own_drafters.get(method, self.drafter)
        return decode(self.target, drafter, controller, tokens, **settings)


def make_controllers(options: BenchmarkOptions, grid: dict[str, Any]) -> dict[str, Controller | None]:
    """Return the controller of every method asked for; `grid` is the best static setting."""
    makers: dict[str, Callable[[], Controller | None]] = {
        BASELINE: lambda: None,
        "eagle3": lambda: StaticController(options.default_depth, options.default_size),
        "eagle3_grid": lambda: static_or_plain(grid["depth"], grid["size"]),
    }
    learned = [name for name in options.methods if name.partition(":")[0] == "ltd"]
    pair = partial(load_policy_controller, options.policies, grid=grid, default_depth=options.default_depth)
    makers |= {name: partial(pair, name) for name in learned}
    makers |= {name: partial(load_controller, options.baselines, name) for name in BASELINES}
    makers |= {name: partial(load_opponent, options.opponents, name) for name in OPPONENTS}
    makers[LOOKUP] = lambda: load_lookup(options.lookup)[0].controller()
    makers[LOOKUP_LEARNED] = lambda: PolicyController.load(options.policies / LOOKUP_POLICIES, LOOKUP_LEARNED)
    return {method: makers[method]() for method in options.methods}


def looked_up(methods: tuple[str, ...]) -> list[str]:
    """Those that draft by look-up."""
    return [name for name in methods if name in (LOOKUP, LOOKUP_LEARNED)]


def check(options: BenchmarkOptions, profile: LatencyProfile) -> None:
    """Refuse what cannot be measured before any work is done."""
    check_methods(options.methods)
    for name in POSITIVE:
        if getattr(options, name) < 1:
            raise InputError(
                f"benchmark.{name}: {getattr(options, name)} is not positive; expected at least 1"
            )
    for name, largest in (("default_depth", profile.max_depth), ("default_size", profile.max_size)):
        if getattr(options, name) > largest:
            raise InputError(
                f"benchmark.{name}: {getattr(options, name)} exceeds the {largest} of the latency profile"
            )


def check_models(options: BenchmarkOptions, traces: Traces) -> None:
    """Refuse traces of another target or head than those that decode.

    For after they are loaded: only then is it known which commit of the hub a name means.
    """
    for model, name in (("target", options.target), ("draft", options.draft)):
        found, recorded = identity(name), getattr(traces, f"{model}_hash")
        if found != recorded:
            raise InputError(
                f"{model}: {name} is {found}, but {options.traces} was recorded with {recorded}; decode with "
                "that one, or record and profile again"
            )


def decode_all(
    engine: Engine, prompts: list[Sequence], rounds: ProfileRounds, options: BenchmarkOptions, state: Path
) -> Iterator[list[dict[str, Any]]]:
    """Yield the records of every prompt; those that `state` already holds are not decoded again."""
    for method in options.methods:
        engine.run(method, prompts[0])  # warm-up: first calls allocate and load
    for index, prompt in enumerate(tqdm(prompts, desc="benchmark", unit="prompt")):
        file = state / f"{index:05d}.json"
        if not file.is_file():
            with garbage_kept():
                records = [
                    record(engine.run(method, prompt), prompt, method, repeat, engine.temperature)
                    for method, repeat in schedule(options.methods, options.repeats, options.seed, index)
                ]
            write_json(file, records)
        rounds.after(index)
        yield read_json(file)


def record(
    generation: Generation, prompt: Sequence, method: str, repeat: int, temperature: float
) -> dict[str, Any]:
    """Turn one run into plain values: its key, its own columns, and a list a column of its cycles."""
    columns = {name: [getattr(cycle, name) for cycle in generation.cycles] for name in CYCLE_COLUMNS}
    return {
        "key": {
            "method": method,
            "task": prompt.task,
            "prompt": str(prompt.question_id),
            "turn": prompt.turn,
            "repeat": repeat,
            "temperature": temperature,
        },
        "run": {
            "prompt_tokens": prompt.prompt_length,
            "tokens": sum(columns["tokens"]),
            "prefill_seconds": generation.prefill_seconds,
            "seconds": generation.seconds,
            "token_ids": list(generation.tokens),
        },
        "cycles": columns,
    }


def tables(records: list[dict[str, Any]], methods: tuple[str, ...]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the runs and the cycles as tables with the columns that the summary needs, by method."""
    records = sorted(records, key=lambda entry: methods.index(entry["key"]["method"]))
    runs = pd.DataFrame([entry["key"] | entry["run"] for entry in records])
    cycles = pd.concat(
        [
            pd.DataFrame(entry["cycles"]).assign(**entry["key"], cycle=range(len(entry["cycles"]["tokens"])))
            for entry in records
            if entry["run"]["tokens"]  # an answer that prefill alone finished has no cycle
        ],
        ignore_index=True,
    )
    keys = list(records[0]["key"])
    ordered = cycles[[*keys, "cycle", *CYCLE_COLUMNS]]
    return mark_lossless(runs.assign(source="measured")), ordered.assign(source="measured")


def open_state(options: BenchmarkOptions) -> Path:
    """Return the folder of finished prompts, emptied when it belongs to other settings or files."""
    ignored = {"experiment", "output", "state", "traces", "baselines", "opponents", "lookup"}
    paths = ("draft", "profile", "grid", "responses")
    settings = {key: str(value) for key, value in asdict(options).items() if key not in ignored}
    settings |= {name: file_hash(getattr(options, name)) for name in paths}
    # Only those that are decoded with: chains that are trained meanwhile change nothing here.
    settings |= {folder: file_hash(folder) for folder in needed_folders(options.methods, options.policies)}
    fitted = sorted({name.partition(":")[0] for name in options.methods if name in BASELINES})
    settings |= {name: file_hash(options.baselines / name) for name in fitted}
    asked = [name for name in OPPONENTS if name in options.methods]
    settings |= {name: file_hash(options.opponents / name) for name in asked}
    if looked_up(options.methods):
        settings["lookup"] = file_hash(options.lookup)
    if Path(options.target).is_dir():
        settings["target"] = file_hash(options.target)
    file = options.state / "settings.json"
    if not file.is_file() or read_json(file) != settings:
        with atomic_path(options.state) as folder:
            folder.mkdir(parents=True)
            write_json(folder / "settings.json", settings)
    return options.state


def make_engine(
    options: BenchmarkOptions, profile: LatencyProfile, temperature: float, longest: int
) -> Engine:
    """Load target and head with room for prompts of up to `longest` tokens and for the timer's, and a
    controller a method.
    """
    controllers = make_controllers(options, read_best(options.grid, profile.beam))
    room = room_needed(profile.tables["verify"].axis, profile.max_depth)
    target, drafter = load_engine(
        options.target,
        options.draft,
        beam=profile.beam,
        max_depth=profile.max_depth,
        device=options.device,
        dtype=options.dtype,
        quantisation=options.quantisation,
        max_context=max(longest + options.max_new_tokens, profile.context_lengths[-1] + room),
        max_tree=profile.max_size,  # the same passes as were timed
    )
    target.check_prompt(longest)
    check_room(profile.context_lengths, profile.tables["verify"].axis, profile.max_depth, target.max_context)
    drafters = {}
    if looked_up(options.methods):
        settings, texts = load_lookup(options.lookup)
        drafters = dict.fromkeys(looked_up(options.methods), settings.drafter(texts, target.device))
    return Engine(target, drafter, controllers, options.max_new_tokens, temperature, drafters)


def benchmark(options: BenchmarkOptions, run: StageRun) -> None:
    """The stage: decode, tabulate, compare with replay and with transformers, write."""
    profile, traces = LatencyProfile.load(options.profile), Traces.load(options.traces)
    check(options, profile)
    check_together(traces, profile)
    prompts = select_prompts(
        Responses.load(options.responses), options.test_tasks, options.prompts_per_task, options.seed
    )
    check_answers(prompts, options.max_new_tokens, options.responses)
    longest = max(prompt.prompt_length for prompt in prompts)
    engine = make_engine(options, profile, traces.temperature, longest)
    check_models(options, traces)
    state = open_state(options)
    resumed = len(list(state.glob("[0-9]*.json")))
    rounds = rounds_between(
        *(len(prompts), options.profile_rounds, engine.target, engine.drafter, profile),
        *(engine.temperature, options.seed, state),
    )
    records = [entry for part in decode_all(engine, prompts, rounds, options, state) for entry in part]
    runs, cycles = tables(records, options.methods)
    # Traces and profile are the head's.
    with_head = {name: c for name, c in engine.controllers.items() if name not in engine.own_drafters}
    own_profile = rounds.profile(profile, options.quantisation)
    replayed = replay_rows(with_head, traces, own_profile, prompts)
    summary = summarise(
        pd.concat([runs, replayed.runs]), pd.concat([cycles, replayed.cycles]), seed=options.seed
    )
    device, grid = resolve_device(options.device), read_best(options.grid, profile.beam)
    decoded = of_tasks(traces, options.test_tasks, str(options.traces))
    facts = {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "seed": options.seed,
        "prompts_per_task": options.prompts_per_task,
        "repeats": options.repeats,
        "max_new_tokens": options.max_new_tokens,
        "prompts_of_interrupted_run": resumed,
        "grid": grid,
        "default": {"depth": options.default_depth, "size": options.default_size},
        "clock_gap": clock_gap(runs, cycles),
        "recorded_answers": as_recorded(runs, cycles, replayed.cycles, prompts),
        "hindsight": in_hindsight(decoded, own_profile, grid["depth"], grid["size"]),
        "drift": drift(profile, own_profile, grid["depth"], grid["size"]),
        "transformers": compare_with_transformers(options.target, runs, prompts, device),
    }
    for name, table in (("cycles", cycles), ("runs", runs), ("oracle", replayed.oracle)):
        with atomic_path(options.output / f"{name}.parquet") as temporary:
            table.to_parquet(temporary, index=False)
    with atomic_path(options.output / "summary.csv") as temporary:
        summary.to_csv(temporary, index=False)
    own_profile.save(options.output / "profile.json")
    write_json(options.output / "benchmark.json", facts)
    log(run, summary, facts, options.output)
    discard(state)  # who asks for the benchmark again wants it measured again


def log(run: StageRun, summary: pd.DataFrame, facts: dict[str, Any], output: Path) -> None:
    """Log speedups and acceptance lengths by method and task, and the small outputs; print the means."""
    values = {"clock_gap": facts["clock_gap"]}
    values |= {f"drift/{name}": change for name, change in facts["drift"].items()}
    values["hindsight_gain"] = facts["hindsight"]["gain"]
    for row in summary.itertuples():
        label = metric_label(row.method, row.task, row.temperature)
        label += "/replay" if row.source == "replay" else ""
        values |= {f"speedup/{label}": row.speedup, f"acceptance_length/{label}": row.acceptance_length}
    run.metrics(values)
    run.artifact(output / "summary.csv")
    run.artifact(output / "benchmark.json")
    run.artifact(output / "profile.json")
    means = summary[summary["task"] == MEAN_TASK]
    print(means[["method", "source", "speedup", "tokens_per_second", "lossless"]].to_string(index=False))


def main(argv: list[str] | None = None) -> None:
    """Run the stage from the command line."""
    run_stage("benchmark", BenchmarkOptions, benchmark, __doc__, argv)


if __name__ == "__main__":
    main()
