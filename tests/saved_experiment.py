"""A tiny experiment on disk, up to what the benchmark reads, each file made by the code of its stage."""

import dataclasses

import numpy as np

from ltd.benchmark import BenchmarkOptions
from ltd.engine.target import TargetModel
from ltd.grid_search import GridSearchOptions, grid_search
from ltd.profile_latency import LatencyOptions, profile_latency
from ltd.record_traces import RecordTracesOptions, record_traces
from ltd.replay.latency import LatencyProfile
from ltd.replay.traces import Traces
from ltd.rl.observations import ObservationSpec
from ltd.rl.policies import Policy, PolicyNetwork, save_policies
from ltd.rl.replay_walk import ReplayWorld
from ltd.texts.responses import Responses
from ltd.tracking import StageRun
from saved_engine import save_engine
from synthetic import synthetic_profile, synthetic_traces
from tiny_engine import tiny_answers

BEAM, MAX_DEPTH, SIZES = 3, 4, (1, 2, 4, 8)
METHODS = ("autoregressive", "eagle3", "eagle3_grid", "ltd:paper", "ltd")
MAX_NEW_TOKENS = 24


def make_experiment(folder, prompts=6):
    """Write everything below `folder` and return the benchmark's options."""
    target, draft = save_engine(folder)
    responses = folder / "responses" / "test-t0.safetensors"
    answers = tiny_answers(TargetModel.load(target), prompts, max_new_tokens=MAX_NEW_TOKENS)
    Responses.from_sequences(dataclasses.replace(a, seed_key=0) for a in answers).save(responses)
    traces = folder / "traces" / "test.safetensors"
    common = {"target": str(target), "draft": draft}
    record_traces(
        RecordTracesOptions(
            **common, responses=responses, output=traces, state=folder / "s", beam=BEAM, max_depth=MAX_DEPTH
        ),
        StageRun(),
    )
    profile = folder / "latency" / "profile.json"
    profile_latency(
        LatencyOptions(
            **common,
            output=profile,
            beam=BEAM,
            max_depth=MAX_DEPTH,
            sizes=SIZES,
            context_lengths=(8, 40),
            repetitions=2,
            policy_network=(8,),
        ),
        StageRun(),
    )
    grid = folder / "benchmark" / "grid.json"
    grid_search(
        GridSearchOptions(traces=(traces,), profiles=(profile,), output=grid, max_size=SIZES[-1]), StageRun()
    )
    world = ReplayWorld(Traces.load(traces), LatencyProfile.load(profile), SIZES)
    for chain in ("paper", "ltd"):
        random_policies(folder / "policies" / chain / "best", world)
    return BenchmarkOptions(
        **common,
        profile=profile,
        grid=grid,
        policies=folder / "policies",
        baselines=folder / "baselines",
        opponents=folder / "opponents",
        lookup=folder / "lookup",
        responses=responses,
        traces=traces,
        output=folder / "benchmark",
        state=folder / "state" / "benchmark",
        methods=METHODS,
        test_tasks=("chat", "code"),
        prompts_per_task=prompts // 2,
        repeats=2,
        max_new_tokens=MAX_NEW_TOKENS,
        default_depth=MAX_DEPTH,
        default_size=SIZES[-1],
        profile_rounds=2,
        device="cpu",
    )


def at_temperature(options, temperature):
    """The benchmark's options at another temperature, with answers and traces of their own."""
    folder, name = options.output.parent, f"t{temperature:g}"
    responses = folder / "responses" / f"test-{name}.safetensors"
    answers = tiny_answers(
        TargetModel.load(options.target),
        options.prompts_per_task * len(options.test_tasks),
        temperature=temperature,
        max_new_tokens=MAX_NEW_TOKENS,
    )
    Responses.from_sequences(answers).save(responses)
    traces = folder / "traces" / f"test-{name}.safetensors"
    record_traces(
        RecordTracesOptions(
            target=options.target,
            draft=options.draft,
            responses=responses,
            output=traces,
            state=folder / "s",
            temperature=temperature,
            beam=BEAM,
            max_depth=MAX_DEPTH,
        ),
        StageRun(),
    )
    return dataclasses.replace(
        options,
        responses=responses,
        traces=traces,
        output=folder / "benchmark" / name,
        state=folder / "state" / f"benchmark-{name}",
    )


def made_up_world():
    """What `random_policies` may look at where nothing is recorded."""
    trees = {"beam": BEAM, "max_depth": MAX_DEPTH}
    return ReplayWorld(synthetic_traces(**trees), synthetic_profile(**trees), SIZES)


def random_policies(folder, world):
    """Write untrained policies: they choose something different nearly every cycle."""
    folder.mkdir(parents=True)
    beam, max_depth, sizes = world.traces.beam, world.max_depth, world.sizes
    spec = ObservationSpec(("mass", "levels", "one_hot_depth"), beam, max_depth, sizes)
    random = np.random.default_rng(0)
    positions, depths = np.arange(len(world.traces))[:, None], np.arange(1, max_depth)
    seen = world.observations(spec).rows(positions, depths).reshape(-1, spec.width)
    policies = []
    for kind, actions in (("depth", (0, 1)), ("size", sizes)):
        widths = ((8, spec.width), (len(actions), 8))
        hidden, last = [(random.standard_normal(shape), np.zeros(shape[0])) for shape in widths]
        # No action is better than the others on average: what is chosen depends on what is seen.
        last = (last[0], -PolicyNetwork([hidden, last]).logits(seen).mean(axis=0))
        # Before anything is drafted all drafts look alike: the first decision is at depth 1.
        policies.append(Policy(kind, PolicyNetwork([hidden, last]), spec, actions, first_decision=1))
    save_policies(folder, *policies)
