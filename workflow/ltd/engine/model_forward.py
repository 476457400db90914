"""Prefill, single steps and tree passes through a transformers model's own forward, for any architecture.

Slower than the lean forward, but it asks little of the model: a cache, position ids and a 4D attention
mask, which the constructor checks by comparing a small tree with the chains it stands for.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from ltd.bfloat16 import computes_in
from ltd.errors import InputError


class ModelForward:
    """Same interface as `LeanForward`; the cache is transformers' own."""

    def __init__(self, model: nn.Module, tap_layers: Sequence[int]) -> None:
        self.model, self.tap_layers = model, tuple(tap_layers)
        self.device, self.dtype = model.device, model.dtype
        self.last_position = model.config.get_text_config().max_position_embeddings - 1
        attention = model.config._attn_implementation
        if attention not in ("eager", "sdpa"):
            raise InputError(
                f"target: attention {attention!r} takes no masks of trees; load the model with "
                'attn_implementation="sdpa"'
            )
        self.additive_mask = attention == "eager"
        self.reset()
        self._check()
        self.reset()

    packed_layers = 0

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        return self._length

    def reset(self) -> None:
        """Start an empty sequence."""
        # Without the configuration: with it, layers that have a window drop their oldest tokens for the rows
        # of a tree that reaches past it, of which most are cut off again.
        self.cache, self._length = DynamicCache(), 0

    def append(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Add tokens [R] to the sequence; logits [vocab] of the last one and taps [R, 3 * H]."""
        positions = torch.arange(self._length, self._length + len(tokens), device=self.device)
        attends = torch.ones(len(tokens), len(tokens), dtype=torch.bool, device=self.device).tril()
        logits, taps = self._run(tokens, positions, attends, last_only=True)
        self._length += len(tokens)
        return logits[0], taps

    def verify(self, tokens: Tensor, depths: Tensor, ancestors: Tensor) -> tuple[Tensor, Tensor]:
        """Pass over a tree; see `LeanForward.verify`."""
        # Nodes beyond the last position the model knows are never emitted; any position will do for them.
        positions = (depths + self._length).clamp_(max=self.last_position)
        return self._run(tokens, positions, ancestors, last_only=False)

    def keep(self, rows: Tensor, tree_rows: int) -> None:
        """Make rows [m] of the last verified tree part of the sequence and drop the others."""
        begin, end = self._length, self._length + len(rows)
        for layer in self.cache.layers:
            kept = (rows + begin).to(layer.keys.device)  # a model spread over GPUs has its cache spread, too
            for name in ("keys", "values"):
                cached = getattr(layer, name)
                cached[:, :, begin:end] = cached.index_select(2, kept)
                setattr(layer, name, cached[:, :, :end])
        self._length = end

    def _run(
        self, tokens: Tensor, positions: Tensor, attends: Tensor, last_only: bool
    ) -> tuple[Tensor, Tensor]:
        prefix = torch.ones(len(tokens), self._length, dtype=torch.bool, device=self.device)
        mask = torch.cat([prefix, attends], dim=1)[None, None]
        if self.additive_mask:
            lowest = torch.finfo(self.dtype).min
            mask = torch.where(mask, 0.0, lowest).to(self.dtype)
        output = self.model(
            input_ids=tokens[None],
            position_ids=positions[None],
            attention_mask=mask,
            past_key_values=self.cache,
            use_cache=True,
            output_hidden_states=list(self.tap_layers),
            logits_to_keep=1 if last_only else 0,
        )
        taps = [output.hidden_states[index][0] for index in self.tap_layers]
        return output.logits[0], torch.cat(taps, dim=-1)

    def _check(self) -> None:
        """Refuse a model whose forward ignores the mask or the positions, which would decode wrongly."""
        chains = torch.tensor([[1, 2], [1, 3]], device=self.device)
        expected = []
        for chain in chains:
            self.reset()
            expected += [self.append(token[None])[0] for token in chain]
        self.reset()
        ancestors = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 1]], device=self.device).bool()
        tokens, depths = (
            torch.tensor([1, 2, 3], device=self.device),
            torch.tensor([0, 1, 1], device=self.device),
        )
        logits = self.verify(tokens, depths, ancestors)[0]
        wanted = torch.stack([expected[0], expected[1], expected[3]])
        tolerance = 1e-3 if computes_in(self.model) == torch.float32 else 5e-2
        if (logits - wanted).abs().max() > tolerance * wanted.abs().max().clamp(min=1.0):
            kind = self.model.config.model_type
            raise InputError(
                f"target: the forward of {kind!r} models ignores a 4D attention mask or position ids, which "
                "tree verification needs; use a Llama, Mistral, Qwen2 or Qwen3 model"
            )
