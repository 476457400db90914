"""Loading with memory checked first, random weights from configurations alone, published heads imported."""

import dataclasses
import math

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoConfig

from engine_models import random_model
from ltd.draft_head.eagle3 import Eagle3Head, load_head, save_head
from ltd.draft_head.head_config import target_like
from ltd.engine import memory, model_loading
from ltd.engine.controllers import StaticController
from ltd.engine.decoding import decode, decode_autoregressive
from ltd.engine.loading import load_engine, random_head
from ltd.engine.memory import cache_bytes, plan_memory, weight_bytes
from ltd.engine.model_loading import load_model, number_type
from ltd.engine.target import TargetModel
from ltd.errors import InputError
from ltd.files import read_json
from ltd.import_draft import ImportDraftOptions, import_draft
from ltd.profile_latency import LatencyOptions, profile_latency
from ltd.replay.latency import LatencyProfile
from ltd.texts.responses import Responses
from ltd.tracking import StageRun
from noted_run import NotedRun
from saved_engine import save_engine
from tiny_engine import tiny_answers


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save_engine(folder)
    return folder


@pytest.fixture(scope="module")
def shapes(folder, tmp_path_factory):
    """The configurations alone."""
    bare = tmp_path_factory.mktemp("shapes")
    (bare / "draft").mkdir()
    (bare / "config.json").write_bytes((folder / "target/config.json").read_bytes())
    (bare / "draft/config.json").write_bytes((folder / "draft/config.json").read_bytes())
    return bare


def test_counted_bytes_are_those_of_the_model():
    for architecture in ("llama", "qwen2"):  # qwen2 ties its embeddings
        model = random_model(architecture)
        counted = sum(weight.numel() * 4 for weight in model.parameters())
        assert weight_bytes(model.config, torch.float32) == counted
    target = TargetModel(random_model("qwen3"), max_context=100, max_tree=20, compiled=False)
    # The buffer's last slot is nobody's.
    buffer = target.forward.cache.buffer[:, :, :-1]
    assert cache_bytes(target.model.config, 121, torch.float32) == buffer.numel() * 4


def test_a_model_without_room_is_refused_before_it_is_loaded(folder, monkeypatch):
    plan = plan_memory(
        AutoConfig.from_pretrained(folder / "target"), dtype=torch.float32, context=64, tree=16, engine=1.0
    )
    assert plan.engine == plan.weights and "engine" in str(plan)
    monkeypatch.setattr(memory, "free_bytes", lambda device: plan.total - 1)
    with pytest.raises(InputError, match=r"^memory: .*target needs about .* GiB .*cpu has .* GiB free; use"):
        load_model(folder / "target", device="cpu", context=64, tree=16)
    monkeypatch.setattr(memory, "free_bytes", lambda device: plan.total)
    assert load_model(folder / "target", device="cpu", context=64, tree=16) is not None


@pytest.mark.parametrize(
    ("saved", "bits"),
    [({"quant_method": "awq", "bits": 4}, 4), ({"quant_method": "fp8"}, 8), ({"load_in_4bit": True}, 4)],
)
def test_a_checkpoint_of_few_bits_is_planned_as_such(saved, bits):
    """Scales included; embedding, norms, biases and output head as they were."""
    model = random_model("llama")
    layers = [layer.weight.numel() for layer in model.model.modules() if isinstance(layer, torch.nn.Linear)]
    others = sum(weight.numel() for weight in model.parameters()) - sum(layers)
    planned = 2 * others + sum(math.ceil({8: 1.01, 4: 0.57}[bits] * count) for count in layers)
    config = model.config
    config.quantization_config = saved
    assert weight_bytes(config, torch.bfloat16) == planned
    del config.quantization_config
    assert weight_bytes(config, torch.bfloat16, f"{bits}bit") == planned


def test_what_is_no_language_model_is_one_line(tmp_path):
    transformers.ViTConfig().save_pretrained(tmp_path)
    with pytest.raises(InputError) as refusal:
        load_model(tmp_path, device="cpu")
    assert "\n" not in str(refusal.value) and str(tmp_path) in str(refusal.value)


def test_number_types(folder, monkeypatch):
    config, cpu = AutoConfig.from_pretrained(folder / "target"), torch.device("cpu")
    for stored in (torch.bfloat16, torch.float16, torch.float32):
        config.dtype = stored
        for native in (True, False):
            monkeypatch.setattr(model_loading, "multiplies_bfloat16", lambda device, native=native: native)
            as_stored = native and stored == torch.bfloat16
            assert number_type("auto", config, cpu) == (stored if as_stored else torch.float32)
    config.dtype = torch.bfloat16
    assert number_type("auto", config, torch.device("cuda")) == torch.bfloat16
    assert number_type("float16", config, cpu) == torch.float16
    assert load_model(folder / "target", device="cpu", dtype="float16").dtype == torch.float16


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"dtype": "bf16"}, "dtype: 'bf16' is not one of auto, float32"),
        ({"max_context": 0}, "max_context: 0"),
    ],
)
def test_options_that_cannot_be_are_refused(folder, option, said):
    with pytest.raises(InputError, match=said):
        load_engine(folder / "target", folder / "draft", beam=3, max_depth=3, device="cpu", **option)


def test_quantisation_needs_a_gpu(folder):
    with pytest.raises(InputError, match="quantisation: 4bit needs a GPU"):
        load_model(folder / "target", device="cpu", quantisation="4bit")


@pytest.fixture
def quantised(folder, monkeypatch):
    """A machine that seems to have one GPU and the packages; holds the settings that the weights are asked
    for with, and gives the small target as it is.
    """
    asked = {}

    def from_pretrained(name, **settings):
        asked.update(settings)
        model = random_model("llama")
        model.hf_device_map = settings["device_map"]
        return model

    monkeypatch.setattr(model_loading, "resolve_device", lambda device: torch.device("cuda"))
    monkeypatch.setattr(model_loading, "free_memory", lambda device, gpus: {0: 1 << 40})
    monkeypatch.setattr(model_loading, "find_spec", lambda package: package)
    monkeypatch.setattr(transformers.BitsAndBytesConfig, "post_init", lambda settings: None)
    monkeypatch.setattr(model_loading.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    return asked


@pytest.mark.parametrize("bits", [8, 4])
def test_weights_of_few_bits_come_through_transformers_own_settings(folder, quantised, bits):
    load_model(folder / "target", dtype="bfloat16", quantisation=f"{bits}bit")
    chosen = quantised["quantization_config"]
    assert (chosen.load_in_8bit, chosen.load_in_4bit) == (bits == 8, bits == 4)
    assert chosen.bnb_4bit_compute_dtype == quantised["dtype"] == torch.bfloat16
    assert quantised["device_map"] == {"": 0} and quantised["trust_remote_code"] is False


@pytest.mark.parametrize("package", ["bitsandbytes", "accelerate"])
def test_package_that_few_bits_need_is_named(folder, quantised, monkeypatch, package):
    monkeypatch.setattr(model_loading, "find_spec", lambda name: None if name == package else name)
    with pytest.raises(InputError, match=f"quantisation 8bit needs the package {package}; `pip install"):
        load_model(folder / "target", quantisation="8bit")
    assert not quantised, "nothing was loaded"


def test_profile_names_the_precision(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(model_loading, "_quantisation", lambda *_: {})  # the weights as they are
    options = profile_options(folder / "target", tmp_path, draft=str(folder / "draft"), dtype="float32")
    profile_latency(dataclasses.replace(options, quantisation="4bit"), StageRun())
    assert LatencyProfile.load(options.output).dtype == "float32+4bit"


@pytest.mark.parametrize("draft", [True, False], ids=["head's shape", "target's shape"])
def test_random_weights_need_the_configurations_alone(shapes, draft):
    target, drafter = load_engine(
        shapes, shapes / "draft" if draft else None, beam=3, max_depth=3, weights="random", device="cpu"
    )
    assert target.tokenizer is None and drafter.head.config.draft_vocab_size == (12 if draft else 14)
    settings = {"max_new_tokens": 20, "eos_ids": ()}
    drafted = decode(target, drafter, StaticController(3, 6), [1, 2, 3], **settings)
    assert drafted.tokens == decode_autoregressive(target, [1, 2, 3], **settings).tokens


def test_context_follows_what_is_asked_within_the_models_limit(shapes):
    settings = {"beam": 3, "max_depth": 3, "weights": "random", "device": "cpu"}
    assert load_engine(shapes, None, max_context=77, **settings)[0].max_context == 77
    target, drafter = load_engine(shapes, None, max_context=5000, **settings)
    assert target.max_context == drafter.max_context == 256


def test_a_head_must_be_named(folder):
    with pytest.raises(InputError, match="draft: none given"):
        load_engine(folder / "target", None, beam=3, max_depth=3, device="cpu")


def test_a_random_head_leaves_the_targets_own_weights_alone():
    model = random_model("qwen2")  # ties its embeddings: they are the output head, too
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    head = random_head(TargetModel(model), target_like(model.config))
    assert head.embed_tokens.weight.data_ptr() == model.lm_head.weight.data_ptr()
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    halved = head.midlayer.mlp.up_proj.weight
    assert torch.equal(halved, halved.half().float())


def profile_options(target, folder, **more):
    return LatencyOptions(
        target=str(target),
        output=folder / "profile.json",
        device="cpu",
        beam=3,
        max_depth=3,
        sizes=(1, 2, 4, 8),
        context_lengths=(24, 48),
        repetitions=2,
        policy_network=(8,),
        **more,
    )


def test_profile_with_random_weights(shapes, tmp_path):
    options = profile_options(shapes, tmp_path, weights="random")
    profile_latency(options, StageRun())
    written = read_json(tmp_path / "profile.json")
    assert written["weights"] == "random" and written["date"] and written["draft_hash"] == "random"
    assert LatencyProfile.load(tmp_path / "profile.json").max_size == 8


@pytest.fixture
def answers(folder, tmp_path):
    path = tmp_path / "responses.safetensors"
    Responses.from_sequences(tiny_answers(TargetModel.load(folder / "target"), 4)).save(path)
    return path


def options_for(folder, draft, answers, output, **changes):
    return ImportDraftOptions(
        target=str(folder / "target"),
        draft=str(draft),
        responses=answers,
        output=output,
        probe_answers=3,
        device="cpu",
        **changes,
    )


@pytest.mark.parametrize(("claimed", "kept"), [(3.0, 1e4), (1e3, 1e3), (1e4, 1e4)])
def test_the_better_rotary_base_is_kept(folder, answers, tmp_path, capsys, claimed, kept):
    """A head may claim a base that it does not draft well with, as AngelSlim's do."""
    run, target = NotedRun(), TargetModel.load(folder / "target", device="cpu")
    head = load_head(folder / "draft", target)
    head.config = dataclasses.replace(head.config, rope_theta=claimed)
    save_head(head, tmp_path / "head")
    import_draft(options_for(folder, tmp_path / "head", answers, tmp_path / "out"), run)
    report = read_json(tmp_path / "out/import.json")
    lengths = {float(theta): length for theta, length in report["acceptance_length"].items()}
    assert set(lengths) == {claimed, 1e4} and max(lengths, key=lengths.get) == kept
    assert report["rope_theta"] == kept == load_head(tmp_path / "out", target).config.rope_theta
    printed = capsys.readouterr().out
    for theta, length in lengths.items():
        assert run.values[f"acceptance_length/rope_theta_{theta:g}"] == pytest.approx(length, abs=1e-4)
        assert f"rotary base {theta:g}: acceptance length {length:.3f}" in printed
    assert printed.endswith(f"kept rotary base {kept:g}\n")


def test_a_head_keeps_an_embedding_of_its_own(folder, answers, tmp_path):
    target = TargetModel.load(folder / "target", device="cpu")
    head = load_head(folder / "draft", target)
    own = head.embed_tokens.weight.flip(0)
    mine = Eagle3Head(head.config, own, own_embedding=True)
    mine.load_state_dict(head.state_dict() | {"embed_tokens.weight": own})
    save_head(mine, tmp_path / "own")
    import_draft(options_for(folder, tmp_path / "own", answers, tmp_path / "out"), StageRun())
    assert torch.equal(load_head(tmp_path / "out", target).embed_tokens.weight, own)
    # The target's is not written a second time.
    import_draft(options_for(folder, folder / "draft", answers, tmp_path / "shared"), StageRun())
    assert "embed_tokens.weight" not in load_file(tmp_path / "shared" / "model.safetensors")


def test_a_head_is_tried_on_the_ends_of_long_prompts(folder, answers, tmp_path, monkeypatch):
    monkeypatch.setattr("ltd.import_draft.LARGEST_PROBE", 12)
    assert all(len(answer.tokens) > 12 for answer in Responses.load(answers).sequences())
    import_draft(options_for(folder, folder / "draft", answers, tmp_path / "out"), StageRun())
    assert min(read_json(tmp_path / "out/import.json")["acceptance_length"].values()) >= 1


def test_a_given_rotary_base_is_not_questioned(folder, answers, tmp_path):
    import_draft(
        options_for(folder, folder / "draft", answers, tmp_path / "out", rope_theta=77.0), StageRun()
    )
    target = TargetModel.load(folder / "target", device="cpu")
    assert load_head(tmp_path / "out", target).config.rope_theta == 77.0
    assert list(read_json(tmp_path / "out/import.json")["acceptance_length"]) == ["77"]
