"""Models are looked at before the first stage: what is wrong with them is said in one line."""

import json

import huggingface_hub
import pytest
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError

from ltd.errors import InputError
from ltd.options import StageOptions, run_stage
from ltd.preflight import check_models


def config(target, draft):
    own = {"path": draft, "draft_vocab_size": 1024, "tap_layers": []}
    return {"target": {"path": target}, "draft": own}


def model(folder, **values):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(values))
    return str(folder)


def test_models_that_fit_and_models_trained_here_pass(tmp_path):
    target = model(tmp_path / "target", text_config={"hidden_size": 64})
    check_models(config(target, model(tmp_path / "own", hidden_size=32, target_hidden_size=64)))
    check_models(config(target, model(tmp_path / "same", transformer_layer_config={"hidden_size": 64})))
    check_models(config(target, None))
    check_models(config(None, None))


def test_head_of_another_width_is_refused(tmp_path):
    target = model(tmp_path / "target", hidden_size=4096)
    head = model(tmp_path / "head", hidden_size=5120)
    with pytest.raises(InputError, match="reads features of width 5120, the target has 4096"):
        check_models(config(target, head))


def test_head_to_train_fits_the_target(tmp_path):
    target = model(tmp_path / "target", text_config={"vocab_size": 1024, "num_hidden_layers": 8})
    wanted = config(target, None)
    check_models(wanted)
    wanted["draft"]["tap_layers"] = [1, 4, 8]
    with pytest.raises(InputError, match=r"draft\.tap_layers: .* target of 8 layers"):
        check_models(wanted)
    wanted["draft"]["draft_vocab_size"] = 1025
    with pytest.raises(InputError, match=r"draft\.draft_vocab_size: 1025 is more than the target.s 1024"):
        check_models(wanted)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (GatedRepoError, "accept its licence at https://huggingface.co/owner/name"),
        (RepositoryNotFoundError, "check the spelling"),
        (EntryNotFoundError, "no config"),
    ],
)
def test_hub_is_asked_for_one_small_file(tmp_path, monkeypatch, error, said):
    asked = []

    def download(name, file, revision):
        asked.append((name, file, revision))
        if name == "owner/name":
            raise error.__new__(error, "no config")
        return model(tmp_path / "cached", hidden_size=64) + "/config.json"

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(InputError, match=r"draft\.path: owner/name@abc: ") as refusal:
        check_models(config("meta/llama", "owner/name@abc"))
    assert said in str(refusal.value) and "\n" not in str(refusal.value)
    assert asked == [("meta/llama", "config.json", None), ("owner/name", "config.json", "abc")]


def test_no_network_and_nothing_cached(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"target\.path: no/such: .*`hf download no/such` where there is"):
        check_models(config("no/such", None))


def test_cuda_asked_for_and_absent(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit) as end:
        run_stage("a_stage", StageOptions, lambda *_: None, None, ["--device", "cuda"])
    assert end.value.code == 2
    assert capsys.readouterr().err == (
        "a_stage: device: cuda asked for, but torch sees no GPU; use cpu, or install torch for CUDA\n"
    )
