"""Where bfloat16 is multiplied, and where it would be emulated."""

import pytest
import torch

from ltd.devices import mixed_precision, multiplies_bfloat16


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
