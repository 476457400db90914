"""Files of a draft head: saved and loaded again, in every layout, and refused by name where damaged."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from ltd.draft_head.eagle3 import load_head, save_head
from ltd.draft_head.head_config import shape_of_head
from ltd.errors import InputError
from small_head import DRAFT_VOCAB, VOCAB, WIDTH, made_head, made_target, run


@pytest.fixture(scope="module")
def target():
    return made_target()


@pytest.fixture
def head(target):
    return made_head(target)


@pytest.fixture
def folder(head, tmp_path):
    save_head(head, tmp_path / "draft")
    return tmp_path / "draft"


def edit_config(folder, remove=(), **changes):
    values = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in values.items() if k not in remove}))


def edit_tensors(folder, change):
    tensors = change(load_file(folder / "model.safetensors"))
    save_file(tensors, folder / "model.safetensors")


def test_save_and_load_give_identical_outputs_and_published_names(head, folder, target):
    loaded = load_head(folder, target)
    assert loaded.config == head.config
    assert torch.equal(run(loaded), run(head))
    assert torch.equal(loaded.logits(run(loaded)), head.logits(run(head)))
    assert torch.equal(loaded.d2t, head.d2t) and torch.equal(loaded.t2d, head.t2d)
    tensors = load_file(folder / "model.safetensors")
    assert "embed_tokens.weight" not in tensors
    assert {"fc.weight", "midlayer.hidden_norm.weight", "d2t", "t2d", "lm_head.weight"} <= tensors.keys()
    assert tensors["d2t"].dtype == torch.int64 and tensors["t2d"].dtype == torch.bool
    assert json.loads((folder / "config.json").read_text())["eagle_config"] == {
        "eagle_aux_hidden_state_layer_ids": [1, 3, 4]
    }


def test_a_folder_of_other_files_is_not_replaced(head, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds notes\.txt, which is no head's; name one of its own"):
        save_head(head, tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    for _ in range(2):
        save_head(head, tmp_path / "head")
    assert sorted(file.name for file in (tmp_path / "head").iterdir()) == ["config.json", "model.safetensors"]


LAYOUTS = {
    "layers.0": lambda t: {name.replace("midlayer.", "layers.0."): value for name, value in t.items()},
    "model prefix": lambda t: {f"model.{name}": value for name, value in t.items()},
    "draft_model prefix": lambda t: {f"draft_model.{name}": value for name, value in t.items()},
    "eagle_module prefix": lambda t: {f"eagle_module.{name}": value for name, value in t.items()},
    "no t2d": lambda t: {name: value for name, value in t.items() if name != "t2d"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, head, folder, target):
    edit_tensors(folder, LAYOUTS[layout])
    loaded = load_head(folder, target)
    assert torch.equal(run(loaded), run(head)) and torch.equal(loaded.t2d, head.t2d)


def test_bin_file(head, folder, target):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    assert torch.equal(run(load_head(folder, target)), run(head))


def test_bin_file_with_more_than_tensors_is_refused(folder, target):
    (folder / "model.safetensors").unlink()
    torch.save({"fc.weight": pytest.raises}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="more than plain tensors"):
        load_head(folder, target)


def test_embedding_in_the_file_is_used(folder, target):
    own = torch.randn(VOCAB, WIDTH)
    edit_tensors(folder, lambda t: t | {"embed_tokens.weight": own})
    assert torch.equal(load_head(folder, target).embed_tokens.weight, own)


def test_embedding_is_shared_with_the_target(folder, target):
    loaded = load_head(folder, target)
    assert loaded.embed_tokens.weight.data_ptr() == target.get_input_embeddings().weight.data_ptr()
    assert not loaded.embed_tokens.weight.requires_grad


def test_full_vocabulary_needs_no_tables_and_no_output_head(folder, target):
    def full(tensors):
        return {
            name: value for name, value in tensors.items() if name not in ("d2t", "t2d", "lm_head.weight")
        }

    edit_tensors(folder, full)
    edit_config(folder, draft_vocab_size=VOCAB)
    loaded = load_head(folder, target)
    assert torch.equal(loaded.to_target(torch.arange(VOCAB)), torch.arange(VOCAB))
    assert torch.equal(loaded.lm_head.weight, target.lm_head.weight)


def test_head_dim_comes_from_the_weights(folder, target):
    edit_config(folder, remove=["head_dim"])
    assert load_head(folder, target).config.head_dim == 10


@pytest.mark.parametrize(
    "changes, theta",
    [
        ({}, 10000.0),
        ({"rope_theta": 500000.0}, 500000.0),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, 1e6),
    ],
)
def test_rope_theta(changes, theta, folder, target):
    edit_config(folder, remove=["rope_theta"])
    edit_config(folder, **changes)
    assert load_head(folder, target).config.rope_theta == theta


@pytest.mark.parametrize(
    "changes, taps",
    [
        ({"eagle_config": {"eagle_aux_hidden_state_layer_ids": [0, 2, 6]}}, (1, 3, 7)),
        ({"eagle_config": None, "eagle_aux_hidden_state_layer_ids": [0, 2, 6]}, (0, 2, 6)),
        ({"eagle_config": None}, (2, 4, 5)),
    ],
)
def test_tap_layer_conventions(changes, taps, folder, target):
    edit_config(folder, **changes)
    assert load_head(folder, target).config.tap_layers == taps


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"vocab_size": 50, "remove": ["t2d"]}, "vocabulary of 50"),
        ({"hidden_size": 32}, "should be"),
        ({"attention_bias": True}, "attention_bias is set"),
        ({"norm_before_fc": True, "fc_norm": True}, "both set"),
        ({"norm_before_fc": True}, "missing tensors input_norm.weight"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2}}, "rope scaling 'dynamic'"),
        ({"num_hidden_layers": 2}, "num_hidden_layers is 2"),
        ({"eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 1, 4]}}, "three ascending"),
        ({"eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 3, 7]}}, "three ascending"),
        ({"intermediate_size": None}, "intermediate_size missing"),
        ({"transformer_layer_config": [1]}, "config.json: transformer_layer_config is not an object"),
        (
            {"num_attention_heads": "3"},
            "config.json: num_attention_heads is '3', not an integer",
        ),
        ({"num_key_value_heads": True}, "num_key_value_heads is True, not an integer"),
        ({"max_position_embeddings": 0}, "max_position_embeddings is 0, not an integer of at least 1"),
        ({"rms_norm_eps": "x"}, "rms_norm_eps is 'x', not a number"),
        ({"rope_theta": "x"}, "rope_theta is 'x', not a number"),
        ({"rope_parameters": {"rope_theta": "x"}}, "rope_theta is 'x', not a number"),
        ({"rope_scaling": [1]}, r"rope_scaling is \[1\], not an object"),
        ({"rope_scaling": {"rope_type": ["yarn"]}}, r"rope scaling \['yarn'\] is not supported"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope scaling 'yarn': factor missing or not a number"),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
            "rope scaling 'llama3': low_freq_factor, high_freq_factor missing",
        ),
        (
            {"rope_scaling": {"rope_type": "linear", "factor": "x"}},
            "'linear': factor missing or not",
        ),
        ({"layer_types": 1}, "layer_types is 1, not a list"),
        ({"eagle_config": [1]}, r"eagle_config is \[1\], not an object"),
        ({"eagle_config": {"eagle_aux_hidden_state_layer_ids": 3}}, "layer_ids is 3, not a list of integers"),
        (
            {"eagle_config": None, "eagle_aux_hidden_state_layer_ids": ["1", "2", "3"]},
            r"layer_ids is \['1', '2', '3'\], not a list of integers",
        ),
    ],
)
def test_wrong_configs_are_named(changes, message, folder, target):
    removed = changes.pop("remove", [])
    edit_tensors(folder, lambda t: {name: value for name, value in t.items() if name not in removed})
    edit_config(folder, **changes)
    with pytest.raises(InputError, match=message):
        load_head(folder, target)


def swapped_ids(d2t):
    """Offsets of the same ids, the first two in the wrong order."""
    place = torch.arange(len(d2t))
    ids = d2t + place
    return torch.cat([ids[[1, 0]], ids[2:]]) - place


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t | {"layers.1.norm.weight": torch.ones(3)}, "unknown tensors layers.1.norm.weight"),
        (lambda t: {n: v for n, v in t.items() if n != "fc.weight"}, "missing tensors fc.weight"),
        (lambda t: {n: v for n, v in t.items() if n != "lm_head.weight"}, "lm_head.weight is missing"),
        (lambda t: {n: v for n, v in t.items() if n not in ("d2t", "t2d")}, "d2t is missing"),
        (lambda t: t | {"d2t": torch.full((DRAFT_VOCAB,), VOCAB)}, "d2t does not map"),
        (lambda t: t | {"d2t": swapped_ids(t["d2t"])}, "d2t does not map to ascending token ids"),
    ],
)
def test_wrong_tensors_are_named(change, message, folder, target):
    edit_tensors(folder, change)
    with pytest.raises(InputError, match=message):
        load_head(folder, target)


@pytest.mark.parametrize("changes", [{"num_attention_heads": "3"}, {"eagle_config": [1]}])
def test_wrong_configs_are_named_where_there_are_no_weights(changes, folder):
    edit_config(folder, **changes)
    with pytest.raises(InputError, match=f"{next(iter(changes))} is"):
        shape_of_head(folder, 8)


def test_head_of_another_target_is_refused(folder):
    other = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=32, intermediate_size=32, num_hidden_layers=8, vocab_size=VOCAB, num_attention_heads=4
        )
    )
    with pytest.raises(InputError, match="features of width 24, the target has 32"):
        load_head(folder, other)


@pytest.mark.parametrize("kept", [0, 100, 2000])
def test_truncated_weights(kept, folder, target):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"model\.safetensors: damaged or truncated"):
        load_head(folder, target)


def test_missing_files(tmp_path, folder, target):
    with pytest.raises(InputError, match="no such file"):
        load_head(tmp_path / "nowhere", target)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        load_head(folder, target)


def test_saved_weights_are_rounded_to_the_given_type(head, tmp_path, target):
    save_head(head, tmp_path / "half", torch.float16)
    tensors = load_file(tmp_path / "half/model.safetensors")
    assert tensors["fc.weight"].dtype == torch.float16 and tensors["d2t"].dtype == torch.int64
    loaded = load_head(tmp_path / "half", target)
    assert loaded.fc.weight.dtype == torch.float32 and torch.equal(
        loaded.fc.weight, head.fc.weight.half().float()
    )
