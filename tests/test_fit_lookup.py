"""The look-up drafter's traces and its fit: replay equals live decoding, and the fit finds what is best."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from engine_models import RandomController
from ltd.benchmark import benchmark
from ltd.engine.controllers import StaticController
from ltd.engine.decoding import decode
from ltd.engine.lookup_folder import LookupSettings, load_lookup, save_lookup
from ltd.engine.ngrams import NgramCounts
from ltd.errors import InputError
from ltd.files import read_json
from ltd.fit_lookup import FitLookupOptions, fit_lookup
from ltd.measurement.lookup_traces import LookupRecorder, drafted_answers, lookup_profile
from ltd.measurement.summary import MEAN_TASK, mark_lossless, summarise
from ltd.methods import LOOKUP, LOOKUP_LEARNED, LOOKUP_POLICIES
from ltd.record_lookup import RecordLookupOptions, halves, record_lookup
from ltd.replay.latency import LatencyProfile
from ltd.replay.simulator import simulate
from ltd.replay.static_grid import static_grid
from ltd.replay.traces import Traces, check
from ltd.reporting.findings import findings
from ltd.rl.replay_walk import ReplayWorld
from ltd.texts.responses import Responses
from ltd.tracking import StageRun
from pipeline import snakemake
from saved_engine import save_engine
from saved_experiment import SIZES, make_experiment, random_policies
from synthetic import synthetic_profile
from synthetic_runs import make_runs
from tiny_engine import VOCAB, tiny_answers, tiny_target

BEAM, DEPTH = 3, 4
HEADER = {"temperature": 0.0, "target_hash": "target", "draft_hash": "lookup"}


@pytest.fixture(scope="module")
def target():
    return tiny_target()


@pytest.fixture(scope="module")
def answers(target):
    return [answer for answer in tiny_answers(target, 6, max_new_tokens=40) if len(answer.answer) > 1]


@pytest.fixture(scope="module")
def others(target):
    """Texts to learn from."""
    return [answer.tokens.tolist() for answer in tiny_answers(target, 4, seed=7)]


@pytest.fixture(scope="module")
def recorded(answers, others):
    """A drafter that has learned from other answers, its traces and their profile."""
    settings = LookupSettings(VOCAB, 3, 2, BEAM, DEPTH, depth=1, size=1)
    drafter = settings.drafter(NgramCounts.of_texts(others, 3))
    recorder = LookupRecorder(drafter)
    traces = recorder.record(answers, HEADER)
    machine = synthetic_profile(beam=BEAM, max_depth=DEPTH, max_size=24)
    return drafter, traces, lookup_profile(machine, recorder.pass_seconds(), "lookup")


def test_traces_are_well_formed(recorded, answers):
    _, traces, _ = recorded
    check(traces, "traces")
    assert len(traces) == sum(len(answer.answer) - 1 for answer in answers)
    assert (traces.true_node >= 0).any(axis=0).all()
    assert np.isfinite(traces.entropy).all()


@pytest.mark.parametrize("seed", (None, 0, 1))
def test_replay_is_live_decoding(recorded, target, answers, seed):
    drafter, traces, profile = recorded

    def controller():
        return StaticController(3, 6) if seed is None else RandomController(seed, max_size=12)

    ours = controller()
    live = [
        (cycle.context_length, cycle.depth, cycle.verified, cycle.tokens)
        for answer in answers
        for cycle in decode(
            target, drafter, ours, answer.tokens[: answer.prompt_length], max_new_tokens=40, eos_ids=[0]
        ).cycles
    ]
    log = simulate(controller(), traces, profile).log
    replayed = list(zip(log.context_length, log.depth, log.verified, log.tokens, strict=True))
    assert live == [tuple(map(int, cycle)) for cycle in replayed]


def test_the_profile_has_the_drafters_own_times(recorded):
    _, traces, profile = recorded
    machine = synthetic_profile(beam=BEAM, max_depth=DEPTH, max_size=24)
    assert profile.verify(4, 64) == machine.verify(4, 64)
    assert profile.draft_step(2, 16) == profile.draft_step(2, 256) > 0
    assert profile.draft_prefix(5, 64) == profile.draft_prefix(1, 64)
    assert static_grid(traces, profile, [0, 2], [4]).throughput().shape == (2, 1)


@pytest.fixture
def fitting(tmp_path, answers):
    """Options of a fit to a few answers."""
    folder, _ = save_engine(tmp_path)
    texts, validation = tmp_path / "texts.safetensors", tmp_path / "validation.safetensors"
    Responses.from_sequences(answers[:4]).save(texts)
    Responses.from_sequences(answers[4:]).save(validation)
    profile = tmp_path / "profile.json"
    synthetic_profile(beam=7, max_depth=DEPTH, max_size=24).save(profile)
    return FitLookupOptions(
        target=str(folder),
        texts=texts,
        validation=validation,
        profile=profile,
        output=tmp_path / "lookup",
        beam=BEAM,
        max_depth=DEPTH,
        orders=(1, 3),
        context_weights=(1, 4),
    )


def test_the_fit_writes_a_drafter(fitting):
    fit_lookup(fitting, StageRun())
    settings, counts = load_lookup(fitting.output)
    found = read_json(fitting.output / "validation.json")
    best = max(found["tried"], key=lambda entry: entry["mean_log_probability"])
    assert (settings.order, settings.context_weight) == (best["order"], best["context_weight"])
    assert (settings.depth, settings.size) == (found["depth"], found["size"])
    assert settings.vocab_size == VOCAB and counts.order == settings.order
    assert found["oracle_speedup"] >= found["speedup"] > 0
    assert settings.drafter(counts).beam == BEAM


def test_a_task_without_answers_is_refused(fitting):
    with pytest.raises(InputError, match=r"^train_tasks: 'poems' has no answers in \S+validation\S+; it hol"):
        fit_lookup(replace(fitting, train_tasks=("poems",)), StageRun())


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"lookup\.json: no such file"):
        load_lookup(tmp_path)
    save_lookup(tmp_path, LookupSettings(VOCAB, 2, 1, 2, 3, 1, 1), [[1, 2, 3]])
    (tmp_path / "texts.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match="fit it again"):
        load_lookup(tmp_path)


def test_the_benchmark_decodes_with_it(tmp_path, others):
    options = make_experiment(tmp_path)
    save_lookup(options.lookup, LookupSettings(VOCAB, 3, 2, BEAM, DEPTH, depth=3, size=5), others)
    methods = ("autoregressive", "eagle3_grid", LOOKUP)
    options = replace(options, methods=methods, repeats=1, prompts_per_task=2)
    benchmark(options, StageRun())
    cycles = pd.read_parquet(options.output / "cycles.parquet")
    ours = cycles[cycles["method"] == LOOKUP]
    assert (ours["depth"] == 3).all() and (ours["size"] == 5).all() and ours["accepted"].any()
    summary = pd.read_csv(options.output / "summary.csv")
    assert summary["lossless"].all()
    # The traces are the head's: nothing is replayed on them.
    assert set(summary.loc[summary["method"] == LOOKUP, "source"]) == {"measured"}


def test_the_report_has_a_sentence_about_it():
    runs, cycles = make_runs({"autoregressive": 1.0, "eagle3_grid": 1.2, LOOKUP: 1.5})
    runs = mark_lossless(runs)
    spread = pd.Series(dict.fromkeys((*runs["task"].unique(), MEAN_TASK), 0.01))
    grid = {
        "best": {"depth": 2, "size": 2},
        "grids": [{"tasks": dict.fromkeys(runs["task"]), "temperature": 0}],
    }
    text = "\n".join(findings(summarise(runs, cycles), runs, spread, grid, 0))
    assert "lookup/grid is another drafter" in text
    assert "lookup/grid against eagle3_grid: 1.250x in the mean" in text


@pytest.fixture
def learned(tmp_path, answers, others):
    """An experiment with a look-up drafter, and policies that were made for its traces."""
    options = make_experiment(tmp_path)
    save_lookup(options.lookup, LookupSettings(VOCAB, 3, 2, BEAM, DEPTH, depth=3, size=5), others)
    files = {name: tmp_path / f"{name}.safetensors" for name in ("train", "validation")}
    for path, chosen in zip(files.values(), (answers[:4], answers[4:]), strict=True):
        Responses.from_sequences(chosen).save(path)
    output = tmp_path / "lookup-traces"
    places = {"lookup": options.lookup, "profile": options.profile, "output": output}
    record_lookup(RecordLookupOptions(**places, texts=files["validation"], **files), StageRun())
    return options, output


def test_its_traces_and_profile_belong_together(learned, answers):
    options, output = learned
    profile = LatencyProfile.load(output / "profile.json")
    for name, chosen in (("train", answers[:4]), ("validation", answers[4:])):
        traces = Traces.load(output / f"{name}.safetensors")
        assert len(traces) == sum(len(answer.answer) - 1 for answer in chosen)
        ReplayWorld(traces, profile, SIZES)  # refuses what does not belong together
    head = LatencyProfile.load(options.profile)
    assert profile.verify(4, 20) == head.verify(4, 20) and profile.draft_hash != head.draft_hash
    with pytest.raises(InputError, match="draft"):
        ReplayWorld(traces, head, SIZES)


def test_a_drafter_does_not_draft_along_what_it_has_read(learned, answers, tmp_path):
    """Where texts and training answers are one file, each half is drafted along by who knows the other."""
    options, _ = learned
    places = {"lookup": options.lookup, "profile": options.profile, "output": tmp_path / "crossed"}
    train = tmp_path / "train.safetensors"
    crossed = RecordLookupOptions(
        **places, texts=train, train=train, validation=tmp_path / "validation.safetensors"
    )
    save_lookup(options.lookup, load_lookup(options.lookup)[0], [a.tokens.tolist() for a in answers[:4]])
    record_lookup(crossed, StageRun())
    record_lookup(replace(crossed, texts=crossed.validation, output=tmp_path / "read"), StageRun())
    found = {}
    for name in ("crossed", "read"):
        traces = Traces.load(tmp_path / name / "train.safetensors")
        ReplayWorld(traces, LatencyProfile.load(tmp_path / name / "profile.json"), SIZES)
        found[name] = (len(traces), (traces.true_node >= 0).mean())
    assert found["crossed"][0] == found["read"][0]
    assert found["crossed"][1] < found["read"][1], "the read ones are known by heart"


def test_halves_keep_the_turns_of_a_conversation_together(answers):
    turns = [replace(answers[0], question_id=number // 2, turn=number % 2) for number in range(6)]
    first, second = halves(turns)
    assert [answer.question_id for answer in first] == [0, 0, 2, 2]
    assert [answer.question_id for answer in second] == [1, 1]


def test_answers_of_a_single_token_are_refused(tmp_path, answers):
    short = [replace(answer, tokens=answer.tokens[: answer.prompt_length + 1]) for answer in answers]
    Responses.from_sequences(short).save(tmp_path / "short.safetensors")
    with pytest.raises(InputError, match=r"short\.safetensors: no answer of two tokens or more"):
        drafted_answers(tmp_path / "short.safetensors")


def test_the_benchmark_decodes_with_policies_of_its_own(learned):
    options, output = learned
    world = ReplayWorld(
        Traces.load(output / "train.safetensors"), LatencyProfile.load(output / "profile.json"), SIZES
    )
    random_policies(options.policies / LOOKUP_POLICIES, world)
    methods = ("autoregressive", LOOKUP, LOOKUP_LEARNED)
    options = replace(options, methods=methods, repeats=1, prompts_per_task=2)
    benchmark(options, StageRun())
    summary = pd.read_csv(options.output / "summary.csv")
    assert summary["lossless"].all() and set(summary["method"]) >= {LOOKUP, LOOKUP_LEARNED}
    cycles = pd.read_parquet(options.output / "cycles.parquet")
    ours = cycles[cycles["method"] == LOOKUP_LEARNED]
    assert set(ours["size"]) <= {0, *SIZES} and ours["accepted"].any()


def test_its_policies_are_planned(tmp_path):
    """They learn from the drafter's own traces, with its own profile."""
    (tmp_path / "mine.yaml").write_text("benchmark: {methods: [autoregressive, lookup/ltd]}\n")
    result = snakemake(tmp_path, "--dry-run", config=[tmp_path / "mine.yaml"])
    assert result.returncode == 0, result.stderr
    plan = result.stdout + result.stderr
    for policy in ("size", "depth"):
        assert f"train_policy --policy {policy} --traces results/smoke/lookup-traces/train" in plan
    assert "--profile results/smoke/lookup-traces/profile.json" in plan
    assert "ltd.record_lookup --lookup results/smoke/lookup --texts results/smoke/responses/draft-t0" in plan


def test_policies_for_a_temperature_learn_from_answers_sampled_at_it(tmp_path):
    """So do the grid and the look-up's policies; heads learn from greedy answers all the same."""
    (tmp_path / "mine.yaml").write_text(
        "traces: {temperature: 0.7}\n"
        "benchmark: {temperatures: [0, 0.7], methods: [autoregressive, eagle3_grid, ltd, lookup/ltd]}\n"
    )
    result = snakemake(tmp_path, "--dry-run", config=[tmp_path / "mine.yaml"])
    assert result.returncode == 0, result.stderr
    plan = result.stdout + result.stderr
    answers, traces = "results/smoke/responses", "results/smoke/traces"
    assert f"train_draft --target results/smoke/target --responses {answers}/draft-t0." in plan
    assert f"--train {answers}/train-t0.7.safetensors --validation {answers}/validation-t0.7." in plan
    assert f"--output {answers}/train-t0.7.safetensors" in plan
    assert f"--traces {traces}/train-t0.7-w4.safetensors" in plan
    assert f"ltd.grid_search --traces {traces}/validation-t0.7-w4.safetensors" in plan
    # What the benchmark decodes greedily is compared with greedy traces, beside those of the ablations.
    assert f"--traces {traces}/test-t0-w4." in plan and f"--traces {traces}/test-t0.7-w4." in plan
    assert f"{traces}/train-t0-" not in plan and f"{answers}/train-t0." not in plan.replace("-t0.7", "")
