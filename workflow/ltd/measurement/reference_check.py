"""An independent check of the benchmark's greedy answers: plain transformers, float32, no packing, no cache.

Floating-point sums in another order may pick the other token where two are almost equally likely. Such
near-ties are counted; a disagreement where the reference is sure would be an error of the engine. In bfloat16
(`ltd.bfloat16`) the engine computes a coarser model than the reference; disagreements say how much coarser.
"""

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from ltd.engine.model_loading import load_model
from ltd.errors import InputError
from ltd.methods import BASELINE
from ltd.texts.responses import Sequence

# Logits closer than this are a near-tie: float32 rounding of a forward pass moves logits by up to about 1e-3.
NEAR_TIE = 1e-2


@torch.inference_mode()
def compare_with_transformers(
    target: str | Path, runs: pd.DataFrame, prompts: list[Sequence], device: torch.device
) -> dict[str, Any] | None:
    """Feed prompt and answer of the autoregressive runs to the plain model and compare token by token.

    Returns counts over all answer tokens: `tokens`; `near_ties`, positions where the two largest logits
    differ by less than NEAR_TIE; `disagreements` with the largest logit; `largest_margin`, by how much the
    reference preferred its own token at the worst of these. None for sampled answers, which have no single
    right token, and where a float32 copy of the target finds no room beside it.
    """
    if (runs["temperature"] > 0).any():
        return None
    try:
        model = load_model(target, device=device.type, dtype="float32")
    except InputError as error:
        tqdm.write(f"no comparison with transformers: {error}")
        return None
    baseline = runs[(runs["method"] == BASELINE) & (runs["repeat"] == 0)]
    answers = {(row.task, row.prompt, row.turn): row.token_ids for row in baseline.itertuples()}
    margins, gaps = [], []
    for prompt in tqdm(prompts, desc="comparing with transformers", unit="prompt"):
        answer = torch.tensor(list(answers[prompt.task, str(prompt.question_id), prompt.turn]))
        tokens = torch.cat([prompt.tokens[: prompt.prompt_length], answer]).to(device)
        logits = model(input_ids=tokens[None, :-1], logits_to_keep=len(answer)).logits[0]
        best = logits.topk(2, dim=-1).values
        chosen = logits.gather(1, answer.to(device)[:, None])[:, 0]
        gaps.append((best[:, 0] - best[:, 1]).cpu())
        margins.append((best[:, 0] - chosen).cpu())
    margin, gap = torch.cat(margins), torch.cat(gaps)
    return {
        "tokens": len(margin),
        "near_ties": int((gap < NEAR_TIE).sum()),
        "disagreements": int((margin > 0).sum()),
        "largest_margin": float(margin.max()),
        "near_tie_margin": NEAR_TIE,
    }
