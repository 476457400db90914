"""`dtype: bfloat16` on a CPU: one meaning in PyTorch and in the compiled engine, and lossless decoding."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from engine_models import FORWARDS, RandomController, random_drafter, random_model, random_target
from ltd.bfloat16 import computes_in, in_bfloat16, saved_type, to_bfloat16, without_rounding
from ltd.engine.compiled.drafting import CompiledDrafter
from ltd.engine.compiled.forward import CompiledForward
from ltd.engine.controllers import StaticController
from ltd.engine.decoding import decode, decode_autoregressive
from ltd.engine.loading import load_engine, make_drafter
from ltd.engine.model_loading import load_model
from ltd.engine.target import TargetModel
from ltd.record_traces import RecordTracesOptions, TraceRecorder
from ltd.replay.table import ReplayTable
from saved_engine import save_engine
from tiny_engine import tiny_answers, tiny_drafter, tiny_head, tiny_target

PROMPT = torch.tensor([3, 14, 15, 9, 2, 6, 5, 3])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save_engine(folder)
    return folder


def tiny_engine():
    target = tiny_target()
    target = TargetModel(to_bfloat16(target.model), max_context=160)
    return target, to_bfloat16(tiny_head(target))


def test_weights_and_the_inputs_of_linear_layers_are_rounded():
    model, plain = random_model("llama", bfloat16=True), random_model("llama")
    for rounded, weight in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(rounded, weight.bfloat16().float())
    layer, rows = model.model.layers[0].mlp.gate_proj, torch.randn(5, 48)
    exact = rows.bfloat16().double() @ layer.weight.double().T + layer.bias.double()
    torch.testing.assert_close(layer(rows).double(), exact, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(layer(rows).double(), rows.double() @ layer.weight.double().T, atol=1e-3)


def test_tied_weights_stay_tied():
    model = random_model("qwen2", bfloat16=True)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_the_model_without_rounding_shares_its_weights():
    rounding, tokens = random_model("qwen2", bfloat16=True), PROMPT[None]
    plain, expected = without_rounding(rounding), random_model("qwen2")
    with torch.no_grad():
        for weight in expected.parameters():
            weight.copy_(weight.bfloat16())
    assert torch.equal(plain(tokens).logits, expected(tokens).logits)
    assert not in_bfloat16(plain) and in_bfloat16(rounding)
    assert all(one is other for one, other in zip(plain.parameters(), rounding.parameters(), strict=True))


@pytest.mark.parametrize("forward", FORWARDS)
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_every_forward_computes_the_same(architecture, forward):
    """Up to sums in another order, and the few numbers that they push over the edge of a rounding."""
    model = random_model(architecture, bfloat16=True)
    tokens = torch.randint(0, 23, (40,), generator=torch.Generator().manual_seed(5))
    unrounded = random_model(architecture)
    with torch.no_grad():
        for weight in unrounded.parameters():
            weight.copy_(weight.bfloat16())
        expected = model(tokens[None]).logits[0]
        noise = (unrounded(tokens[None]).logits[0] - expected).abs()
    target = TargetModel(model, max_context=64, max_tree=16, **{"compiled": False} | FORWARDS[forward])
    assert isinstance(target.forward, CompiledForward) == (forward == "compiled")
    target.prefill(tokens[:1])
    found = torch.stack([target.step(token[None])[0].clone() for token in tokens[1:]])
    error = (found - expected[1:]).abs()
    assert noise.median() > 2e-3 and error.median() < noise.median() / 2 and error.max() < noise.max()


def test_decoding_is_lossless():
    accepted = 0
    for architecture in ("llama", "qwen3"):
        target = random_target(architecture, compiled=True, bfloat16=True)
        drafter = random_drafter(target, beam=8, draft_vocab=15, compiled=True)
        assert target.packed_layers and target.number_type == torch.bfloat16 and target.dtype == torch.float32
        expected = decode_autoregressive(target, PROMPT, max_new_tokens=60).tokens
        for controller in (StaticController(1, 1), StaticController(5, 64), RandomController()):
            result = decode(target, drafter, controller, PROMPT, max_new_tokens=60)
            assert result.tokens == expected
            accepted += sum(cycle.accepted for cycle in result.cycles)
    assert accepted


def test_the_compiled_head_drafts_what_pytorch_drafts():
    target = random_target("qwen3", compiled=True, bfloat16=True)
    states = []
    for compiled in (True, False):
        drafter = random_drafter(target, max_depth=3, compiled=compiled)
        logits, taps = target.prefill(PROMPT)
        drafter.prefill(taps, PROMPT)
        drafter.extend(taps[-1:], logits.argmax()[None])
        states.append(drafter.state)
    plain = random_drafter(random_target("qwen3", compiled=True), max_depth=3, compiled=True)
    plain.prefill(taps, PROMPT)
    plain.extend(taps[-1:], logits.argmax()[None])
    error = (states[0].feature - states[1].feature).abs().max()
    assert error < 0.2 * (plain.state.feature - states[1].feature).abs().max()
    torch.testing.assert_close(states[0].scores, states[1].scores, rtol=1e-2, atol=1e-2)


def test_live_cycles_are_those_of_the_replay():
    """Traces come from batches in PyTorch: a draft that is another at a near-tie is an exception."""
    target, head = tiny_engine()
    answers = [answer for answer in tiny_answers(target, 12, max_new_tokens=40) if len(answer.answer) > 1]
    names = dict.fromkeys(("target", "draft", "responses", "output", "state"), "")
    options = RecordTracesOptions(**names, beam=3, max_depth=4)
    traces = TraceRecorder(target, head, options).record(answers, {"target_hash": "", "draft_hash": ""})
    table, drafter = ReplayTable(traces), tiny_drafter(head, 3, 4)
    alike = []
    for start, answer in zip(traces.starts, answers, strict=True):
        prompt = answer.tokens[: answer.prompt_length]
        result = decode(target, drafter, StaticController(4, 8), prompt, max_new_tokens=len(answer.answer))
        assert result.tokens == answer.answer.tolist()
        for cycle in result.cycles:
            root = start + cycle.context_length - answer.prompt_length
            alike.append(table.tokens(root, 4, 8) == cycle.tokens)
    assert len(alike) > 50 and np.mean(alike) > 0.97


def test_loading_rounds_what_the_folder_holds(folder):
    stored = AutoModelForCausalLM.from_pretrained(folder / "target")
    target, drafter = load_engine(
        folder / "target", folder / "draft", beam=3, max_depth=3, device="cpu", dtype="bfloat16"
    )
    weights = dict(stored.named_parameters())
    assert any(not torch.equal(weight.bfloat16().float(), weight) for weight in weights.values())
    for name, weight in target.model.named_parameters():
        assert torch.equal(weight, weights[name].bfloat16().float()), name
    assert isinstance(target.forward, CompiledForward) and isinstance(drafter, CompiledDrafter)
    assert in_bfloat16(drafter.head) and torch.equal(
        drafter.head.fc.weight.bfloat16().float(), drafter.head.fc.weight
    )
    assert not in_bfloat16(load_model(folder / "target", device="cpu"))


def test_random_weights_in_bfloat16(folder):
    target, drafter = load_engine(
        folder / "target", None, beam=3, max_depth=3, weights="random", device="cpu", dtype="bfloat16"
    )
    assert computes_in(target.model) == torch.bfloat16 and in_bfloat16(drafter.head)
    assert isinstance(make_drafter(drafter.head, beam=2, max_depth=2, max_context=32), CompiledDrafter)


def test_trained_weights_are_saved_for_the_number_type_that_will_be_used():
    assert saved_type(torch.bfloat16) == torch.bfloat16
    assert saved_type(torch.float32) == saved_type(torch.float16) == torch.float16
