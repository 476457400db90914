"""What the engine's benchmark loads and prints."""

import re
from dataclasses import fields

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationMixin

from decoding_experiments import save_words
from engine_models import random_head
from ltd import benchmark_engine
from ltd.benchmark_engine import EngineBenchmarkOptions
from ltd.bfloat16 import in_bfloat16
from ltd.draft_head.eagle3 import save_head
from ltd.engine import memory
from ltd.engine.target import TargetModel
from ltd.errors import InputError


class Loaded(Exception):
    """Instead of a benchmark."""


@pytest.fixture
def loaded(monkeypatch):
    """Target and drafter that options lead to, in the place of a benchmark."""

    def benchmark(target, drafter, options):
        raise Loaded(target, drafter)

    monkeypatch.setattr(benchmark_engine, "EngineBenchmark", benchmark)

    def load(**options):
        with pytest.raises(Loaded) as seen:
            benchmark_engine.benchmark_engine(EngineBenchmarkOptions(**{"device": "cpu"} | options))
        return seen.value.args

    return load


def test_the_target_has_the_taps_of_the_head(tmp_path, loaded):
    folders = save_words(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(folders / "target")
    save_head(random_head(TargetModel(model, tap_layers=(0, 1, 2))), folders / "draft")
    models = {"target": str(folders / "target"), "draft": str(folders / "draft")}
    target, drafter = loaded(**models, context=20, beam=4, depth=2)
    assert target.tap_layers == drafter.head.config.tap_layers == (0, 1, 2)
    assert target.prefill(torch.tensor([3, 4]))[1].shape == (2, 3 * model.config.hidden_size)


@pytest.fixture
def small_shapes(tmp_path, monkeypatch):
    """Shapes of a small target and head in the place of those of the paper."""
    folders = save_words(tmp_path / "words")
    for name, kept in (("target", "small"), ("draft", "small/draft")):
        (tmp_path / kept).mkdir()
        (tmp_path / kept / "config.json").write_bytes((folders / name / "config.json").read_bytes())
    monkeypatch.setattr(benchmark_engine, "SHAPES", tmp_path)
    return tmp_path


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_shape_is_made_in_the_number_type_asked_for(small_shapes, loaded, dtype):
    target, drafter = loaded(shape="small", dtype=dtype, beam=4)
    assert target.number_type == getattr(torch, dtype)
    assert drafter.head.config.draft_vocab_size == 15


def test_a_shape_too_large_for_the_memory_is_refused(small_shapes, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1000)
    with pytest.raises(InputError, match=r"^memory: .*small needs about"):
        benchmark_engine.benchmark_engine(EngineBenchmarkOptions(shape="small", device="cpu"))


def test_every_shape_of_the_experiments_is_a_choice():
    assert {folder.name for folder in benchmark_engine.SHAPES.iterdir()} == set(
        next(field for field in fields(EngineBenchmarkOptions) if field.name == "shape").metadata["choices"]
    )
    assert {"llama31-8b", "qwen3-14b"} <= {folder.name for folder in benchmark_engine.SHAPES.iterdir()}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "target: name a model, or in its place the shape"),
        ({"target": "a", "shape": "llama31-8b"}, "target: name a model, or in its place the shape"),
        ({"target": "a"}, "draft: none given; name"),
        ({"shape": "llama31-8b", "draft": "a"}, "draft: a shape brings its own"),
        ({"shape": "llama31-8b", "sizes": ()}, r"sizes: \[\] are not one or more"),
        ({"shape": "llama31-8b", "sizes": (4, 0)}, r"sizes: \[4, 0\] are not one or more"),
        ({"shape": "llama31-8b", "top_p": 0.0}, "top_p: 0.0 is not in"),
        *(
            ({"shape": "llama31-8b", name: value}, f"{name}: {value} is not at least 1")
            for name in ("context", "rounds", "repetitions", "beam", "depth", "size")
            for value in (0, -1)
        ),
    ],
)
def test_options_that_cannot_be_are_refused_before_models_are_read(options, said, monkeypatch):
    monkeypatch.setattr(benchmark_engine, "read_config", None)
    with pytest.raises(InputError, match=said):
        benchmark_engine.benchmark_engine(EngineBenchmarkOptions(**options))


def test_a_context_beyond_the_target_is_refused_before_it_is_made(small_shapes, monkeypatch):
    monkeypatch.setattr(TargetModel, "load", None)
    with pytest.raises(InputError, match="context: 2040 and the steps after it exceed 2048 tokens"):
        benchmark_engine.benchmark_engine(EngineBenchmarkOptions(shape="small", context=2040))


@pytest.mark.parametrize(
    ("dtype", "context", "sampling", "said"),
    [
        ("float32", 1100, [], "greedy"),
        ("bfloat16", 20, ["--temperature", "0.8", "--top-p", "0.9"], "temperature 0.8, top_p 0.9"),
    ],
)
def test_every_phase_is_printed(tmp_path, capsys, monkeypatch, dtype, context, sampling, said):
    folders = save_words(tmp_path)
    # Its steps and verifications are those of decoding, which on a CPU takes another way than these.
    for name in ("step", "verify"):
        monkeypatch.delattr(TargetModel, name)
    rounding, samples, generate = [], [], GenerationMixin.generate

    def watched(model, *args, **options):
        rounding.append(in_bfloat16(model))
        samples.append(options["do_sample"] and (options["temperature"], options["top_k"], options["top_p"]))
        return generate(model, *args, **options)

    monkeypatch.setattr(GenerationMixin, "generate", watched)
    models = {"target": folders / "target", "draft": folders / "draft", "device": "cpu", "dtype": dtype}
    sizes = {"rounds": 1, "repetitions": 2, "beam": 4, "depth": 2, "size": 3, "threads": 1}
    options = models | sizes | {"context": context}
    flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    benchmark_engine.main([*flags, "--sizes", "1", "3", *sampling])
    table = capsys.readouterr().out
    for phase in (
        "draft prefix pass, 1 row",
        "draft step",
        "verification of 1",
        "verification of 3",
        "cycle of depth 1, size 1",
        "rest of cycle of depth 2, size 3",
        "rest of autoregressive cycle",
    ):
        assert f"| {phase} | " in table
    # A prefill more and one less may take longer than two tokens of so small a model.
    numbers = r"\| -?[\d.]+ \| -?[\d.]+ \| -?[\d.]+ \| -?[1-9]\d* \|"
    for phase in ("transformers generate", "autoregressive step", "autoregressive step, float32 layers"):
        assert re.search(rf"\| {phase} {numbers}", table), phase
    assert f", torch.{dtype}, 36 packed layers, context {context}, {said}\n" in table
    assert set(samples) == {(0.8, 0, 0.9) if sampling else False}
    assert re.search(r"copy bandwidth [\d.]+ GB/s: at least [\d.]+ ms a step", table)
    assert re.search(r"autoregressive step: -?[\d.]+x faster than transformers, [\d.]+x the bandwidth", table)
    assert "; rest of cycle of depth 1, size 1: " in table
    assert rounding and not any(rounding)  # plain transformers spends no time on roundings
