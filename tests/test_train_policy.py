"""The stages of a chain of policies: whole folders, each round from the one before, and what does not fit."""

import dataclasses
import json
import re

import pytest

from ltd import choose_policies, combine_policies, tracking, train_policy
from ltd.errors import InputError
from ltd.files import write_json
from ltd.rl import KINDS
from ltd.rl.co_adaptation import rehearse_pair
from ltd.rl.policy_controller import PolicyController
from ltd.rl.policy_settings import PolicySettings
from ltd.rl.workshop_files import open_workshop
from policy_training import SIZES, TINY, workshop
from synthetic import save_inputs, synthetic_profile, synthetic_traces


@pytest.fixture
def files(tmp_path):
    save_inputs(tmp_path, synthetic_traces(seed=1), synthetic_traces(seed=2))
    return tmp_path


def stage_arguments(files, *more):
    flags = {name.replace("_", "-"): value for name, value in TINY.items() if name != "sizes"}
    flags |= {
        "validations": 1,
        "traces": files / "train.safetensors",
        "validation-traces": files / "validation.safetensors",
        "profile": files / "profile.json",
        "experiment": files / "results" / "test",
        "threads": 1,
    }
    return [*words(flags), "--sizes", *map(str, SIZES), *map(str, more)]


def words(flags):
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def test_the_stages_of_a_chain(files, monkeypatch, capsys):
    monkeypatch.setattr(tracking, "mlflow", None)
    chain = files / "chain"
    for kind in KINDS:
        train_policy.main(
            stage_arguments(files, "--policy", kind, "--output", chain / kind, "--state", files / "state")
        )
    assert not (files / "state").exists()
    experiment = {"experiment": files / "results" / "test"}
    validation = {
        "validation-traces": files / "validation.safetensors",
        "profile": files / "profile.json",
    }
    parts = {"size": chain / "size", "depth": chain / "depth", "output": chain / "iteration-0"}
    combine_policies.main(words(parts | validation | experiment))
    (files / "best.json").write_text(json.dumps({"settings": {"entropy_coefficient": 0.02}}))
    round_1 = {"policy": "size", "previous": chain / "iteration-0", "settings": files / "best.json"}
    train_policy.main(stage_arguments(files, *words(round_1 | {"output": chain / "iteration-1"})))
    candidates = ["--candidates", str(chain / "iteration-0"), str(chain / "iteration-1")]
    choose_policies.main([*candidates, *words({"output": chain / "best"} | experiment)])
    settings = json.loads((chain / "iteration-1" / "settings.json").read_text())
    assert settings["entropy_coefficient"] == 0.02 and settings["sizes"] == list(SIZES)
    first, second, best = (
        json.loads((chain / name / "validation.json").read_text())
        for name in ("iteration-0", "iteration-1", "best")
    )
    assert best["speedup"] == max(first["speedup"], second["speedup"])
    assert abs(sum(best["size"]["histogram"].values()) - 1) < 1e-6
    assert best["depth"]["best_constant"]["speedup"] > 0.5
    controller = PolicyController.load(chain / "best")
    assert controller.size.trained_on["target"] == "target"
    with pytest.raises(SystemExit) as exit_status:
        half = {"policy": "size", "previous": chain / "size", "output": chain / "iteration-2"}
        train_policy.main(stage_arguments(files, *words(half)))
    assert exit_status.value.code == 2
    synthetic_traces(seed=3).save(files / "train.safetensors")
    with pytest.raises(SystemExit) as exit_status:
        train_policy.main(stage_arguments(files, *words(round_1 | {"output": chain / "other"}), "--top", "2"))
    assert exit_status.value.code == 2
    complaint = capsys.readouterr().err.splitlines()[-1]
    assert "the size policy was trained with other top, suffix_prior than these settings" in complaint
    initial = json.loads((chain / "size" / "validation.json").read_text())
    training = json.loads((chain / "size" / "size.training.json").read_text())
    assert initial in training["curves"] and initial["steps"] == training["best_steps"]
    synthetic_profile(verify_slope=0.5).save(files / "other.json")
    with pytest.raises(SystemExit):
        combine_policies.main(words(parts | validation | experiment | {"profile": files / "other.json"}))
    assert re.search(r"other\.json: not the profile that \S+/size was trained for", capsys.readouterr().err)
    write_json(chain / "depth" / "settings.json", settings | {"top": 1})
    with pytest.raises(SystemExit):
        combine_policies.main(words(parts | validation | experiment))
    assert "/depth: trained with other top, entropy_coefficient than" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size_network": (8,)}, "the size policy was trained with other size_network than"),
        ({"critic_network": (8,)}, "the size policy was trained with other critic_network than"),
        ({"interval": 2}, "the depth policy was trained with other interval than"),
    ],
)
def test_a_round_goes_on_with_policies_of_the_same_settings(files, change, said):
    shop = workshop(rehearsal=2)
    previous = rehearse_pair(shop)
    train_policy.check_previous(previous, shop, files)
    with pytest.raises(InputError, match=said):
        settings = dataclasses.replace(shop.settings, **change)
        train_policy.check_previous(previous, dataclasses.replace(shop, settings=settings), files)


def test_an_option_that_the_preset_fixes_otherwise_is_refused(files):
    """Not silently replaced: by hand it would look as if it had been trained with."""
    inputs = {name: files for name in ("traces", "validation_traces", "profile", "output")}

    def settings(**given):
        return train_policy.chain_settings(
            train_policy.TrainPolicyOptions(policy="size", preset="paper", **inputs, **given)
        )

    assert settings().reward == settings(reward="throughput").reward == "throughput"
    refusal = r"^reward: acceptance was asked for, but the preset 'paper' fixes throughput"
    with pytest.raises(InputError, match=refusal):
        settings(reward="acceptance")


def test_traces_and_profile_of_different_models_are_refused(files):
    synthetic_profile(beam=5).save(files / "profile.json")
    settings = PolicySettings(sizes=SIZES)
    paths = [files / name for name in ("train.safetensors", "validation.safetensors", "profile.json")]
    with pytest.raises(InputError, match="beam: 5, but the traces have beam 4"):
        open_workshop(settings, *paths, 0)
    with pytest.raises(InputError, match="lies outside the measured 1 to 60"):
        synthetic_profile().save(files / "profile.json")
        open_workshop(PolicySettings(sizes=(1, 80)), *paths, 0)
