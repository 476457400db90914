"""The kernels of `ltd.engine.gpu` compute what the operations they stand for do.

On a GPU as they are, elsewhere through Triton's interpreter (`conftest` sees to that).
"""

import os

import pytest
import torch

from engine_models import check_same, margin, random_head, random_target
from ltd.engine import lean_layers, tree
from ltd.engine.bucketed_forward import padded_mask
from ltd.engine.draft_network import DraftNetwork
from ltd.engine.kv_cache import KeyValueCache
from ltd.engine.lean_forward import LeanNetwork

pytest.importorskip("triton", reason="needs Triton (pip install triton)")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

from ltd.engine.gpu import attention, drafting, network, products  # noqa: E402

DEVICE = "cpu" if INTERPRETED else "cuda"
NUMBER_TYPES = [torch.float32, torch.float16 if INTERPRETED else torch.bfloat16]
EPS = 1e-5
HEAD_TILED = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 128}
TILED = HEAD_TILED | {"hidden_size": 128}
HEADS = [(6, 2, 20), (4, 4, 16), (8, 1, 64)]  # query heads, key heads, size

of_both_types = pytest.mark.parametrize("dtype", NUMBER_TYPES, ids=str)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def randn(*shape, dtype=torch.float32, scale=1.0):
    return (scale * torch.randn(*shape, device=DEVICE)).to(dtype)


def check_close(ours, theirs):
    """Equal but for roundings, of which products on a GPU make larger ones in float32, too."""
    assert ours.shape == theirs.shape
    assert (ours.float() - theirs.float()).abs().max().item() <= max(2 * margin(theirs), 2e-4)


@of_both_types
@pytest.mark.parametrize("rows", [1, 5, 32])
def test_products(rows, dtype):
    given, matrix = randn(rows, 256, dtype=dtype), randn(192, 256, dtype=dtype, scale=0.1)
    bias, weight = randn(192, dtype=dtype), randn(256, dtype=dtype)
    check_close(products.product(given, matrix), given @ matrix.T)
    normalised = lean_layers.normalise(given, weight, EPS)
    weighted = products.weigh(given, lean_layers.RowNorm(weight, EPS))
    check_close(products.product(weighted, matrix, bias), normalised @ matrix.T + bias)
    check_close(products.product(weighted.last(), matrix), (normalised @ matrix.T)[-1:])


@of_both_types
@pytest.mark.parametrize("rows", [1, 5, 32])
def test_products_within_a_layer(rows, dtype):
    given, residual = randn(rows, 128, dtype=dtype), randn(rows, 256, dtype=dtype)
    matrix, weight = randn(256, 128, dtype=dtype, scale=0.1), randn(256, dtype=dtype)
    norm = lean_layers.RowNorm(weight, EPS)
    stream, weighted = products.product_and_add(given, matrix, residual, norm)
    expected, normalised = lean_layers.add_and_normalise(residual, given @ matrix.T, weight, EPS)
    check_close(stream, expected)
    gate_up = randn(384, 256, dtype=dtype, scale=0.1)
    inner = products.gated_product(weighted, gate_up)
    check_close(inner, lean_layers.gated(normalised @ gate_up.T))


@of_both_types
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(("heads", "kv_heads", "size"), HEADS)
def test_rotation(heads, kv_heads, size, normed, dtype):
    rows, both = 5, heads + 2 * kv_heads
    angles = randn(50, size // 2).repeat(1, 2)
    rotation = lean_layers.HeadRotation(angles.cos(), angles.sin(), heads, kv_heads)
    positions = torch.randint(50, (rows,), device=DEVICE)
    norm = randn(heads + kv_heads, size, dtype=dtype) if normed else None
    given = randn(rows, both, size, dtype=dtype)
    buffers = [torch.zeros(2 * kv_heads, 30, size, dtype=dtype, device=DEVICE) for _ in range(2)]
    slots = [buffer[:, 7 : 7 + rows] for buffer in buffers]
    ours = attention.rotate_and_store(given, rotation.table, positions, slots[0], norm, EPS)
    check_close(ours, lean_layers.rotate_and_store(given, rotation(positions), slots[1], norm, EPS))
    check_close(buffers[0], buffers[1])


@of_both_types
@pytest.mark.parametrize(
    ("rows", "extra", "length", "context"), [(1, 0, 13, 40), (17, 8, 0, 30), (8, 0, 200, 256)]
)
@pytest.mark.parametrize(("heads", "kv_heads", "size"), HEADS)
def test_attention(heads, kv_heads, size, rows, extra, length, context, dtype):
    """Rows see some of the slots before the prefix, `extra` of them of earlier levels, and the prefix."""
    own, groups = rows + extra, heads // kv_heads
    sees = torch.rand(rows, own + 3, device=DEVICE)[:, 3:] > 0.5
    sees[:, -1] = True
    cache = randn(2 * kv_heads, own + context + 9, size, dtype=dtype)
    # The kernel must not look behind the prefix, where a cache has what was there before.
    cache[:, 4 + own + length :] = float("nan")
    windows = [part[:, None].expand(-1, groups, -1, -1)[:, :, 4:] for part in cache.chunk(2)]
    queries = randn(heads, rows, size, dtype=dtype, scale=0.3)
    keys, values = (window[:, :, : own + context] for window in windows)
    seen_length = torch.tensor([length], device=DEVICE)
    ours = attention.tree_attention(queries, keys, values, sees, seen_length)
    mask = padded_mask(sees, seen_length, context, dtype)
    folded = queries.view(kv_heads, groups, rows, size)
    theirs = lean_layers.folded_attention(folded, keys.nan_to_num(), values.nan_to_num(), mask)
    check_close(ours, theirs.permute(2, 0, 1, 3).reshape(rows, -1))


@of_both_types
@pytest.mark.parametrize(("rows", "count"), [(1, 3000), (5, 700)])
def test_best_children(rows, count, dtype):
    """Of equal logits the first, and one that is far below zero, too."""
    logits = randn(rows, count, dtype=dtype, scale=4.0)
    logits[0] = -60.0
    logits[0, [count - 1, count // 2, 3]] = 9.0
    ids, parents = torch.arange(count, device=DEVICE) * 3, randn(rows)
    order = torch.sort(logits.float(), dim=-1, descending=True, stable=True)[1][:, :10]
    expected = tree.log_probabilities(logits.float(), order)
    scores, tokens = drafting.best_children(logits, 10, parents, ids)
    assert torch.equal(tokens.view(rows, 10), ids[order])
    assert torch.allclose(scores.view(rows, 10), expected + parents[:, None], atol=1e-4)
    alone = drafting.best_children(logits[-1:], 10, None, ids)
    assert torch.equal(alone[1], ids[order[-1]]) and torch.allclose(alone[0], expected[-1], atol=1e-4)


@of_both_types
@pytest.mark.parametrize("beam", [1, 2, 10])
def test_beams_advance_alike(beam, dtype):
    depth = 6
    tokens = torch.zeros(tree.pool_size(beam, depth), dtype=torch.int64, device=DEVICE)
    scores = torch.full((len(tokens),), float("-inf"), device=DEVICE)
    paths = tree.root_paths(beam, depth, torch.device(DEVICE))
    sees = torch.eye(beam, dtype=torch.bool, device=DEVICE).repeat(1, depth - 1)
    for level in range(1, depth):
        first = tree.pool_size(beam, level - 1)
        count = beam if level == 1 else beam * beam
        scores[first : first + count] = randn(count).round(decimals=1)  # some are equal
        tokens[first : first + count] = torch.randint(99, (count,), device=DEVICE)
        hidden = randn(1 if level == 1 else beam, 70, dtype=dtype)
        given = scores, tokens, hidden, paths, sees, level
        check_same(drafting.advance_beam, tree.advance_beam, given)
        tree.advance_beam(*given)


@pytest.fixture(scope="module")
def engines():
    """A target and a head that fall into tiles, in float32 (the passes do not ask), and their networks."""
    target = random_target("qwen3", vocab=128, max_context=60, max_tree=40, layers=5, **TILED)
    head = random_head(target, draft_vocab=64, **HEAD_TILED).to(DEVICE)
    target.model.to(DEVICE)
    positions = torch.arange(100, device=DEVICE)
    return LeanNetwork(target.model, target.tap_layers, positions), DraftNetwork(head, positions, beam=3)


def seen_cache(network, rows, own, context, layers):
    """Slots, keys and values of a cache with something in it, and what rows see of it."""
    first = network.layers[0] if layers > 1 else network.layer
    cache = KeyValueCache(
        layers,
        first.kv_heads,
        first.head_dim,
        capacity=context,
        scratch=own,
        groups=first.groups,
        device=DEVICE,
    )
    cache.buffer.copy_(torch.randn_like(cache.buffer))
    sees = torch.rand(rows, own, device=DEVICE) > 0.5
    sees[:, :rows] |= torch.eye(rows, dtype=torch.bool, device=DEVICE)
    return cache, cache.slots(0, rows), cache.window(0, own + context), sees


@pytest.mark.parametrize("rows", [1, 5, 33])
@torch.inference_mode()
def test_passes_of_a_target(engines, rows):
    net, context, length = engines[0], 20, torch.tensor([11], device=DEVICE)
    cache, slots, (keys, values), sees = seen_cache(net, rows, rows, context, layers=5)
    tokens = torch.randint(128, (rows,), device=DEVICE)
    positions = 11 + torch.arange(rows, device=DEVICE)
    before = cache.buffer.clone()
    ours = network.TargetPass(net)(tokens, positions, slots, keys, values, sees, length)
    stored = cache.buffer.clone()
    cache.buffer.copy_(before)
    mask = padded_mask(sees, length, context, torch.float32)
    theirs = net(tokens, positions, slots, keys, values, mask, False, False)
    for one, two in zip((*ours, stored), (*theirs, cache.buffer), strict=True):
        assert torch.allclose(one, two, atol=2e-3)


@pytest.mark.parametrize("taps", [True, False])
@torch.inference_mode()
def test_passes_of_a_head(engines, taps):
    """The prefix pass, whose last row has children, and a beam pass, whose rows all have."""
    net, rows, context, length = engines[1], 3, 20, torch.tensor([11], device=DEVICE)
    _, slots, (keys, values), sees = seen_cache(net, rows, 6, context, layers=1)
    features = randn(rows, 3 * 128 if taps else 128)
    given = features, taps, torch.randint(128, (rows,), device=DEVICE), 11 + torch.arange(rows, device=DEVICE)
    parents = None if taps else randn(rows)
    ours = network.DraftPass(net)(*given, slots, keys, values, sees, length, parents)
    mask = padded_mask(sees, length, context, torch.float32)
    theirs = net(*given, slots, keys, values, mask, False, parents)
    for one, two in zip(ours, theirs, strict=True):
        assert one.shape == two.shape and torch.allclose(one.float(), two.float(), atol=2e-3)


@of_both_types
def test_matrices_that_do_not_fall_into_tiles_are_left_to_the_library(dtype):
    for shape, parts, fits in (((128, 256), 1, True), ((128, 256), 2, True), ((64, 128), 2, False)):
        assert products.suits(torch.empty(shape, dtype=dtype), parts) == fits
    assert not products.suits(torch.empty(100, 128, dtype=dtype))
    assert not products.suits(torch.empty(128, 100, dtype=dtype))
    assert torch.bfloat16 == network.NUMBER_TYPE
