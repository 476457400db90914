"""The target: lean forward against transformers, trees against chains, compaction against a fresh prefill."""

import pytest
import torch
from transformers import BloomConfig, GPT2Config, GPT2LMHeadModel, MambaConfig, Phi3Config

from engine_models import (
    ARCHITECTURES,
    FORWARDS,
    RandomController,
    random_drafter,
    random_model,
    random_target,
)
from ltd.engine.context_limits import check_rotation, longest_context, unchanged_rotation
from ltd.engine.controllers import StaticController
from ltd.engine.decoding import decode, decode_autoregressive
from ltd.engine.model_forward import ModelForward
from ltd.engine.target import TargetModel
from ltd.errors import InputError

PROMPT = torch.tensor([3, 14, 15, 9, 2, 6, 5, 3])

BASE = {"rope_theta": 1000.0}
ROPES = {
    "linear": BASE | {"rope_type": "linear", "factor": 4.0},
    "yarn": BASE | {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
    "dynamic": BASE | {"rope_type": "dynamic", "factor": 2.0},
    "longrope": BASE
    | {
        "rope_type": "longrope",
        "factor": 2.0,
        "short_factor": [1.0 + 0.1 * i for i in range(10)],
        "long_factor": [3.0] * 10,
    },
}


def random_tree(target, seed=2, size=60, depth=4):
    """A tree drafted for the prompt, with the target prefilled."""
    drafter = random_drafter(target, seed=seed, max_depth=depth)
    logits, taps = target.prefill(PROMPT)
    drafter.prefill(taps, PROMPT)
    drafter.extend(taps[-1:], logits.argmax()[None])
    for _ in range(depth - 1):
        drafter.expand()
    return drafter.select(size)


def random_gpt2():
    """A model that the lean forward does not know, with learned positions."""
    torch.manual_seed(0)
    config = GPT2Config(
        n_embd=24, n_head=3, n_layer=5, vocab_size=23, n_positions=64, bos_token_id=None, eos_token_id=None
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.normal_(std=24**-0.5)
    return model


def path_to(tree, row):
    """Rows from the root to `row`."""
    return tree.ancestors[row].nonzero()[:, 0].tolist()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_forward_computes_the_model(architecture, compiled):
    model = random_model(architecture)
    target = TargetModel(model, max_context=64, max_tree=16, compiled=compiled)
    tokens = torch.randint(0, 23, (40,), generator=torch.Generator().manual_seed(5))
    expected = model(tokens[None], output_hidden_states=True)
    taps = torch.cat([expected.hidden_states[index][0] for index in target.tap_layers], dim=-1)
    for prefix in (1, 17):
        logits, first_taps = target.prefill(tokens[:prefix])
        rows = [first_taps]
        for token in tokens[prefix:]:
            logits, row = target.step(token[None])
            rows.append(row)
        torch.testing.assert_close(logits, expected.logits[0, -1], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(torch.cat(rows), taps, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("kind", ROPES)
def test_scaled_rotations_are_those_of_transformers(kind, compiled):
    """In the last steps that the context has room for, and in the nodes of a tree behind them."""
    target = random_target(max_context=471, max_tree=40, compiled=compiled, rope_parameters=ROPES[kind])
    tokens = torch.randint(0, 23, (480,), generator=torch.Generator().manual_seed(5))
    expected = random_model(rope_parameters=ROPES[kind])(tokens[None]).logits[0]
    target.prefill(tokens[:450])
    for position in range(450, 471):
        logits, _ = target.step(tokens[position : position + 1])
        torch.testing.assert_close(logits, expected[position], rtol=1e-4, atol=1e-4)
    chain = torch.ones(9, 9, dtype=torch.bool).tril()
    logits, _ = target.verify(tokens[471:], torch.arange(9), chain)
    torch.testing.assert_close(logits, expected[471:], rtol=1e-4, atol=1e-4)


def test_packed_layers_compute_the_same_model():
    model = random_model(half_weights=True, hidden_size=384, intermediate_size=700, head_dim=64)
    packed, plain = (TargetModel(model, max_context=64, packed=flag) for flag in (True, False))
    (logits, taps), (expected, expected_taps) = packed.prefill(PROMPT), plain.prefill(PROMPT)
    assert packed.packed_layers > 0 and plain.packed_layers == 0
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(taps, expected_taps, rtol=1e-4, atol=1e-4)


def test_weights_beyond_half_precision_are_not_packed():
    model = random_model(hidden_size=384, intermediate_size=700, head_dim=64)
    assert TargetModel(model, max_context=64).packed_layers == 0


@pytest.mark.parametrize("forward", FORWARDS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tree_logits_are_chain_logits(architecture, forward):
    target = random_target(architecture, **FORWARDS[forward])
    tree = random_tree(target)
    logits, taps = target.verify(tree.tokens, tree.depths, tree.ancestors)
    assert tree.depths.max() >= 3
    for row in range(tree.size + 1):
        chain = tree.tokens[path_to(tree, row)]
        expected, expected_taps = target.prefill(torch.cat([PROMPT, chain]))
        torch.testing.assert_close(logits[row], expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(taps[row], expected_taps[-1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_cache_after_compaction_is_that_of_a_fresh_prefill(architecture):
    target = random_target(architecture)
    tree = random_tree(target)
    target.verify(tree.tokens, tree.depths, tree.ancestors)
    deepest = tree.depths.argmax().item()
    rows = torch.tensor(path_to(tree, deepest))
    target.keep(rows, tree.size + 1)
    cache = target.forward.cache
    assert target.length == len(PROMPT) + len(rows)
    kept = cache.buffer[:, :, cache.scratch : cache.scratch + target.length].clone()
    target.prefill(torch.cat([PROMPT, tree.tokens[rows]]))
    fresh = cache.buffer[:, :, cache.scratch : cache.scratch + target.length]
    torch.testing.assert_close(kept, fresh, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bfloat16", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("size", [1, 7, 60])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_compiled_rows_of_a_tree_are_steps_to_the_last_bit(architecture, size, bfloat16):
    """However many rows are verified with it, a token gets the logits of plain decoding: no near-ties."""
    target = random_target(architecture, compiled=True, bfloat16=bfloat16)
    tree = random_tree(target, size=size)
    logits, taps = target.verify(tree.tokens, tree.depths, tree.ancestors)
    for row in range(tree.size + 1):
        target.prefill(PROMPT)
        for token in tree.tokens[path_to(tree, row)]:
            expected, expected_taps = target.step(token[None])
        assert torch.equal(logits[row], expected) and torch.equal(taps[row], expected_taps[0])


@pytest.mark.parametrize("bfloat16", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_compiled_steps_after_a_kept_path_are_those_of_a_plain_sequence(architecture, bfloat16):
    target = random_target(architecture, compiled=True, bfloat16=bfloat16)
    tree = random_tree(target)
    target.verify(tree.tokens, tree.depths, tree.ancestors)
    rows = torch.tensor(path_to(tree, tree.depths.argmax().item()))
    target.keep(rows, tree.size + 1)
    logits, taps = target.step(torch.tensor([4]))
    target.prefill(torch.cat([PROMPT, tree.tokens[rows]]))
    expected, expected_taps = target.step(torch.tensor([4]))
    assert torch.equal(logits, expected) and torch.equal(taps, expected_taps)


@pytest.mark.parametrize("architecture", ["llama", "mistral"])
def test_attention_of_a_gpu_is_the_same(architecture):
    """The attention that other devices use, on this one: grouped heads folded into rows, and without
    groups.
    """
    target = random_target(architecture)
    tree = random_tree(target)
    expected, _ = target.verify(tree.tokens, tree.depths, tree.ancestors)
    next_expected, _ = target.step(torch.tensor([4]))
    for layer in target.forward.network.layers:
        assert not layer.fold
        layer.fold = True
    target.prefill(PROMPT)
    logits, _ = target.verify(tree.tokens, tree.depths, tree.ancestors)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(target.step(torch.tensor([4]))[0], next_expected, rtol=1e-4, atol=1e-4)


def test_the_models_own_forward_keeps_paths_too():
    target = random_target("qwen3", lean=False)
    assert isinstance(target.forward, ModelForward)
    tree = random_tree(target)
    target.verify(tree.tokens, tree.depths, tree.ancestors)
    rows = torch.tensor(path_to(tree, tree.depths.argmax().item()))
    target.keep(rows, tree.size + 1)
    logits, _ = target.step(torch.tensor([4]))
    expected, _ = target.prefill(torch.cat([PROMPT, tree.tokens[rows], torch.tensor([4])]))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_batched_forward_ignores_padding():
    target = random_target()
    tokens = torch.randint(0, 23, (3, 12), generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([12, 7, 1])
    taps = target.sequence_taps(tokens, lengths)
    assert taps.shape == (3, 12, 3 * target.hidden_size)
    for row, length in enumerate(lengths.tolist()):
        _, own_taps = target.prefill(tokens[row, :length])
        torch.testing.assert_close(taps[row, :length], own_taps, rtol=1e-4, atol=1e-4)


def test_wrong_prompts_are_refused():
    target = random_target(max_context=20)
    with pytest.raises(InputError, match="batch size 1"):
        target.prefill(torch.zeros(2, 4, dtype=torch.int64))
    with pytest.raises(InputError, match="no tokens"):
        target.prefill([])
    with pytest.raises(InputError, match="21 tokens do not fit a context of 20"):
        target.prefill([1] * 21)
    positions = target.model.config.max_position_embeddings
    with pytest.raises(InputError, match=f"more than the {positions} that the target can hold; shorten"):
        target.prefill([1] * (positions + 1))


def test_sliding_windows_smaller_than_the_context_are_refused():
    model = random_model("mistral", sliding_window=32)
    TargetModel(model, max_context=32)
    with pytest.raises(InputError, match="sliding_attention"):
        TargetModel(model, max_context=33)
    unused = random_model("qwen2", sliding_window=32, use_sliding_window=False)
    TargetModel(unused, max_context=200)


def test_trees_reach_past_a_sliding_window():
    """All of the context is in the window, some nodes of the tree are not, and nothing of either is lost."""
    window = len(PROMPT) + 4
    sizes = {"max_context": window, "max_tree": 12, "lean": False}
    target = TargetModel(random_model("mistral", sliding_window=window), **sizes)
    plain = TargetModel(random_model("mistral", sliding_window=None), **sizes)
    tree = random_tree(target, size=10)
    assert isinstance(target.forward, ModelForward) and target.length + tree.size + 1 > window
    plain.prefill(PROMPT)
    verified = [model.verify(tree.tokens, tree.depths, tree.ancestors)[0] for model in (target, plain)]
    for model in (target, plain):
        model.keep(torch.tensor([0]), tree.size + 1)
    torch.testing.assert_close(*verified)
    torch.testing.assert_close(*(model.step(torch.tensor([4]))[0] for model in (target, plain)))


def test_other_layer_types_are_refused_by_name():
    model = random_model("qwen3")
    model.config.layer_types = ["full_attention", "linear_attention"] * 2 + ["full_attention"]
    with pytest.raises(InputError, match="'linear_attention'"):
        TargetModel(model)


@pytest.mark.parametrize("original", [{}, {"original_max_position_embeddings": 200}])
@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_rope_that_changes_with_length_is_refused(kind, original):
    """Trees stand behind the context, and tables of angles are made for them, too."""
    model = random_model(rope_parameters=ROPES[kind] | original)
    room = original.get("original_max_position_embeddings", 512) - 40 - 1
    for context in (1000, room + 1):
        with pytest.raises(
            InputError, match=f"max_context: rope type '{kind}' .*; use at most {room}, which"
        ):
            TargetModel(model, max_context=context, max_tree=40)
    TargetModel(model, max_context=room, max_tree=40)


def test_limits_are_read_wherever_a_configuration_keeps_them():
    """Files keep them beside the rotation and name its kind by an older key; transformers moves both."""
    old = {
        "model_type": "phi3",
        "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096,
        "rope_scaling": {"type": "longrope", "long_factor": [1.0] * 8, "short_factor": [1.0] * 8},
    }
    assert unchanged_rotation(old, 256) == longest_context(old, 256) == 4096 - 257
    loaded = Phi3Config(hidden_size=64, num_attention_heads=4, pad_token_id=0, **old).to_dict()
    assert unchanged_rotation(loaded, 256) == 4096 - 257
    with pytest.raises(InputError, match=r"'longrope' rotates all positions anew beyond 4096 .*most 3839,"):
        check_rotation(old, 3840, 256)
    check_rotation(old, 3839, 256)


@pytest.mark.parametrize("ignored", ["attention_mask", "position_ids"])
@pytest.mark.parametrize("make", [random_gpt2, lambda: random_model("qwen3")], ids=["gpt2", "qwen3"])
def test_models_that_ignore_masks_or_positions_are_refused(make, ignored):
    model = make()
    own_forward = model.forward
    model.forward = lambda *args, **named: own_forward(*args, **named | {ignored: None})
    with pytest.raises(InputError, match="4D attention mask or position ids"):
        TargetModel(model, lean=False).prefill(PROMPT)


def test_attention_without_masks_of_trees_is_refused():
    model = random_gpt2()
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(InputError, match="'flash_attention_2' takes no masks of trees; load the model with"):
        TargetModel(model).prefill(PROMPT)


def test_other_architectures_go_through_their_own_forward():
    target = TargetModel(random_gpt2(), max_context=64, max_tree=32)
    tree = random_tree(target)
    logits, _ = target.verify(tree.tokens, tree.depths, tree.ancestors)
    row = tree.depths.argmax().item()
    expected, _ = target.prefill(torch.cat([PROMPT, tree.tokens[path_to(tree, row)]]))
    torch.testing.assert_close(logits[row], expected, rtol=1e-4, atol=1e-4)


def test_other_architectures_decode_the_tokens_of_transformers():
    """To the last position that there is."""
    target = TargetModel(random_gpt2(), max_context=64, max_tree=64)
    drafter = random_drafter(target, beam=8, draft_vocab=15)
    answer = target.model.generate(PROMPT[None], max_new_tokens=56, do_sample=False)
    expected, accepted = answer[0, len(PROMPT) :].tolist(), 0
    assert decode_autoregressive(target, PROMPT, max_new_tokens=56).tokens == expected
    for controller in (StaticController(1, 1), StaticController(5, 64), RandomController()):
        result = decode(target, drafter, controller, PROMPT, max_new_tokens=56)
        assert result.tokens == expected
        accepted += sum(cycle.accepted for cycle in result.cycles)
    assert accepted > 10


@pytest.mark.parametrize("config", [BloomConfig(), MambaConfig()], ids=["bloom", "mamba"])
def test_models_without_positions_are_refused_before_their_weights_are_read(config, tmp_path):
    config.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=rf"^target: '{config.model_type}' models number no positions"):
        TargetModel.load(tmp_path)


def test_missing_and_damaged_folders_are_named(tmp_path):
    with pytest.raises(InputError, match=r"no config\.json"):
        TargetModel.load(tmp_path)
    random_model().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(InputError, match="cannot be loaded"):
        TargetModel.load(tmp_path)
