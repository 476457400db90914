"""Published layouts of Eagle3 heads, later norms, rotary scalings, and the export to both layouts."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from engine_models import random_target
from head_layouts import LAYOUTS, rewrite
from ltd.draft_head.eagle3 import Eagle3Config, Eagle3Head, load_head, rotary_of, save_head
from ltd.engine.compiled.drafting import CompiledDrafter
from ltd.engine.drafting import Drafter
from ltd.errors import InputError
from ltd.export_draft import ExportDraftOptions, export_draft
from ltd.replay.batched_drafting import draft_trees, run_true_rows

VOCAB, DRAFT_VOCAB, WIDTH, LAYERS = 23, 9, 48, 8
CONFIG = Eagle3Config(
    hidden_size=WIDTH,
    target_hidden_size=WIDTH,
    intermediate_size=40,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=10,  # not 48 / 6
    rms_norm_eps=1e-6,
    vocab_size=VOCAB,
    draft_vocab_size=DRAFT_VOCAB,
    rope_theta=7000.0,  # not 10000, which stands for none
    max_position_embeddings=128,
    tap_layers=(1, 3, 6),  # not (2, 4, 5), the published rule for 8 layers
)
# What a layout has no words for is the published rule's.
UNSAID = {
    "SafeAILab": {"rope_theta": 10000.0, "tap_layers": (2, 4, 5)},
    "AngelSlim": {"rope_theta": 1e6, "tap_layers": (2, 4, 5)},
}
NORMS = {
    "norm_before_residual": {"norm_before_residual": True},
    "norm_output": {"norm_output": True},
    "norm_before_fc": {"feature_norm": "together"},
    "fc_norm": {"feature_norm": "each"},
    "all": {"norm_before_residual": True, "norm_output": True, "feature_norm": "each"},
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


@pytest.fixture(scope="module")
def target():
    return random_target(layers=LAYERS)


def make_head(target, **changes):
    torch.manual_seed(1)
    head = Eagle3Head(dataclasses.replace(CONFIG, **changes), target.model.get_input_embeddings().weight)
    with torch.no_grad():
        for weight in head.parameters():
            if weight.ndim == 1:
                weight.uniform_(0.5, 1.5)
            if weight.requires_grad:
                weight.copy_(weight.half())  # layouts in half precision hold the same values
    if head.config.draft_vocab_size < VOCAB:
        head.set_draft_vocabulary(torch.randperm(VOCAB)[:DRAFT_VOCAB].sort().values)
    return head.eval().requires_grad_(False)


def outputs(head):
    generator = torch.Generator().manual_seed(2)
    taps, tokens = torch.randn(1, 7, 3 * WIDTH, generator=generator), torch.arange(7)[None]
    mask = torch.ones(7, 7, dtype=torch.bool).tril()[None, None]
    hidden, _ = head(head.fuse(taps), tokens, torch.arange(7)[None], mask)
    return hidden, head.logits(hidden)


def same(loaded, head):
    return all(torch.equal(a, b) for a, b in zip(outputs(loaded), outputs(head), strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_head(layout, target, tmp_path):
    head = make_head(target)
    save_head(head, tmp_path / "head")
    loaded = load_head(rewrite(tmp_path / "head", layout), target)
    if layout == "speculators":
        assert not loaded.embed_tokens.weight.any()  # its own embedding is used
        loaded.embed_tokens.weight.copy_(head.embed_tokens.weight)
    assert loaded.config == dataclasses.replace(CONFIG, **UNSAID.get(layout, {}))
    loaded.config = CONFIG
    assert same(loaded, head) and torch.equal(loaded.d2t, head.d2t) and torch.equal(loaded.t2d, head.t2d)


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("claimed", [16, None], ids=["claims 16", "says nothing"])
def test_size_of_the_attention_heads_is_that_of_the_weights(claimed, target, tmp_path):
    """As AngelSlim's 32B: 128 in the file, 80 in the weights. Here 10, and neither is 48 / 6."""
    head = make_head(target)
    save_head(head, tmp_path / "head")
    edit_config(tmp_path / "head", head_dim=claimed)
    loaded = load_head(tmp_path / "head", target)
    assert loaded.config == CONFIG and same(loaded, head)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; only silu is supported"),
        ({"sliding_window": 64}, "a sliding window is set; only full attention"),
        ({"sliding_window": 64, "use_sliding_window": True}, "a sliding window is set"),
        ({"layer_types": ["sliding_attention"]}, "a sliding window is set"),
    ],
)
def test_layers_of_other_kinds_are_refused(change, said, target, tmp_path):
    save_head(make_head(target), tmp_path / "head")
    edit_config(tmp_path / "head", **change)
    with pytest.raises(InputError, match=said):
        load_head(tmp_path / "head", target)


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_act": "swish"},
        {"sliding_window": 64, "use_sliding_window": False},
        {"sliding_window": None},
        {"sliding_window": 64, "layer_types": ["full_attention"]},
    ],
)
def test_windows_that_are_switched_off_change_nothing(change, target, tmp_path):
    save_head(make_head(target), tmp_path / "head")
    edit_config(tmp_path / "head", **change)
    assert load_head(tmp_path / "head", target).config == CONFIG


def test_equal_vocabularies_ignore_whatever_tables_the_file_has(target, tmp_path):
    head = make_head(target, draft_vocab_size=VOCAB)
    save_head(head, tmp_path / "head")
    weights = tmp_path / "head/model.safetensors"
    save_file(load_file(weights) | {"d2t": torch.full((VOCAB,), 7)}, weights)
    loaded = load_head(tmp_path / "head", target)
    assert torch.equal(loaded.to_target(torch.arange(VOCAB)), torch.arange(VOCAB)) and loaded.t2d.all()


@pytest.mark.parametrize("norms", NORMS)
def test_norms_stand_where_the_flags_say(norms, target):
    """Against the layer written once more, for the first row and the feature that it hands on."""
    head = make_head(target, **NORMS[norms])
    config, layer = head.config, head.midlayer

    def norm(x, weight):
        return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + config.rms_norm_eps) * weight

    taps, token = torch.randn(3 * WIDTH, generator=torch.Generator().manual_seed(5)), torch.tensor(4)
    fused = taps
    if config.feature_norm == "together":
        fused = norm(taps, head.input_norm.weight)
    elif config.feature_norm == "each":
        fused = torch.cat([norm(part, n.weight) for part, n in zip(taps.chunk(3), head.fc_norm, strict=True)])
    feature = head.fc.weight @ fused
    normed = norm(feature, layer.hidden_norm.weight)
    x = torch.cat([norm(head.embed_tokens.weight[token], layer.input_layernorm.weight), normed])
    value = (layer.self_attn.v_proj.weight @ x).view(2, 1, 10).expand(2, 3, 10).reshape(-1)
    stream = (normed if config.norm_before_residual else feature) + layer.self_attn.o_proj.weight @ value
    stream = stream + layer.mlp(norm(stream, layer.post_attention_layernorm.weight))
    final = norm(stream, head.norm.weight)
    expected = final if config.norm_output else stream
    one = torch.zeros(1, 1, dtype=torch.int64)
    mask = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    hidden, _ = head(head.fuse(taps)[None, None], token.view(1, 1), one, mask)
    torch.testing.assert_close(hidden[0, 0], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(head.logits(hidden)[0, 0], head.lm_head.weight @ final, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("changes", [*NORMS.values(), {"rope_scaling": LLAMA3}], ids=[*NORMS, "llama3"])
@pytest.mark.parametrize("kind", [Drafter, CompiledDrafter])
def test_the_engine_drafts_with_every_variant_as_replay_does(changes, target, kind):
    head = make_head(target, **changes)
    drafter = kind(head, beam=3, max_depth=4, max_context=64)
    prompt = torch.tensor([3, 14, 15, 9, 2, 6])
    taps = target.sequence_taps(prompt[None])
    drafter.prefill(taps[0, :-1], prompt[:-1])
    drafter.extend(taps[0, -2:-1], prompt[-1:])
    for _ in range(3):
        drafter.expand()
    trees = draft_trees(
        head, run_true_rows(head, taps, prompt[None]), torch.tensor([0]), torch.tensor([5]), 3, 4
    )
    torch.testing.assert_close(drafter.state.scores, trees.scores[0], rtol=1e-4, atol=1e-4)
    assert torch.equal(drafter.tokens, trees.tokens[0])


@pytest.mark.parametrize(
    "scaling",
    [
        LLAMA3,
        {"rope_type": "linear", "factor": 4.0},
        {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 64},
    ],
    ids=["llama3", "linear", "yarn"],
)
def test_rotary_scalings_are_those_of_transformers(scaling):
    config = dataclasses.replace(CONFIG, rope_scaling=scaling, rope_theta=500.0)
    positions = torch.arange(100)[None]
    reference = LlamaRotaryEmbedding(
        LlamaConfig(
            hidden_size=WIDTH,
            num_attention_heads=6,
            head_dim=10,
            max_position_embeddings=128,
            rope_parameters={"rope_theta": 500.0, **scaling},
        )
    )
    for ours, theirs in zip(rotary_of(config, positions), reference(torch.zeros(1), positions), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_rope_scaling_is_read_from_either_place(key, target, tmp_path):
    save_head(make_head(target), tmp_path / "head")
    path = tmp_path / "head/config.json"
    values = json.loads(path.read_text())
    values.pop("rope_theta")
    inside = {"rope_theta": 500.0} if key == "rope_parameters" else {}
    values |= {key: {"type": "linear", "factor": 2.0} | inside}
    path.write_text(json.dumps(values))
    config = load_head(tmp_path / "head", target).config
    assert config.rope_scaling == {"rope_type": "linear", "factor": 2.0}
    assert config.rope_theta == (500.0 if inside else 10000.0)


@pytest.fixture
def target_folder(target, tmp_path):
    target.model.save_pretrained(tmp_path / "target")
    return tmp_path / "target"


@pytest.mark.parametrize("layout", ["published", "speculators"])
@pytest.mark.parametrize(
    "changes", [{}, {"rope_scaling": LLAMA3}, NORMS["all"]], ids=["plain", "llama3", "norms"]
)
def test_export_and_import_again(layout, changes, target, target_folder, tmp_path):
    head = make_head(target, **changes)
    save_head(head, tmp_path / "head", torch.float16)
    options = ExportDraftOptions(
        draft=str(tmp_path / "head"), target=str(target_folder), output=tmp_path / "out", layout=layout
    )
    if layout == "published" and not head.config.plain:
        with pytest.raises(InputError, match="use speculators"):
            export_draft(options)
        return
    export_draft(options)
    loaded = load_head(tmp_path / "out", target)
    assert loaded.config == head.config and same(loaded, head) and torch.equal(loaded.t2d, head.t2d)
    export_draft(dataclasses.replace(options, dtype="bfloat16"))
    weights = load_file(tmp_path / "out/model.safetensors").values()
    assert {weight.dtype for weight in weights if weight.is_floating_point()} == {torch.bfloat16}


@pytest.mark.parametrize("layout", ["published", "speculators"])
def test_a_head_without_an_output_is_exported_with_the_targets(layout, target, target_folder, tmp_path):
    save_head(make_head(target, draft_vocab_size=VOCAB), tmp_path / "head")
    weights = tmp_path / "head/model.safetensors"
    save_file({k: v for k, v in load_file(weights).items() if k != "lm_head.weight"}, weights)
    places = {"draft": str(tmp_path / "head"), "target": str(target_folder), "output": tmp_path / "out"}
    export_draft(ExportDraftOptions(**places, layout=layout))
    output = load_file(tmp_path / "out/model.safetensors")["lm_head.weight"]
    assert torch.equal(output, target.model.lm_head.weight)


@pytest.mark.parametrize("tokens", [0, -2])
def test_a_server_must_draft_a_token(tokens, target_folder, tmp_path):
    places = {"draft": str(tmp_path / "head"), "target": str(target_folder), "output": tmp_path / "out"}
    with pytest.raises(InputError, match=f"speculative_tokens: {tokens} is not at least 1"):
        export_draft(ExportDraftOptions(**places, layout="speculators", speculative_tokens=tokens))


def test_speculators_files_have_the_keys_of_that_project(target, target_folder, tmp_path):
    save_head(make_head(target, **NORMS["all"]), tmp_path / "head")
    options = ExportDraftOptions(
        draft=str(tmp_path / "head"),
        target=str(target_folder),
        output=tmp_path / "out",
        layout="speculators",
        name="owner/model",
    )
    export_draft(options)
    values = json.loads((tmp_path / "out/config.json").read_text())
    assert values["speculators_model_type"] == "eagle3" and values["architectures"] == ["Eagle3Speculator"]
    assert values["eagle_aux_hidden_state_layer_ids"] == [1, 3, 6]
    assert (values["norm_before_residual"], values["norm_output"], values["fc_norm"]) == (True, True, True)
    assert values["norm_before_fc"] is False
    layer = values["transformer_layer_config"]
    assert (layer["vocab_size"], layer["head_dim"], layer["num_hidden_layers"]) == (VOCAB, 10, 1)
    assert values["speculators_config"]["verifier"] == {
        "name_or_path": "owner/model",
        "architectures": ["LlamaForCausalLM"],
    }
    names = load_file(tmp_path / "out/model.safetensors").keys()
    assert {"layers.0.hidden_norm.weight", "fc_norm.2.weight", "d2t", "t2d", "lm_head.weight"} <= names
    assert not any(name.startswith("midlayer") for name in names)


@pytest.mark.parametrize("kind", ["safetensors", "bin", "nothing"])
def test_speculators_files_hold_the_targets_embedding(kind, target, target_folder, tmp_path):
    """That project's loader would take whatever memory holds for it."""
    weights = target_folder / "model.safetensors"
    if kind != "safetensors":
        tensors = load_file(weights)
        weights.unlink()
    if kind == "bin":
        torch.save(tensors, target_folder / "pytorch_model-00001-of-00001.bin")
    save_head(make_head(target), tmp_path / "head")
    options = ExportDraftOptions(
        draft=str(tmp_path / "head"), target=str(target_folder), output=tmp_path / "out", layout="speculators"
    )
    if kind == "nothing":
        with pytest.raises(InputError, match=r"no embed_tokens\.weight in its weights"):
            export_draft(options)
        return
    export_draft(options)
    embedding = load_file(tmp_path / "out/model.safetensors")["embed_tokens.weight"]
    assert torch.equal(embedding, target.model.get_input_embeddings().weight)


@pytest.mark.parametrize("norms", [{}, NORMS["all"]], ids=["plain", "norms"])
def test_speculators_own_loader_reads_our_export(norms, target, target_folder, tmp_path):
    """Configuration and every tensor, in that project's model."""
    project = pytest.importorskip("speculators.models.eagle3", reason="speculators is not installed")
    save_head(make_head(target, **norms), tmp_path / "head")
    options = ExportDraftOptions(
        draft=str(tmp_path / "head"), target=str(target_folder), output=tmp_path / "out", layout="speculators"
    )
    export_draft(options)
    config = project.Eagle3SpeculatorConfig.from_pretrained(tmp_path / "out")
    assert config.draft_vocab_size == DRAFT_VOCAB and config.target_vocab_size == VOCAB
    assert config.transformer_layer_config.head_dim == 10
    loaded = project.Eagle3DraftModel.from_pretrained(tmp_path / "out").state_dict()
    written = load_file(tmp_path / "out/model.safetensors")
    assert {name for name in loaded if not name.startswith("verifier_")} == written.keys()
    for name, tensor in written.items():
        assert torch.equal(loaded[name], tensor.to(loaded[name].dtype)), name
