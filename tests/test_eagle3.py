"""The draft head: its forward pass against a row-by-row reference, its vocabulary and its taps."""

import math

import pytest
import torch

from ltd.draft_head.eagle3 import folded_grouped_attention, grouped_attention, rotary
from ltd.draft_head.head_config import default_tap_layers
from ltd.errors import InputError
from small_head import CONFIG, DRAFT_VOCAB, VOCAB, WIDTH, causal, made_head, made_target


@pytest.fixture(scope="module")
def target():
    return made_target()


@pytest.fixture
def head(target):
    return made_head(target)


def naive_rows(head, features, tokens):
    """The layer written once more, one row and one attention head at a time, with rotary pairs as complex
    numbers.
    """
    c, layer = head.config, head.midlayer

    def norm(x, module):
        return x / torch.sqrt(x.pow(2).mean() + c.rms_norm_eps) * module.weight

    def turn(x, position):
        half = c.head_dim // 2
        frequencies = torch.tensor(
            [c.rope_theta ** (-2 * i / c.head_dim) for i in range(half)], dtype=x.dtype
        )
        pairs = torch.complex(x[:half], x[half:]) * torch.exp(1j * position * frequencies)
        return torch.cat([pairs.real, pairs.imag])

    keys, values, outputs = [], [], []
    for j, (feature, token) in enumerate(zip(features, tokens, strict=True)):
        embedding = head.embed_tokens.weight[token]
        x = torch.cat([norm(embedding, layer.input_layernorm), norm(feature, layer.hidden_norm)])
        attention = layer.self_attn
        keys.append([turn(k, j) for k in (attention.k_proj.weight @ x).split(c.head_dim)])
        values.append((attention.v_proj.weight @ x).split(c.head_dim))
        mixed = []
        for i, query in enumerate((attention.q_proj.weight @ x).split(c.head_dim)):
            group = i // (c.num_attention_heads // c.num_key_value_heads)
            scores = torch.stack([turn(query, j) @ k[group] for k in keys]) / math.sqrt(c.head_dim)
            mixed.append(sum(w * v[group] for w, v in zip(scores.softmax(0), values, strict=True)))
        h = feature + attention.o_proj.weight @ torch.cat(mixed)
        y = norm(h, layer.post_attention_layernorm)
        gate = layer.mlp.gate_proj.weight @ y
        outputs.append(
            h + layer.mlp.down_proj.weight @ (gate * gate.sigmoid() * (layer.mlp.up_proj.weight @ y))
        )
    return torch.stack(outputs)


def test_forward_equals_a_row_by_row_reference(head):
    head = head.double()
    features, tokens = torch.randn(6, WIDTH, dtype=torch.float64), torch.randint(VOCAB, (6,))
    hidden, _ = head(features[None], tokens[None], torch.arange(6)[None], causal(6))
    torch.testing.assert_close(hidden[0], naive_rows(head, features, tokens), rtol=0, atol=1e-6)


def test_forward_with_past_equals_one_pass(head):
    head = head.double()
    features, tokens = torch.randn(1, 6, WIDTH, dtype=torch.float64), torch.randint(VOCAB, (1, 6))
    whole, _ = head(features, tokens, torch.arange(6)[None], causal(6))
    _, past = head(features[:, :4], tokens[:, :4], torch.arange(4)[None], causal(4))
    rest, new = head(features[:, 4:], tokens[:, 4:], torch.arange(4, 6)[None], causal(6)[:, :, 4:], past)
    torch.testing.assert_close(rest, whole[:, 4:], rtol=0, atol=1e-12)
    assert new[0].shape == (1, CONFIG.num_key_value_heads, 2, CONFIG.head_dim)


def test_attention_with_folded_heads_is_attention():
    torch.manual_seed(0)
    queries, keys, values = (torch.randn(3, heads, rows, 8) for heads, rows in ((6, 4), (2, 9), (2, 9)))
    mask = (torch.rand(3, 1, 4, 9) < 0.5).index_fill(3, torch.tensor(0), True)
    expected = grouped_attention(queries, keys, values, mask)
    torch.testing.assert_close(folded_grouped_attention(queries, keys, values, mask), expected)


def test_rotary_depends_on_differences_only():
    cos, sin = rotary(torch.tensor([3, 7, 13, 17]), 8, 10000.0)
    angle = torch.atan2(sin, cos)
    difference = torch.stack([angle[1] - angle[0], angle[3] - angle[2]])
    torch.testing.assert_close(difference[0].cos(), difference[1].cos())


def test_draft_ids_are_offsets_into_the_target_vocabulary(head):
    ids = head.t2d.nonzero()[:, 0]
    assert torch.equal(head.to_target(torch.arange(DRAFT_VOCAB)), ids)
    assert torch.equal(head.d2t, ids - torch.arange(DRAFT_VOCAB))


@pytest.mark.parametrize("layers, taps", [(32, (2, 16, 29)), (12, (2, 6, 9)), (7, (2, 3, 4))])
def test_published_tap_layers(layers, taps):
    assert default_tap_layers(layers) == taps


@pytest.mark.parametrize("layers", [3, 4, 5, 6])
def test_small_targets_get_three_distinct_taps(layers):
    taps = default_tap_layers(layers)
    assert len(set(taps)) == 3 and list(taps) == sorted(taps) and max(taps) < layers
    with pytest.raises(InputError, match="at least 3"):
        default_tap_layers(2)
