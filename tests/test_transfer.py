"""Moving policies to another machine: the stage on made-up traces, and what the report says of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ltd.errors import InputError
from ltd.files import file_hash, read_json
from ltd.replay.latency import LatencyProfile
from ltd.replay.latency_family import Change, changed
from ltd.reporting.transfer import FACTS, RATIOS, RUNS, Move, draw, findings, read_moves, sections
from ltd.rl.co_adaptation import rehearse_pair
from ltd.rl.policies import load_policy
from ltd.rl.policy_folders import save_pair
from ltd.rl.policy_settings import COMPACT, PolicySettings
from ltd.rl.workshop_files import open_workshop
from ltd.tracking import StageRun
from ltd.transfer import TransferOptions, transfer
from pipeline import planned_rules, snakemake
from synthetic import synthetic_profile, synthetic_traces

SETTINGS = PolicySettings(
    sizes=(1, 2, 4, 8),
    rehearsal=40,
    size_steps=256,
    depth_steps=256,
    lanes=64,
    rollout=256,
    minibatch=256,
    validations=1,
    rounds=0,
)
OBSERVATION = (*COMPACT, "machine")
CONDITIONED = replace(
    SETTINGS, reward="marginal", machines=4, size_observation=OBSERVATION, depth_observation=OBSERVATION
)


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """An experiment's folder with a move to a machine with slower growth, and one home."""
    folder = tmp_path_factory.mktemp("experiment")
    for seed, split in enumerate(("train", "validation", "test")):
        synthetic_traces(seed=seed, sequences=12).save(folder / f"{split}.safetensors")
    synthetic_profile().save(folder / "measured.json")
    changed(synthetic_profile(), Change(slower_growth=50)).save(folder / "flat.json")
    paths = [folder / name for name in ("train.safetensors", "validation.safetensors", "measured.json")]
    for name, settings in (("default", SETTINGS), ("conditioned", CONDITIONED)):
        save_pair(folder / name, rehearse_pair(open_workshop(settings, *paths, seed=0)), {}, settings)
    for machine in ("flat", "measured"):
        options = TransferOptions(
            experiment=folder,
            traces=folder / "train.safetensors",
            validation_traces=folder / "validation.safetensors",
            test_traces=folder / "test.safetensors",
            profile=folder / f"{machine}.json",
            policies=folder / "default",
            conditioned=folder / "conditioned",
            output=folder / "transfer" / machine,
            max_size=16,
        )
        transfer(options, StageRun())
    return folder


def test_every_method_emits_all_tokens_and_none_beats_the_oracle(moved):
    for machine in ("flat", "measured"):
        runs = pd.read_csv(moved / "transfer" / machine / RUNS)
        totals = runs.groupby("method")[["tokens", "seconds"]].sum()
        assert set(totals.index) == {
            "autoregressive", "eagle3_grid", "moved", "conditioned", "retrained", "oracle",
        }  # fmt: skip
        assert totals["tokens"].nunique() == 1
        assert totals["seconds"].idxmin() == "oracle"
        # The interval of a ratio of sums holds it.
        ratios = pd.read_csv(moved / "transfer" / machine / RATIOS)
        assert (ratios["low"] <= ratios["ratio"]).all() and (ratios["ratio"] <= ratios["high"]).all()
        overall = ratios.set_index(["method", "baseline", "task"])["ratio"]
        chat = runs[runs["task"] == "chat"].groupby("method")["seconds"].sum()
        expected = chat["autoregressive"] / chat["conditioned"]
        assert overall["conditioned", "autoregressive", "chat"] == pytest.approx(expected)


def test_it_compares_on_the_tasks_that_are_named(moved, tmp_path):
    """The static setting stays that of the validation prompts."""
    files = {name: moved / f"{name}.safetensors" for name in ("train", "validation", "test")}
    options = TransferOptions(
        experiment=tmp_path,
        traces=files["train"],
        validation_traces=files["validation"],
        test_traces=files["test"],
        profile=moved / "measured.json",
        policies=moved / "default",
        conditioned=moved / "conditioned",
        test_tasks=("code",),
        output=tmp_path / "measured",
        max_size=16,
    )
    transfer(options, StageRun())
    assert set(pd.read_csv(options.output / RUNS)["task"]) == {"code"}
    both = moved / "transfer" / "measured"
    assert read_json(options.output / FACTS)["grid"] == read_json(both / FACTS)["grid"]


def test_retraining_is_timed_and_its_policies_are_those_of_the_machine(moved):
    facts = read_json(moved / "transfer" / "flat" / FACTS)
    assert facts["retraining"]["seconds"] > 0 and facts["retraining"]["cpu_seconds"] > 0
    trained_on = load_policy(moved / "transfer" / "flat", "size").trained_on
    assert trained_on["profile"] == file_hash(moved / "flat.json")


def test_at_home_nothing_is_retrained(moved):
    assert "retraining" not in read_json(moved / "transfer" / "measured" / FACTS)
    runs = pd.read_csv(moved / "transfer" / "measured" / RUNS).groupby("method")["seconds"].sum()
    assert runs["moved"] == runs["retrained"]


def test_the_report_shows_every_machine(moved):
    moves = read_moves(moved, ("measured", "flat"))
    text = "\n".join(sections(moves))
    assert text.startswith("## Transfer between machines")
    assert "| measured |" in text and "| flat |" in text and "at home" in text
    assert len(draw(moves)["transfer"].axes[0].patches) == 6
    assert sections([]) == [] and draw([]) == {}
    with pytest.raises(InputError, match=r"absent.*no such file"):
        read_moves(moved, ("absent",))


def test_findings_say_where_there_is_no_difference():
    def move(low, high):
        keys = [("conditioned", "retrained"), ("moved", "retrained")]
        index = pd.MultiIndex.from_tuples(keys, names=["method", "baseline"])
        rows = [(0.99, low, high), (0.8, 0.75, 0.85)]
        facts = {"retraining": {"seconds": 61.0, "cpu_seconds": 60.0}}
        return Move("flat", pd.DataFrame(rows, index, ["ratio", "low", "high"]), facts)

    (sentence,) = findings(move(0.97, 1.01))
    assert "attain 0.990 (0.970 to 1.010) of the throughput of those trained for it, no" in sentence
    assert "the moved ones 0.800 (0.750 to 0.850); retraining took 61 s (60 s of processor time)." in sentence
    assert "no significant" not in findings(move(0.98, 0.995))[0]


def test_a_machine_of_other_trees_stops_the_plan(tmp_path):
    """Also where the stage alone is asked for; the staircase has a beam of 2."""
    planned = snakemake(tmp_path, "--dry-run", "transfer")
    assert planned.returncode != 0
    assert "config: transfer.profiles: workflow/profiles/gpu-staircase.json has beam 2" in planned.stderr
    (tmp_path / "none.yaml").write_text("transfer: {profiles: []}\n")
    rules = planned_rules(tmp_path, "transfer", config=["none.yaml"])
    assert {"train_initial_policy", "transfer_to_machine"} <= rules


def test_the_staircase_says_that_it_is_made_up():
    path = Path(__file__).parents[1] / "workflow/profiles/gpu-staircase.json"
    profile = LatencyProfile.load(path)
    assert "made up, not measured" in profile.device and profile.target_hash is None
    times = profile.verify(np.arange(1, profile.max_size + 1), 96)
    # Flat within a bucket, up from one to the next.
    steps = np.flatnonzero(np.diff(times) > 1e-12) + 1
    assert steps.tolist() == [8, 16, 32]
