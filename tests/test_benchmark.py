"""The benchmark on a tiny engine: real decoding of every method, lossless, resumable, all columns."""

import dataclasses
import gc
import shutil

import pandas as pd
import pytest
import torch

from ltd import benchmark as stage
from ltd.benchmark import (
    Engine,
    benchmark,
    check,
    decode_all,
    make_controllers,
    make_engine,
    open_state,
    tables,
)
from ltd.errors import InputError
from ltd.files import read_json
from ltd.measurement.clock_noise import clock_noise
from ltd.measurement.profile_rounds import rounds_between
from ltd.measurement.protocol import check_answers, schedule, select_prompts
from ltd.measurement.reference_check import compare_with_transformers
from ltd.measurement.replay_rows import replay_rows
from ltd.measurement.summary import SUMMARY_COLUMNS
from ltd.replay.latency import LatencyProfile
from ltd.replay.static_grid import read_best
from ltd.replay.traces import Traces
from ltd.texts.responses import Responses
from ltd.tracking import StageRun
from saved_experiment import METHODS, make_experiment

RECORD = stage.record


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    return make_experiment(tmp_path_factory.mktemp("experiment"))


@pytest.fixture(scope="module")
def results(options):
    benchmark(options, StageRun())
    names = ("runs", "cycles", "oracle")
    frames = {name: pd.read_parquet(options.output / f"{name}.parquet") for name in names}
    return frames | {"summary": pd.read_csv(options.output / "summary.csv")}


def test_every_method_decodes_every_prompt_and_repeat_without_loss(results):
    runs = results["runs"]
    assert tuple(dict.fromkeys(runs["method"])) == METHODS
    assert (runs.groupby("method").size() == 6 * 2).all()
    assert runs["lossless"].all()


def test_cycles_hold_what_the_summary_needs_and_add_up_to_the_runs(results):
    cycles, runs = results["cycles"], results["runs"]
    key = ["method", "task", "prompt", "turn", "repeat", "temperature"]
    columns = {"context_length", "depth", "size", "verified", "accepted", "tokens"}
    assert {*key, *columns, "draft_ms", "verify_ms", "policy_ms", "rest_ms"} <= set(cycles.columns)
    sums = cycles.groupby(key)["tokens"].sum()
    for row in runs.itertuples():
        assert row.tokens == len(row.token_ids) - 1
        assert sums.get(tuple(getattr(row, name) for name in key), 0) == row.tokens
    drafted = cycles[cycles["method"] == "eagle3"]
    assert (drafted["depth"] == 4).all() and (drafted["verified"] == 8).all()
    assert (cycles.loc[cycles["method"] == "autoregressive", "depth"] == 0).all()
    learned = cycles[cycles["method"] == "ltd"]
    assert learned["depth"].nunique() > 1 and (learned["policy_ms"] > 0).all()


def test_summary_has_measured_and_replayed_rows(options, results):
    table = results["summary"]
    assert list(table.columns) == SUMMARY_COLUMNS
    assert set(table.loc[table["source"] == "measured", "method"]) == set(METHODS)
    assert set(table.loc[table["source"] == "replay", "method"]) == {*METHODS, "oracle"}
    replay = table[(table["source"] == "replay") & (table["task"] == "chat")].set_index("method")
    # A bound on whoever has a draft head: a plain step between drafts may take longer than one without.
    drafting = replay.drop(index="autoregressive")
    assert (drafting["speedup"] <= replay.loc["oracle", "speedup"] + 1e-9).all()
    # Replay is exact about what is accepted, so the cycles agree with the live ones.
    live = table[(table["source"] == "measured") & (table["task"] == "chat")].set_index("method")
    for method in METHODS:
        assert replay.loc[method, "acceptance_length"] == pytest.approx(live.loc[method, "acceptance_length"])
    facts = read_json(options.output / "benchmark.json")
    assert facts["clock_gap"] < 0.02 and facts["transformers"]["disagreements"] == 0
    assert set(facts["drift"]) == {"autoregressive_step", "grid_cycle"}
    assert facts["hindsight"]["gain"] >= 0
    answers = facts["recorded_answers"]
    assert answers["same"] == answers["prompts"] > 0
    assert answers["cycles"] == dict.fromkeys(METHODS, answers["prompts"])
    noise = clock_noise(results["runs"], results["cycles"])
    assert set(METHODS) <= set(noise["pair"])  # besides those that are the same tree


def test_replay_is_with_times_taken_between_the_prompts(options, results):
    earlier, later = (
        LatencyProfile.load(path) for path in (options.profile, options.output / "profile.json")
    )
    assert later.context_lengths == earlier.context_lengths and later.target_hash == earlier.target_hash
    for name, table in earlier.tables.items():
        assert later.tables[name].axis == table.axis and later.tables[name].ms != table.ms
        assert later.tables[name].samples >= options.profile_rounds
    runs = replay_rows(
        make_controllers(options, read_best(options.grid, later.beam)),
        Traces.load(options.traces),
        later,
        select_prompts(Responses.load(options.responses), options.test_tasks, 3, options.seed),
    ).runs
    table = results["summary"].set_index(["source", "method", "task"])
    for method, rows in runs.groupby("method"):
        seconds = rows.loc[rows["task"] == "chat", "seconds"].sum()
        assert table.loc[("replay", method, "chat"), "seconds"] == pytest.approx(seconds)


def test_finished_prompts_are_not_decoded_again(options, results, monkeypatch):
    """Without two of the parts, only their runs (and the warm-up) are decoded."""
    assert not options.state.exists()  # all was decoded, and may be measured again
    state = open_state(options)
    profile = LatencyProfile.load(options.profile)
    engine = make_engine(options, profile, 0.0, longest=20)
    prompts = select_prompts(Responses.load(options.responses), options.test_tasks, 3, options.seed)
    rounds = rounds_between(len(prompts), 2, engine.target, engine.drafter, profile, 0.0, 0, state)
    assert len(list(decode_all(engine, prompts, rounds, options, state))) == 6
    assert len(list(state.glob("0*.json"))) == 6
    for number in (1, 4):
        (state / f"0000{number}.json").unlink()
    decoded = []
    monkeypatch.setattr(stage, "record", lambda *a: decoded.append(a[1:4]) or RECORD(*a))
    records = [entry for part in decode_all(engine, prompts, rounds, options, state) for entry in part]
    assert {(prompt.question_id) for prompt, _, _ in decoded} == {prompts[i].question_id for i in (1, 4)}
    assert len(decoded) == 2 * len(METHODS) * 2
    again, _ = tables(records, options.methods)
    assert again["token_ids"].map(list).tolist() == results["runs"]["token_ids"].map(list).tolist()


def test_state_of_other_settings_is_discarded(options, results):
    (open_state(options) / "00000.json").write_text("[]")
    assert list(open_state(options).glob("0*.json"))
    other = dataclasses.replace(options, max_new_tokens=8)
    assert not list(open_state(other).glob("0*.json"))
    open_state(options)


def test_a_run_with_another_token_is_not_lossless(options, results):
    def record_of(run):
        key = {
            name: getattr(run, name) for name in ("method", "task", "prompt", "turn", "repeat", "temperature")
        }
        of_run = (cycles[list(key)] == pd.Series(key)).all(axis=1)
        values = {
            name: getattr(run, name) for name in ("prompt_tokens", "tokens", "prefill_seconds", "seconds")
        }
        columns = {name: cycles.loc[of_run, name].tolist() for name in stage.CYCLE_COLUMNS}
        return {"key": key, "run": values | {"token_ids": list(run.token_ids)}, "cycles": columns}

    cycles = results["cycles"]
    records = [record_of(run) for run in results["runs"].itertuples()]
    altered = next(entry for entry in records if entry["key"]["method"] == "ltd" and entry["run"]["tokens"])
    altered["run"]["token_ids"][-1] += 1
    runs, _ = tables(records, options.methods)
    wrong = runs[~runs["lossless"]]
    assert len(wrong) == 1 and {name: wrong.iloc[0][name] for name in altered["key"]} == altered["key"]


def test_a_wrong_token_is_found(options, results):
    """Plain transformers disagrees where the engine would emit another token."""
    runs = results["runs"].copy()
    index = runs[(runs["method"] == "autoregressive") & (runs["repeat"] == 0)].index[0]
    ids = list(runs.at[index, "token_ids"])
    ids[-1] = (ids[-1] + 1) % 14
    runs.at[index, "token_ids"] = ids
    prompts = select_prompts(Responses.load(options.responses), options.test_tasks, 3, options.seed)
    found = compare_with_transformers(options.target, runs, prompts, torch.device("cpu"))
    assert found["disagreements"] == 1 and found["largest_margin"] > 0


def test_schedule_shuffles_methods_and_repeats_anew_for_every_prompt():
    first, second = schedule(METHODS, 2, 0, 0), schedule(METHODS, 2, 0, 1)
    assert sorted(first) == sorted(second) == sorted((m, r) for m in METHODS for r in range(2))
    assert first != second and first == schedule(METHODS, 2, 0, 0) and first != schedule(METHODS, 2, 1, 0)


def test_two_repeats_at_a_time_are_shuffled_together():
    order = schedule(METHODS, 5, 0, 0)
    repeats = [repeat for _, repeat in order]
    count = len(METHODS)
    assert set(repeats[: 2 * count]) == {0, 1} and set(repeats[2 * count : 4 * count]) == {2, 3}
    assert repeats[: 2 * count] != sorted(repeats[: 2 * count])
    assert repeats[4 * count :] == [4] * count and len(set(order)) == 5 * count
    assert order[: 2 * count] == schedule(METHODS, 2, 0, 0)


def test_the_garbage_collector_does_not_run_while_a_prompt_is_decoded(monkeypatch, options, tmp_path):
    """A full collection takes as long as a few answers, and would be charged to one of them."""
    running = []

    def noted(self, method, prompt):
        running.append(gc.isenabled())
        return run(self, method, prompt)

    run = Engine.run
    monkeypatch.setattr(Engine, "run", noted)
    benchmark(dataclasses.replace(options, output=tmp_path / "output", state=tmp_path / "state"), StageRun())
    warm_ups = len(options.methods)
    assert running[:warm_ups] == [True] * warm_ups and len(running) > warm_ups
    assert not any(running[warm_ups:]) and gc.isenabled()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"methods": ("ltd",)}, "autoregressive"),
        ({"methods": ("autoregressive", "eagel3")}, "'eagel3' is unknown"),
        ({"repeats": 0}, "benchmark.repeats"),
        ({"profile_rounds": 0}, "benchmark.profile_rounds"),
        ({"default_depth": 5}, "benchmark.default_depth: 5 exceeds the 4"),
        ({"default_size": 9}, "benchmark.default_size: 9 exceeds the 8"),
    ],
)
def test_impossible_settings_are_refused(options, change, complaint):
    with pytest.raises(InputError, match=complaint):
        check(dataclasses.replace(options, **change), LatencyProfile.load(options.profile))


def test_models_of_other_traces_and_profiles_are_refused(options, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "decode_all", lambda *_: pytest.fail("decoded"))
    options = dataclasses.replace(options, state=tmp_path / "state", output=tmp_path / "output")
    for model in ("target", "draft"):
        other = shutil.copytree(getattr(options, model), tmp_path / model)
        (other / "note.txt").write_text("another")
        with pytest.raises(InputError, match=rf"^{model}: {other} is \w+, but .* was recorded with \w+; dec"):
            benchmark(dataclasses.replace(options, **{model: other}), StageRun())
    profile = dataclasses.replace(LatencyProfile.load(options.profile), target_hash="other")
    profile.save(tmp_path / "profile.json")
    with pytest.raises(InputError, match="target_hash: other, but the traces were recorded with"):
        benchmark(dataclasses.replace(options, profile=tmp_path / "profile.json"), StageRun())
    assert not options.state.exists()


def test_answers_that_decoding_does_not_reach_are_refused(options):
    prompts = list(Responses.load(options.responses).sequences())
    longest = max(len(prompt.answer) for prompt in prompts)
    check_answers(prompts, longest, options.responses)
    with pytest.raises(InputError, match=f"responses.max_new_tokens: {longest - 1}, but .* of {longest} tok"):
        check_answers(prompts, longest - 1, options.responses)


def test_prompts_that_no_answer_fits_are_left_out_aloud(options, capsys):
    responses = Responses.load(options.responses)
    assert len({p.question_id for p in select_prompts(responses, ("chat",), 2, 0)}) == 2
    assert capsys.readouterr().out == ""
    assert len({p.question_id for p in select_prompts(responses, ("chat",), 4, 0)}) == 3
    assert "chat: 3 of 4 test prompts" in capsys.readouterr().out
    with pytest.raises(InputError, match="'riddles' has answers to 0 test prompts"):
        select_prompts(responses, ("riddles",), 4, 0)
