"""Target and drafter from their folders, with the target's feature taps set as the head was trained for."""

from pathlib import Path

from ltd.draft_head.eagle3 import load_head
from ltd.engine.drafting import Drafter
from ltd.engine.target import TargetModel


def load_engine(
    target: str | Path, draft: Path, *, beam: int, max_depth: int, device: str = "auto"
) -> tuple[TargetModel, Drafter]:
    """Load both; raises InputError when either is missing, damaged or does not fit the other."""
    model = TargetModel.load(target, device=device)
    head = load_head(draft, model)
    if head.config.tap_layers != model.tap_layers:
        model = TargetModel(model.model, model.tokenizer, tap_layers=head.config.tap_layers)
    return model, Drafter(head, beam=beam, max_depth=max_depth, max_context=model.max_context)
