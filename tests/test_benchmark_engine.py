"""What the engine's benchmark loads and prints."""

import re

import pytest
import torch
from transformers import GenerationMixin

from decoding_experiments import save_words
from engine_models import random_head, random_model
from ltd import benchmark_engine
from ltd.bfloat16 import in_bfloat16
from ltd.draft_head.eagle3 import save_head
from ltd.engine.target import TargetModel


class Loaded(Exception):
    """Instead of a benchmark."""


def test_the_target_has_the_taps_of_the_head(tmp_path, monkeypatch):
    model = random_model("qwen3")
    target = TargetModel(model, tap_layers=(0, 1, 2))
    save_head(random_head(target), tmp_path / "draft")
    monkeypatch.setattr(TargetModel, "load", lambda *_, **sizes: TargetModel(model, max_context=128))

    def benchmark(target, drafter, options):
        raise Loaded(target)

    monkeypatch.setattr(benchmark_engine, "EngineBenchmark", benchmark)
    options = {"target": "anything", "draft": tmp_path / "draft", "device": "cpu", "context": 20, "rounds": 1}
    with pytest.raises(Loaded) as seen:
        benchmark_engine.benchmark_engine(benchmark_engine.EngineBenchmarkOptions(**options, beam=4, depth=2))
    found = seen.value.args[0]
    assert found.tap_layers == (0, 1, 2) and found.max_context == 128
    assert found.prefill(torch.tensor([3, 4]))[1].shape == (2, 3 * model.config.hidden_size)


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
