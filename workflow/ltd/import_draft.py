"""Take a published Eagle3 head into an experiment: one layout, one rotary base, checked against the target.

Some trainers never passed the configured rotary base on, so the base in config.json may not be the one that
the weights were trained with, and nothing in the files tells (AngelSlim's Qwen3 heads among them). Where it
is not 10000, both are tried on a few of the target's own answers, and the one whose drafts the target follows
further is kept; import.json beside the head says how far each went.
"""

from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ltd.draft_head.eagle3 import Eagle3Head, load_head, save_head
from ltd.draft_head.head_config import DEFAULT_ROPE_THETA
from ltd.engine.loading import tapped_for
from ltd.engine.target import TargetModel
from ltd.errors import InputError
from ltd.files import atomic_path, write_json
from ltd.hub import local_folder
from ltd.options import ModelOptions, StageOptions, option, run_stage
from ltd.replay.batched_drafting import draft_trees, run_true_rows, true_nodes
from ltd.texts.responses import Responses, Sequence
from ltd.tracking import StageRun

PROBE_BEAM, PROBE_DEPTH = 4, 6
LARGEST_PROBE = 2048  # last tokens of prompt and answer that are probed on
CHUNK = 64  # positions drafted together


@dataclass(frozen=True, kw_only=True)
class ImportDraftOptions(StageOptions, ModelOptions):
    """Options of this stage."""

    target: str = option(help="target model: a Hugging Face folder or hub id")
    draft: str = option(help="the head: a folder or hub id, in any published layout")
    responses: Path = option(help="some answers of the target to try the head on (.safetensors)")
    output: Path = option(help="folder to write the head to")
    rope_theta: float = option(
        0.0, "rotary base of a published head; 0: the better of its config's and 10000"
    )
    probe_answers: int = option(8, "answers of the target that a published head is tried on")


def candidates(head: Eagle3Head, rope_theta: float) -> list[float]:
    """Rotary bases to try: the one asked for, else the file's and the one that trainers fall back to."""
    if rope_theta:
        return [rope_theta]
    return list(dict.fromkeys([head.config.rope_theta, DEFAULT_ROPE_THETA]))


def with_base(head: Eagle3Head, theta: float) -> Eagle3Head:
    """The same head, in place, with another rotary base."""
    head.config = replace(head.config, rope_theta=theta)
    return head


@torch.inference_mode()
def acceptance_length(target: TargetModel, head: Eagle3Head, answers: list[Sequence]) -> float:
    """Mean tokens a cycle if every drafted node were verified: levels that the answers follow, plus one."""
    levels, positions = 0, 0
    for answer in answers:
        left_out = max(0, len(answer.tokens) - LARGEST_PROBE)
        tokens = answer.tokens[left_out:].to(target.device)[None]
        rows = run_true_rows(head, target.sequence_taps(tokens), tokens)
        first = max(1, answer.prompt_length - left_out)
        roots = torch.arange(first, tokens.shape[1] - 1, device=target.device)
        for root in roots.split(CHUNK):
            levels += _followed(head, rows, tokens[0], root)
            positions += len(root)
    return 1 + levels / positions


def _followed(head: Eagle3Head, rows: Any, tokens: Tensor, root: Tensor) -> int:
    trees = draft_trees(head, rows, torch.zeros_like(root), root, PROBE_BEAM, PROBE_DEPTH)
    following = root[:, None] + torch.arange(1, PROBE_DEPTH + 1, device=root.device)
    known = following < len(tokens)
    continuation = torch.where(known, tokens[following.clamp(max=len(tokens) - 1)], -1)
    return int((true_nodes(trees, continuation) >= 0).sum())


def probe(
    target: TargetModel, head: Eagle3Head, answers: list[Sequence], thetas: list[float]
) -> dict[float, float]:
    """Acceptance length by rotary base; the head is left with the best of them."""
    found = {}
    for theta in tqdm(thetas, desc="rotary base", unit="base"):
        found[theta] = acceptance_length(target, with_base(head, theta), answers)
    with_base(head, max(found, key=found.__getitem__))
    return found


def import_draft(options: ImportDraftOptions, run: StageRun) -> None:
    """Load the head, settle its rotary base, write it. Raises InputError for a head that does not fit."""
    if options.probe_answers < 1 or options.rope_theta < 0:
        raise InputError(
            "draft.probe_answers, draft.rope_theta: expected at least 1, and 0 or a positive base"
        )
    folder = local_folder(options.draft)
    usable = (one for one in Responses.load(options.responses).sequences() if len(one.answer) >= 2)
    answers = list(islice(usable, options.probe_answers))
    if not answers:
        raise InputError(f"{options.responses}: no answer of two tokens or more to try the head on")
    longest = max(min(len(answer.tokens), LARGEST_PROBE) for answer in answers)
    target = TargetModel.load(
        options.target,
        device=options.device,
        dtype=options.dtype,
        quantisation=options.quantisation,
        max_context=longest,
    )
    head = load_head(folder, target)
    target = tapped_for(head, target)
    found = probe(target, head, answers, candidates(head, options.rope_theta))
    with atomic_path(options.output) as made:
        save_head(head, made)
        write_json(made / "import.json", _report(options, head, found))
    for theta, length in found.items():
        run.metrics({f"acceptance_length/rope_theta_{theta:g}": length})
        print(f"rotary base {theta:g}: acceptance length {length:.3f}")
    print(f"kept rotary base {head.config.rope_theta:g}")


def _report(options: ImportDraftOptions, head: Eagle3Head, found: dict[float, float]) -> dict[str, Any]:
    return {
        "source": options.draft,
        "rope_theta": head.config.rope_theta,
        "acceptance_length": {f"{theta:g}": round(length, 4) for theta, length in found.items()},
        "beam": PROBE_BEAM,
        "depth": PROBE_DEPTH,
        "answers": options.probe_answers,
    }


def main(argv: list[str] | None = None) -> None:
    """Run the stage from the command line."""
    run_stage("import_draft", ImportDraftOptions, import_draft, __doc__, argv)


if __name__ == "__main__":
    main()
