"""The tiny target and head of `tiny_engine` as folders on disk, for stages that load them."""

import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from ltd.draft_head.eagle3 import save_head
from tiny_engine import END, VOCAB, tiny_head, tiny_target


def save_engine(folder):
    """Write `target/` and `draft/` under `folder` and return their paths."""
    target, draft = folder / "target", folder / "draft"
    engine = tiny_target()
    engine.model.generation_config.eos_token_id = END
    # Weights that half precision holds exactly, as the pipeline saves them.
    with torch.no_grad():
        for parameter in engine.model.parameters():
            parameter.copy_(parameter.half().float())
    engine.model.save_pretrained(target)
    words = Tokenizer(models.WordLevel({f"w{index}": index for index in range(VOCAB)}, unk_token="w1"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w0").save_pretrained(target)
    save_head(tiny_head(engine), draft)
    return target, draft
