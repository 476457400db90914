"""Models are looked at before the first stage: what is wrong with them is said in one line."""

import json
from dataclasses import dataclass

import huggingface_hub
import pytest
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError

from ltd.devices import resolve_device
from ltd.errors import InputError
from ltd.options import DeviceOptions, StageOptions, run_stage
from ltd.preflight import check_models, check_template

TARGET = {"hidden_size": 64, "vocab_size": 500, "num_hidden_layers": 8, "max_position_embeddings": 2048}
HEAD = {"hidden_size": 64, "intermediate_size": 32, "num_attention_heads": 4, "vocab_size": 500}


def config(target, draft, longest=900):
    return {
        "reuse": None,
        "responses": {"max_new_tokens": 128},
        "target": {"path": target},
        "draft": {"path": draft, "draft_vocab_size": 400, "tap_layers": []},
        "tree": {"max_depth": 12},
        "latency": {"sizes": [1, 2, 4, 8, 12], "context_lengths": [128, longest]},
    }


def model(folder, values):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(values))
    return str(folder)


def test_models_that_fit_and_models_trained_here_pass(tmp_path):
    target = model(tmp_path / "target", {"text_config": TARGET})
    own = HEAD | {"hidden_size": 32, "target_hidden_size": 64, "draft_vocab_size": 100}
    check_models(config(target, model(tmp_path / "own", own)))
    check_models(config(target, model(tmp_path / "same", {"transformer_layer_config": HEAD})))
    check_models(config(target, None))
    check_models(config(None, None))
    other = model(tmp_path / "gpt2", {"n_embd": 8, "n_layer": 2})
    check_models(config(other, model(tmp_path / "unknown", HEAD)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden_size": 5120}, r"head reads features of width 5120, the target has 64; use a head trained"),
        ({"vocab_size": 499}, r"head drafts from a vocabulary of 499 tokens, the target has 500; use a head"),
        ({"draft_vocab_size": 501}, "head drafts 501 tokens, more than the target's 500; use a head"),
        ({"eagle_aux_hidden_state_layer_ids": [2, 4, 9]}, "do not fit a target of 8 layers"),
        ({"num_hidden_layers": 2}, "an Eagle3 head has 1"),
    ],
)
def test_head_of_another_target_is_refused(tmp_path, change, said):
    target = model(tmp_path / "target", TARGET)
    with pytest.raises(InputError, match=said) as refusal:
        check_models(config(target, model(tmp_path / "head", HEAD | change)))
    assert "\n" not in str(refusal.value)


def test_contexts_to_profile_must_leave_room(tmp_path):
    """Five sizes and two held-out ones are 7 visits, over 5 row counts twice: 2 * (1 + 2 + 4 + 8 + 13), and
    four ordinary trees before each.
    """
    target = model(tmp_path / "target", TARGET)
    check_models(config(target, None, longest=2048 - 84))
    with pytest.raises(InputError, match=r"1965 leaves no room .* context of 2048 allows 1964"):
        check_models(config(target, None, longest=1965))
    # A target that is trained here has 1024, which is known before it is.
    check_models(config(None, None, longest=1024 - 84))
    with pytest.raises(InputError, match=r"941 leaves no room .* context of 1024 allows 940"):
        check_models(config(None, None, longest=941))


@pytest.mark.parametrize(("path", "room"), [(None, 1024), ("target", 2048)])
def test_answers_must_leave_room_for_a_prompt(tmp_path, path, room):
    settings = config(path and model(tmp_path / path, TARGET), None)
    settings["responses"]["max_new_tokens"] = room
    with pytest.raises(
        InputError, match=rf"^responses\.max_new_tokens: {room} leaves no room .* {room} tokens"
    ):
        check_models(settings)


@pytest.mark.parametrize("change", [{"sliding_window": 1500}, {"rope_scaling": {"type": "dynamic"}}])
def test_what_ends_a_context_early_is_known_here(tmp_path, change):
    """A window, or rotations that change with the length, behind which a tree of 12 needs room."""
    limit = change.get("sliding_window", 2048 - 12 - 1)
    target = model(tmp_path / "target", TARGET | change)
    check_models(config(target, None, longest=limit - 84))
    with pytest.raises(InputError, match=rf"context of {limit} allows {limit - 84}"):
        check_models(config(target, None, longest=limit - 83))
    unused = TARGET | {"sliding_window": 1500, "use_sliding_window": False}
    check_models(config(model(tmp_path / "unused", unused), None, longest=2048 - 84))


def test_head_to_train_fits_the_target(tmp_path):
    target = model(tmp_path / "target", {"text_config": TARGET})
    wanted = config(target, None)
    check_models(wanted)
    wanted["draft"]["tap_layers"] = [1, 4, 8]
    with pytest.raises(InputError, match=r"draft\.tap_layers: .* target of 8 layers"):
        check_models(wanted)
    wanted["draft"]["draft_vocab_size"] = 501
    with pytest.raises(InputError, match=r"draft\.draft_vocab_size: 501 is more than the target.s 500"):
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
        return model(tmp_path / "cached", TARGET) + "/config.json"

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


@dataclass(frozen=True, kw_only=True)
class OnDevice(StageOptions, DeviceOptions):
    """Options of a stage that computes on a device."""


def test_cuda_asked_for_and_absent(tmp_path, monkeypatch, capsys):
    """Where a stage computes on the device; one that replays in memory runs on a node without a GPU."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    asked = ["--device", "cuda", "--experiment", str(tmp_path / "results" / "toy")]
    run_stage("a_stage", OnDevice, lambda *_: None, None, asked)
    with pytest.raises(SystemExit) as end:
        run_stage("a_stage", OnDevice, lambda options, _: resolve_device(options.device), None, asked)
    assert end.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "a_stage: device: cuda asked for, but torch sees no GPU; use cpu, or install torch for CUDA"
    )


NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{ messages[0]['content'] ", "unexpected end of template"),
        (NO_SYSTEM, "no system"),
        ("{{ messages[0]['text']['more'] }}", "has no attribute"),
        ("{{ messages[0]['content'] + 1 }}", "can only concatenate"),
        ("{{ raise_exception('') }}", "TemplateError"),
    ],
)
def test_a_template_that_renders_no_question_is_refused(tmp_path, text, said):
    file = tmp_path / "chat.jinja"
    file.write_text(text)
    with pytest.raises(InputError, match=rf"^responses\.chat_template: .*{said}.*; correct the template$"):
        check_template(str(file), "Be brief.", "template")


@pytest.mark.parametrize(
    ("text", "system"),
    [
        (
            "{{ bos_token + cls_token }}{% for each in messages %}{{ each.content }}{% endfor %}",
            "Be brief.",
        ),
        ("{{ 'Today: ' + date_string }}{{ messages[-1].content }}", None),
        (NO_SYSTEM, ""),
        ("{{ 'think' if enable_thinking else 'do not' }}", None),
    ],
)
def test_a_template_that_renders_one_passes(tmp_path, text, system):
    file = tmp_path / "chat.jinja"
    file.write_text(text)
    check_template(str(file), system, "on")
