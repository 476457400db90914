"""The Eagle3 draft head: one decoder layer over fused target features and token embeddings.

Row j of the head sees the target's features of position j together with the token at j + 1 and predicts the
token at j + 2; its rotary position is j. In drafting, the head's own output stands in for the target's
features that do not exist yet (EAGLE-3, arXiv 2503.01840, section 3).
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ltd.bfloat16 import in_bfloat16, to_bfloat16
from ltd.draft_head.checkpoint import EMBEDDING, OUTPUT, read_checkpoint, write_checkpoint
from ltd.draft_head.head_config import Eagle3Config
from ltd.errors import InputError

__all__ = [
    "Eagle3Config",
    "Eagle3Head",
    "load_head",
    "rotary",
    "rotary_of",
    "save_head",
    "text_config",
]

KeyValue = tuple[Tensor, Tensor]


def rotary(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the rotary embedding, float32 [..., head_dim], for integer positions [...]."""
    exponents = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim
    angles = positions[..., None].float() * theta**-exponents
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotary_of(config: Eagle3Config, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine [..., head_dim] of this head's rotary embedding, its scaling applied."""
    if config.rope_scaling is None:
        return rotary(positions, config.head_dim, config.rope_theta)
    scaled = LlamaConfig(
        hidden_size=config.hidden_size,
        num_attention_heads=config.num_attention_heads,
        head_dim=config.head_dim,
        max_position_embeddings=config.max_position_embeddings,
        rope_parameters={"rope_theta": config.rope_theta, **config.rope_scaling},
    )
    frequencies, factor = ROPE_INIT_FUNCTIONS[config.rope_scaling["rope_type"]](scaled, positions.device)
    angles = positions[..., None].float() * frequencies
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos() * factor, angles.sin() * factor


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply the rotary embedding to [B, heads, S, head_dim] with cos, sin [B, S, head_dim]."""
    first, second = states.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return states * cos[:, None].to(states.dtype) + turned * sin[:, None].to(states.dtype)


def grouped_attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Attention [B, nh, S, hd] of queries [B, nh, S, hd] over keys and values [B, nkv, K, hd], mask bool
    [B, 1, S, K].
    """
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, enable_gqa=True)


def folded_grouped_attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """The same, with the query heads that share a key head as rows of one.

    With a mask, torch's fused kernels for a GPU know no shared heads: keys and values would be repeated.
    """
    groups = queries.shape[1] // keys.shape[1]
    folded = queries.unflatten(1, (-1, groups)).flatten(2, 3)
    mask = mask[:, :, None].expand(-1, -1, groups, -1, -1).flatten(2, 3)
    attended = F.scaled_dot_product_attention(folded, keys, values, attn_mask=mask)
    return attended.unflatten(2, (groups, -1)).flatten(1, 2)


class RMSNorm(nn.Module):
    """Root-mean-square norm, computed in float32 or better and scaled after the cast back, as Llama does."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, states: Tensor) -> Tensor:
        wide = states if states.dtype == torch.float64 else states.float()
        return F.rms_norm(wide, wide.shape[-1:], eps=self.eps).to(states.dtype) * self.weight


class DraftAttention(nn.Module):
    """Projections of grouped-query attention; queries, keys and values read embedding and feature."""

    def __init__(self, config: Eagle3Config) -> None:
        super().__init__()
        wide = config.num_attention_heads * config.head_dim
        narrow = config.num_key_value_heads * config.head_dim
        self.head_dim = config.head_dim
        self.q_proj = nn.Linear(2 * config.hidden_size, wide, bias=False)
        self.k_proj = nn.Linear(2 * config.hidden_size, narrow, bias=False)
        self.v_proj = nn.Linear(2 * config.hidden_size, narrow, bias=False)
        self.o_proj = nn.Linear(wide, config.hidden_size, bias=False)

    def split_heads(self, states: Tensor) -> Tensor:
        """[B, S, heads * head_dim] -> [B, heads, S, head_dim]."""
        return states.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class DraftMLP(nn.Module):
    """SwiGLU feed-forward block."""

    def __init__(self, config: Eagle3Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(states)) * self.up_proj(states))


class DraftLayer(nn.Module):
    """The single decoder layer, in two parts: callers may bring their own attention between them."""

    def __init__(self, config: Eagle3Config) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.hidden_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = DraftAttention(config)
        self.mlp = DraftMLP(config)
        self.norm_before_residual = config.norm_before_residual

    def project(
        self, embeddings: Tensor, features: Tensor, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries [B, nh, S, hd], rotated keys and values [B, nkv, S, hd] of rows [B, S, H]."""
        attention = self.self_attn
        rows = torch.cat([self.input_layernorm(embeddings), self.hidden_norm(features)], dim=-1)
        queries = rotate(attention.split_heads(attention.q_proj(rows)), cos, sin)
        keys = rotate(attention.split_heads(attention.k_proj(rows)), cos, sin)
        return queries, keys, attention.split_heads(attention.v_proj(rows))

    def finish(self, features: Tensor, attended: Tensor) -> Tensor:
        """Residual stream [B, S, H] after attention output [B, nh, S, hd]; the residual is the un-normalised
        feature unless the head was trained otherwise.
        """
        features = self.hidden_norm(features) if self.norm_before_residual else features
        hidden = features + self.self_attn.o_proj(attended.transpose(1, 2).flatten(-2))
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


class Eagle3Head(nn.Module):
    """Draft head over some of the target's tokens; parameter names are the published ones.

    `embedding` [vocab_size, hidden_size] is the target's, shared and frozen, and then no part of the
    checkpoint, or the head's own.
    """

    def __init__(self, config: Eagle3Config, embedding: Tensor, own_embedding: bool = False) -> None:
        super().__init__()
        self.config, self.own_embedding = config, own_embedding
        self.fc = nn.Linear(3 * config.target_hidden_size, config.hidden_size, bias=False)
        if config.feature_norm == "together":
            self.input_norm = RMSNorm(3 * config.target_hidden_size, config.rms_norm_eps)
        elif config.feature_norm == "each":
            norms = (RMSNorm(config.target_hidden_size, config.rms_norm_eps) for _ in range(3))
            self.fc_norm = nn.ModuleList(norms)
        self.midlayer = DraftLayer(config)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.draft_vocab_size, bias=False)
        self.embed_tokens = nn.Embedding.from_pretrained(embedding.detach(), freeze=True)
        self.register_buffer("d2t", torch.zeros(config.draft_vocab_size, dtype=torch.int64))
        self.register_buffer("t2d", torch.zeros(config.vocab_size, dtype=torch.bool))
        self.set_draft_vocabulary(torch.arange(config.draft_vocab_size))

    def set_draft_vocabulary(self, ids: Tensor) -> None:
        """Draft id i stands for target id ids[i]; ids [draft_vocab_size] ascending."""
        ids = ids.to(self.d2t)
        self.d2t.copy_(ids - torch.arange(len(ids), device=ids.device))
        self.t2d.zero_()[ids] = True

    def fuse(self, taps: Tensor) -> Tensor:
        """Features [..., H] of the concatenated target taps [..., 3 * Ht], ordered low, middle, high."""
        if self.config.feature_norm == "together":
            taps = self.input_norm(taps)
        elif self.config.feature_norm == "each":
            parts = zip(self.fc_norm, taps.chunk(3, dim=-1), strict=True)
            taps = torch.cat([norm(part) for norm, part in parts], dim=-1)
        return self.fc(taps)

    def forward(
        self, features: Tensor, tokens: Tensor, positions: Tensor, mask: Tensor, past: KeyValue | None = None
    ) -> tuple[Tensor, KeyValue]:
        """One pass over new rows.

        features [B, S, H]; tokens, positions [B, S]; mask bool [B, 1, S, P + S], True where a row attends;
        past keys and values [B, nkv, P, hd]. Returns the next step's feature [B, S, H] (the residual stream
        before the final norm; after it if the head was trained so) and the keys and values [B, nkv, S, hd]
        of the new rows.
        """
        cos, sin = rotary_of(self.config, positions)
        queries, keys, values = self.midlayer.project(self.embed_tokens(tokens), features, cos, sin)
        all_keys, all_values = keys, values
        if past is not None:
            all_keys, all_values = torch.cat([past[0], keys], dim=2), torch.cat([past[1], values], dim=2)
        attend = folded_grouped_attention if mask.is_cuda else grouped_attention
        attended = attend(queries, all_keys, all_values, mask)
        hidden = self.midlayer.finish(features, attended)
        return self.norm(hidden) if self.config.norm_output else hidden, (keys, values)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores [..., draft_vocab_size] of the next token after rows with `forward`'s result [..., H]."""
        return self.lm_head(hidden if self.config.norm_output else self.norm(hidden))

    def to_target(self, draft_ids: Tensor) -> Tensor:
        """Target token ids of draft ids of any shape; `d2t` holds offsets."""
        return draft_ids + self.d2t[draft_ids]


def text_config(target: nn.Module):
    """Configuration of the language model `target`, or of the one it has as `.model`."""
    return getattr(target, "model", target).config.get_text_config()


def load_head(path: Path, target) -> Eagle3Head:
    """Load the head in folder `path` for `target`, on the device and in the number type of the target.

    `target` is a transformers causal language model or an object with one as `.model`. A missing embedding is
    the target's, a missing output head too where the vocabularies coincide. Raises InputError (see
    `read_checkpoint`), also when the head was made for a target of another width or vocabulary.
    """
    inner, target_config = getattr(target, "model", target), text_config(target)
    config, tensors = read_checkpoint(path, target_config.num_hidden_layers)
    _check_fit(config, tensors, target_config, path)
    shared = inner.get_input_embeddings().weight
    embedding = tensors.pop(EMBEDDING, shared).to(shared)
    own = embedding.shape != shared.shape or not torch.equal(embedding, shared)
    embedding = embedding if own else shared
    if OUTPUT not in tensors:
        tensors[OUTPUT] = _target_output(target, config, path)
    head = Eagle3Head(config, embedding, own).to(device=shared.device, dtype=shared.dtype)
    offsets = tensors.pop("d2t", torch.zeros(config.draft_vocab_size, dtype=torch.int64))
    tensors.pop("t2d", None)  # follows from d2t; some files leave it out
    head.set_draft_vocabulary(offsets.to(torch.int64) + torch.arange(config.draft_vocab_size))
    head.load_state_dict(tensors, strict=False)
    head = head.eval()
    return to_bfloat16(head) if in_bfloat16(inner) else head


def _check_fit(config: Eagle3Config, tensors: dict[str, Tensor], target_config, path: Path) -> None:
    if config.target_hidden_size != target_config.hidden_size:
        raise InputError(
            f"{path}: the head reads features of width {config.target_hidden_size}, the target has "
            f"{target_config.hidden_size}; use a head trained for this target"
        )
    if config.vocab_size != target_config.vocab_size:
        raise InputError(
            f"{path}: the head was made for a vocabulary of {config.vocab_size} tokens, the target has "
            f"{target_config.vocab_size}; use a head trained for this target"
        )
    if config.hidden_size != config.target_hidden_size and EMBEDDING not in tensors:
        raise InputError(
            f"{path}: {EMBEDDING} is missing and the target's width differs; the file must bring its own"
        )
    if "d2t" not in tensors and config.draft_vocab_size != config.vocab_size:
        raise InputError(f"{path}: d2t is missing and the draft vocabulary is smaller than the target's")
    if "d2t" in tensors:
        ids = tensors["d2t"] + torch.arange(config.draft_vocab_size)
        if ids.min() < 0 or ids.max() >= config.vocab_size or (ids.diff() <= 0).any():
            raise InputError(
                f"{path}: d2t does not map to ascending token ids of the target; expected offsets"
            )


def _target_output(target, config: Eagle3Config, path: Path) -> Tensor:
    module = getattr(target, "get_output_embeddings", None) or target.model.get_output_embeddings
    weight = module().weight
    if tuple(weight.shape) != (config.draft_vocab_size, config.hidden_size):
        raise InputError(f"{path}: {OUTPUT} is missing and the target's does not fit the draft vocabulary")
    return weight.detach()


def save_head(head: Eagle3Head, path: Path, dtype: torch.dtype | None = None) -> None:
    """Write the head to folder `path` in the published layout, its weights rounded to `dtype` (None: as is).

    The target's embedding is left out; one of the head's own is not.
    """
    dtype = dtype or head.fc.weight.dtype
    write_checkpoint(Path(path), head.config, saved_tensors(head, dtype), dtype)


def saved_tensors(head: Eagle3Head, dtype: torch.dtype) -> dict[str, Tensor]:
    """What a checkpoint holds, on the CPU, its weights rounded to `dtype`."""
    tensors = {name: tensor.detach().cpu() for name, tensor in head.state_dict().items()}
    if not head.own_embedding:
        del tensors[EMBEDDING]
    return {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}
