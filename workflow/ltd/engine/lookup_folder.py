"""A look-up drafter on disk: the texts it learns from, its settings, and the static tree that suits it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ltd.engine.controllers import StaticController
from ltd.engine.lookup_drafting import LookupDrafter
from ltd.engine.ngrams import NgramCounts, NgramModel
from ltd.errors import InputError
from ltd.files import read_json, write_json

DESCRIPTION, TEXTS = "lookup.json", "texts.safetensors"


@dataclass(frozen=True)
class LookupSettings:
    """Everything but the texts; depth and size are the best static tree's."""

    vocab_size: int
    order: int
    context_weight: int
    beam: int
    max_depth: int
    depth: int
    size: int

    def drafter(self, texts: NgramCounts, device: torch.device | None = None) -> LookupDrafter:
        """A drafter with these settings."""
        model = NgramModel(self.vocab_size, order=self.order, context_weight=self.context_weight, texts=texts)
        return LookupDrafter(model, beam=self.beam, max_depth=self.max_depth, device=device)

    def controller(self) -> StaticController:
        """The best static tree."""
        return StaticController(self.depth, self.size)


def save_lookup(folder: Path, settings: LookupSettings, texts: Sequence[Sequence[int]]) -> None:
    """Write a folder; `texts` are token ids."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens = torch.tensor([token for text in texts for token in text], dtype=torch.int32)
    lengths = torch.tensor([len(text) for text in texts], dtype=torch.int64)
    save_file({"tokens": tokens, "lengths": lengths}, folder / TEXTS)
    write_json(folder / DESCRIPTION, asdict(settings))


def load_lookup(folder: str | Path) -> tuple[LookupSettings, NgramCounts]:
    """Read a folder; raises InputError when it is absent or damaged."""
    folder = Path(folder)
    try:
        settings = LookupSettings(**read_json(folder / DESCRIPTION))
        arrays = load_file(folder / TEXTS)
        texts = [text.tolist() for text in arrays["tokens"].split(arrays["lengths"].tolist())]
    except (TypeError, KeyError, FileNotFoundError, SafetensorError) as error:
        raise InputError(f"{folder}: not a look-up drafter ({error}); fit it again") from error
    return settings, NgramCounts.of_texts(texts, settings.order)
