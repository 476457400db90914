"""Write a trained head in a layout that other servers read.

    python -m ltd.export_draft --draft results/default/draft --target results/default/target \\
        --layout speculators --output exported

`published` is the layout of the first Eagle3 heads (SGLang and most loaders), `speculators` that of the
speculators project (vLLM), which holds the target's embedding as well: its loader takes what memory holds for
a missing one. The weights are the same.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from ltd.draft_head.checkpoint import EMBEDDING, OUTPUT, read_checkpoint, write_checkpoint, write_speculators
from ltd.engine.model_loading import read_config
from ltd.errors import InputError
from ltd.hub import local_folder
from ltd.options import DTYPES, option, parse_options


@dataclass(frozen=True, kw_only=True)
class ExportDraftOptions:
    """Options of the command."""

    draft: str = option(help="the head: a folder or hub id")
    target: str = option(help="the target it was trained for: a folder or hub id")
    output: Path = option(help="folder to write")
    dtype: str = option("auto", "number type to write; auto: the head's own", choices=DTYPES)
    layout: str = option("published", "which files to write", choices=("published", "speculators"))
    name: str | None = option(None, "hub id of the target as servers shall know it; none: as in --target")
    speculative_tokens: int = option(3, "tokens that a server drafts unless told otherwise (speculators)")


def export_draft(options: ExportDraftOptions) -> None:
    """Read and write; raises InputError for what cannot be read, or said in the layout."""
    if options.speculative_tokens < 1:
        raise InputError(f"speculative_tokens: {options.speculative_tokens} is not at least 1")
    target = read_config(options.target)
    text = target.get_text_config()
    config, tensors = read_checkpoint(local_folder(options.draft), text.num_hidden_layers)
    if "d2t" in tensors and "t2d" not in tensors:
        ids = tensors["d2t"] + torch.arange(config.draft_vocab_size)
        tensors["t2d"] = torch.zeros(config.vocab_size, dtype=torch.bool).index_fill(0, ids, True)
    if OUTPUT not in tensors:  # the target's own, which a loader without the target cannot know
        if config.draft_vocab_size != config.vocab_size:
            raise InputError(f"{options.draft}: {OUTPUT} is missing; its vocabulary is not the target's")
        tensors[OUTPUT] = target_weight(options.target, EMBEDDING if text.tie_word_embeddings else OUTPUT)
    if options.layout == "speculators" and EMBEDDING not in tensors:
        tensors[EMBEDDING] = target_weight(options.target, EMBEDDING)
    dtype = tensors["fc.weight"].dtype
    if options.dtype != "auto":
        dtype = getattr(torch, options.dtype)
        tensors = {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}
    if options.layout == "published":
        if not config.plain:
            raise InputError(
                "layout: this head has norms that the published layout has no words for; use speculators"
            )
        write_checkpoint(options.output, config, tensors, dtype)
        return
    write_speculators(
        options.output,
        config,
        tensors,
        dtype,
        verifier=options.name or options.target,
        architectures=tuple(target.architectures or ()),
        speculative_tokens=options.speculative_tokens,
    )


def target_weight(name: str, weight: str) -> Tensor:
    """Input embedding or output head [vocab_size, hidden_size] of a target, from its files without the rest
    of the model.
    """
    folder = local_folder(name)
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 (no mapping)
                if key.endswith(weight):
                    return tensors.get_tensor(key)
    for file in sorted(folder.glob("pytorch_model*.bin")):
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        for key, tensor in tensors.items():
            if key.endswith(weight):
                return tensor
    raise InputError(f"{name}: no {weight} in its weights; use the folder of a whole model")


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the options and export; wrong input is one line and exit status 2."""
    options = parse_options(ExportDraftOptions, __doc__, argv)
    try:
        export_draft(options)
    except InputError as error:
        print(f"export_draft: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{options.layout} layout: {options.output}")


if __name__ == "__main__":
    main()
