"""Threads; where bfloat16 is multiplied, and where it would be emulated."""

import pytest
import torch

from ltd.benchmark_engine import main as benchmark_engine
from ltd.devices import mixed_precision, multiplies_bfloat16
from ltd.generate import main as generate


@pytest.mark.parametrize(("command", "needed"), [(generate, ["--prompt", "w3"]), (benchmark_engine, [])])
def test_commands_refuse_fewer_threads_than_none(command, needed, capsys):
    with pytest.raises(SystemExit) as stopped:
        command([*needed, "--threads", "-3"])
    (line,) = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and ": threads: -3 is negative; use 0 for all cores" in line


@pytest.mark.parametrize("capabilities", [{"avx512_bf16": True}, {"avx512_bf16": False}, {}])
def test_training_takes_bfloat16_only_where_it_is_an_instruction(monkeypatch, capabilities):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities)
    weight = torch.randn(4, 3, requires_grad=True)
    with mixed_precision(torch.device("cpu")):
        product = torch.randn(2, 3) @ weight.T
    native = capabilities.get("avx512_bf16", False)
    assert product.dtype == (torch.bfloat16 if native else torch.float32)
    product.float().sum().backward()
    assert weight.grad.dtype == torch.float32


def test_older_torch_does_not_tell_about_the_processor(monkeypatch):
    monkeypatch.delattr("torch.cpu.get_capabilities", raising=False)
    assert not multiplies_bfloat16(torch.device("cpu"))
    assert multiplies_bfloat16(torch.device("cuda"))
