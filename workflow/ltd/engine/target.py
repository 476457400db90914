"""The target model: any causal language model of transformers, ready to verify draft trees.

Loading chooses how it computes (compiled, lean, or the model's own forward) and refuses what
tree verification cannot do exactly. One `TargetModel` holds one sequence at a time.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from ltd.bfloat16 import computes_in
from ltd.draft_head.head_config import check_tap_layers, default_tap_layers
from ltd.engine.bucketed_forward import BucketedForward
from ltd.engine.context_limits import check_prompt, check_rotation, sliding_window
from ltd.engine.lean_forward import LeanForward, supports_lean
from ltd.engine.model_forward import ModelForward
from ltd.engine.model_loading import load_model, load_tokenizer, read_config
from ltd.errors import InputError

if TYPE_CHECKING:
    from ltd.engine.compiled.forward import CompiledForward

DEFAULT_CONTEXT = 1024
DEFAULT_TREE = 256


class TargetModel:
    """A loaded model with a cache for one sequence of at most `max_context` tokens and trees of `max_tree`
    nodes.

    Attributes: `model`, `tokenizer` (or None), `device`, `dtype` of its tensors, `number_type` of its
    products (see `ltd.bfloat16`), `hidden_size`, `vocab_size`, `tap_layers`, `max_context`, `max_tree`,
    `eos_ids`.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer=None,
        *,
        tap_layers: Sequence[int] | None = None,
        max_context: int = DEFAULT_CONTEXT,
        max_tree: int = DEFAULT_TREE,
        packed: bool = True,
        lean: bool = True,
        compiled: bool = True,
        bucketed: bool | None = None,
    ) -> None:
        """`packed` allows weights held in half precision on a CPU, `lean` the lean forward, `compiled`
        its compiled form on a CPU, `bucketed` passes of fixed shapes (None: on a GPU); tests compare both
        ways.

        Raises InputError for layer types, contexts or taps that cannot be served; `forward` does when first
        used, for a model that ignores masks.
        """
        config = model.config.get_text_config()
        layers = config.num_hidden_layers
        self.model, self.tokenizer = model.eval(), tokenizer
        self.device, self.dtype, self.number_type = model.device, model.dtype, computes_in(model)
        self.hidden_size, self.vocab_size = config.hidden_size, config.vocab_size
        self.tap_layers = tuple(tap_layers) if tap_layers is not None else default_tap_layers(layers)
        check_tap_layers(self.tap_layers, layers, "target")
        self.max_tree = max_tree
        self.max_context = min(max_context, _positions(config))
        self.eos_ids = _end_tokens(model)
        _check_layer_types(model, self.max_context)
        check_rotation(config.to_dict(), self.max_context, max_tree)
        self._packed = packed
        self._compiled = compiled and self.device.type == "cpu" and self.dtype == torch.float32
        self._lean = lean and supports_lean(model)
        self.bucketed = self.device.type == "cuda" if bucketed is None else bucketed

    @cached_property
    def forward(self) -> "LeanForward | BucketedForward | CompiledForward | ModelForward":
        """What computes steps and trees; made when first needed, because packing and compiling take a
        while.
        """
        with torch.inference_mode():
            if not self._lean:
                return ModelForward(self.model, self.tap_layers)
            sizes = {"max_context": self.max_context, "max_tree": self.max_tree}
            if self.bucketed:
                return BucketedForward(self.model, self.tap_layers, **sizes)
            if self.is_compiled:
                from ltd.engine.compiled.forward import CompiledForward  # a GPU needs no Numba

                return CompiledForward(self.model, self.tap_layers, **sizes, packed=self._packed)
            return LeanForward(self.model, self.tap_layers, **sizes)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: str = "auto",
        dtype: str | torch.dtype = "auto",
        quantisation: str = "none",
        weights: str = "checkpoint",
        tap_layers: Sequence[int] | None = None,
        max_context: int = DEFAULT_CONTEXT,
        max_tree: int = DEFAULT_TREE,
        draft_vocab_size: int = 0,
        packed: bool = True,
    ) -> "TargetModel":
        """Load a Hugging Face folder or hub id; `dtype` auto means the file's own, on a CPU float32 unless
        the file is in bfloat16 and the processor multiplies it; `weights` random needs the configuration
        alone, and has no tokenizer.

        Raises InputError when there is no such model, its weights are damaged, or it does not fit together
        with the cache and a head of `draft_vocab_size` tokens.
        """
        # From small to large: what may be wrong with the tokenizer shows before the weights are read.
        _positions(read_config(path).get_text_config())
        tokenizer = load_tokenizer(path) if weights == "checkpoint" else None
        model = load_model(
            path,
            device=device,
            dtype=dtype,
            quantisation=quantisation,
            weights=weights,
            context=max_context,
            tree=max_tree,
            draft_vocab_size=draft_vocab_size,
        )
        return cls(
            model, tokenizer, tap_layers=tap_layers, max_context=max_context, max_tree=max_tree, packed=packed
        )

    @property
    def is_compiled(self) -> bool:
        """Whether `forward` is the compiled one."""
        return self._lean and self._compiled and not self.bucketed

    @property
    def has_fixed_passes(self) -> bool:
        """Whether `forward` is the bucketed one."""
        return self._lean and self.bucketed

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        return self.forward.length

    @property
    def packed_layers(self) -> int:
        """How many linear layers are held in 16 bits for passes of float32 (on a CPU; else 0)."""
        return self.forward.packed_layers

    def new_cache(self) -> None:
        """Start an empty sequence."""
        self.forward.reset()

    @torch.inference_mode()
    def prefill(self, tokens: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
        """Start a sequence with tokens [n]: logits [vocab] after the last, taps [n, 3 * H].

        Raises InputError for an empty prompt or one that leaves no room in the cache.
        """
        tokens = self.token_tensor(tokens)
        self.check_prompt(len(tokens))
        self.forward.reset()
        return self.forward.append(tokens)

    @torch.inference_mode()
    def step(self, token: Tensor) -> tuple[Tensor, Tensor]:
        """Append one token [1]: logits [vocab] of the next, taps [1, 3 * H]."""
        return self.forward.append(token)

    @torch.inference_mode()
    def verify(self, tokens: Tensor, depths: Tensor, ancestors: Tensor) -> tuple[Tensor, Tensor]:
        """One pass over a tree of R rows: tokens [R], row 0 the root; depths [R]; ancestors bool [R, R],
        self included.

        Returns logits [R, vocab] and taps [R, 3 * H]; the sequence is unchanged until `keep`.
        """
        return self.forward.verify(tokens, depths, ancestors)

    @torch.inference_mode()
    def keep(self, rows: Tensor, tree_rows: int) -> None:
        """Make rows [m] (a path from the root) of the last verified tree, of `tree_rows` rows, part of the
        sequence.
        """
        self.forward.keep(rows, tree_rows)

    @torch.no_grad()
    def sequence_taps(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Teacher-forced pass over right-padded tokens [B, S]: taps [B, S, 3 * H].

        `lengths` [B] counts the real tokens of each row; what comes back for padding is meaningless. The
        cache is not touched.
        """
        mask = None
        if lengths is not None:
            mask = torch.arange(tokens.shape[1], device=self.device) < lengths.to(self.device)[:, None]
        output = self.model(
            input_ids=tokens.to(self.device),
            attention_mask=mask,
            use_cache=False,
            output_hidden_states=list(self.tap_layers),
            logits_to_keep=1,  # those of all tokens would be the largest thing in memory
        )
        return torch.cat([output.hidden_states[index] for index in self.tap_layers], dim=-1)

    def token_tensor(self, tokens: Sequence[int] | Tensor) -> Tensor:
        """Token ids [n] on the model's device; raises InputError for a batch of several sequences."""
        tokens = torch.as_tensor(tokens, dtype=torch.int64, device=self.device)
        if tokens.dim() == 2 and tokens.shape[0] == 1:
            tokens = tokens[0]
        if tokens.dim() != 1:
            raise InputError(
                f"prompt: batch size 1 is supported, found a batch of {tokens.shape[0]} sequences"
            )
        return tokens

    def check_tokens(self, prompt: Tensor) -> None:
        """Raise InputError unless a prompt [n] fits and its ids are in the vocabulary, where kernels do not
        look.
        """
        self.check_prompt(len(prompt))
        least, largest = prompt.aminmax()
        if least < 0 or largest >= self.vocab_size:
            raise InputError(
                f"prompt: token {int(least if least < 0 else largest)} is not among the model's "
                f"{self.vocab_size}; use the model's own tokenizer"
            )

    def check_prompt(self, count: int) -> None:
        """Raise InputError unless a prompt of `count` tokens leaves room for an answer."""
        if count == 0:
            raise InputError("prompt: no tokens; at least one is needed")
        if count > self.max_context:
            check_prompt(self.model.config.get_text_config().to_dict(), self.max_tree, count, "the target")
            raise InputError(
                f"prompt: {count} tokens do not fit a context of {self.max_context}; raise max_context or "
                "shorten the prompt"
            )


def _end_tokens(model: nn.Module) -> tuple[int, ...]:
    ids = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = ids if ids is not None else model.config.eos_token_id
    return tuple(ids) if isinstance(ids, list | tuple) else (() if ids is None else (ids,))


def _positions(config: PretrainedConfig) -> int:
    """How many positions a model knows; InputError where it has none (state spaces, ALiBi)."""
    if (positions := getattr(config, "max_position_embeddings", None)) is None:
        raise InputError(
            f"target: {config.model_type!r} models number no positions (max_position_embeddings), which "
            "trees give their nodes; use a Llama, Mistral, Qwen2 or Qwen3 model"
        )
    return positions


def _check_layer_types(model: nn.Module, max_context: int) -> None:
    """Refuse layers that do not attend to every earlier token, unless the context never reaches their
    window.
    """
    config = model.config.get_text_config()
    if getattr(model.config, "is_encoder_decoder", False):
        raise InputError(
            f"target: {config.model_type!r} is an encoder-decoder; a causal language model is needed"
        )
    window = sliding_window(config.to_dict())
    types = getattr(config, "layer_types", None) or (["sliding_attention"] if window else ["full_attention"])
    for kind in dict.fromkeys(types):
        if kind == "full_attention" or (kind == "sliding_attention" and not window):
            continue
        if kind != "sliding_attention":
            raise InputError(
                f"target: layer type {kind!r} keeps no key for every token; it cannot verify trees"
            )
        if max_context > window:
            raise InputError(
                f"target: layer type 'sliding_attention' sees {window} tokens, fewer than max_context "
                f"{max_context}; use max_context of at most {window}"
            )
