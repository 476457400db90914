"""What the engine's benchmark loads."""

import pytest
import torch

from engine_models import random_head, random_model
from ltd import benchmark_engine
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
