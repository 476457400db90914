"""Target and drafter from their folders, with the target's feature taps set as the head was trained for."""

from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from ltd.bfloat16 import in_bfloat16, to_bfloat16
from ltd.draft_head.eagle3 import Eagle3Config, Eagle3Head, load_head, text_config
from ltd.draft_head.head_config import PUBLISHED_DRAFT_VOCABULARY, shape_of_head, target_like
from ltd.engine.bucketed_drafting import BucketedDrafter
from ltd.engine.context_limits import longest_context
from ltd.engine.controllers import Controller, largest_size
from ltd.engine.drafting import Drafter
from ltd.engine.model_loading import half_values, read_config
from ltd.engine.target import DEFAULT_CONTEXT, DEFAULT_TREE, TargetModel
from ltd.errors import InputError
from ltd.files import read_json
from ltd.hub import local_folder


def load_engine(
    target: str | Path, draft: str | Path | None, *, beam: int, max_depth: int, **settings: Any
) -> tuple[TargetModel, Drafter]:
    """Load a target and the drafter of trees with its head; `settings` and errors as of `load_models`."""
    model, head = load_models(target, draft, **settings)
    return model, make_drafter(head, beam=beam, max_depth=max_depth, max_context=model.max_context)


def load_models(
    target: str | Path,
    draft: str | Path | None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantisation: str = "none",
    weights: str = "checkpoint",
    max_context: int | None = None,
    max_tree: int = DEFAULT_TREE,
) -> tuple[TargetModel, Eagle3Head]:
    """Load both for trees of `max_tree` nodes and sequences of `max_context` tokens: the model's positions
    limit them, and where it is None, for the default, its window does, too.

    `weights` random: both from their configurations alone, the head a layer like the target's own where no
    `draft` is given. Raises InputError when either is missing, damaged or does not fit the other, when
    the memory is too small, or for a context without a token.
    """
    if max_context is None:
        max_context = within_limits(read_config(target), DEFAULT_CONTEXT, max_tree)
    elif max_context < 1:
        raise InputError(f"max_context: {max_context} is not at least 1")
    folder = local_folder(draft) if draft is not None else None
    model = TargetModel.load(
        target,
        device=device,
        dtype=dtype,
        quantisation=quantisation,
        weights=weights,
        max_context=max_context,
        max_tree=max_tree,
        draft_vocab_size=_draft_vocab_size(folder),
    )
    if weights == "random":
        config = text_config(model.model)
        layers = config.num_hidden_layers
        head = random_head(model, target_like(config) if folder is None else shape_of_head(folder, layers))
    elif folder is None:
        raise InputError("draft: none given; name the folder or hub id of an Eagle3 head")
    else:
        head = load_head(folder, model)
    return tapped_for(head, model), head


def within_limits(config: PretrainedConfig, tokens: int, max_tree: int) -> int:
    """So many tokens, or as many as a model can hold beside trees of `max_tree` nodes; at least 1, for the
    target to refuse where it has no room.
    """
    longest = longest_context(config.get_text_config().to_dict(), max_tree)
    return tokens if longest is None else max(1, min(tokens, longest))


def room_for_trees(controller: Controller) -> int:
    """Nodes of the largest tree that a target holds by default, or that a controller asks for."""
    return max(DEFAULT_TREE, largest_size(controller) or 0)


def tapped_for(head: Eagle3Head, target: TargetModel) -> TargetModel:
    """The target with the feature taps that the head was trained for."""
    if head.config.tap_layers == target.tap_layers:
        return target
    return TargetModel(
        target.model,
        target.tokenizer,
        tap_layers=head.config.tap_layers,
        max_context=target.max_context,
        max_tree=target.max_tree,
    )


def make_drafter(head: Eagle3Head, *, beam: int, max_depth: int, max_context: int) -> Drafter:
    """The drafter that suits the head's device and number type."""
    kind, weight = Drafter, head.embed_tokens.weight
    if weight.device.type == "cuda":
        kind = BucketedDrafter
    elif weight.device.type == "cpu" and weight.dtype == torch.float32:
        from ltd.engine.compiled.drafting import CompiledDrafter  # a GPU needs no Numba

        kind = CompiledDrafter
    return kind(head, beam=beam, max_depth=max_depth, max_context=max_context)


def _draft_vocab_size(folder: Path | None) -> int:
    if folder is None:
        return PUBLISHED_DRAFT_VOCABULARY
    return read_json(folder / "config.json").get("draft_vocab_size") or PUBLISHED_DRAFT_VOCABULARY


@torch.no_grad()
def random_head(target: TargetModel, shape: Eagle3Config) -> Eagle3Head:
    """A head with random weights, on the target's device and in its number type."""
    embedding = target.model.get_input_embeddings().weight
    with embedding.device:
        head = Eagle3Head(shape, embedding).to(embedding)
    head = half_values(head)
    return to_bfloat16(head) if in_bfloat16(target.model) else head
