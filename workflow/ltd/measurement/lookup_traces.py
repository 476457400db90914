"""Traces of a look-up drafter: the drafter of decoding itself, at every position of every answer.

No model runs, for its trees depend on the text alone. The time of every pass is taken on the way.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from ltd.engine.lookup_drafting import LookupDrafter
from ltd.errors import InputError
from ltd.measurement.timing import typical
from ltd.replay.batched_drafting import DraftedTrees, true_nodes
from ltd.replay.latency import LatencyProfile, LatencyTable
from ltd.replay.traces import Traces, level_starts, true_path_ranks
from ltd.texts import responses


def drafted_answers(path: Path) -> list[responses.Sequence]:
    """Answers with a cycle: one of a single token comes from the prefill alone.

    Raises InputError when there is none.
    """
    answers = [answer for answer in responses.Responses.load(path).sequences() if len(answer.answer) > 1]
    if not answers:
        raise InputError(f"{path}: no answer of two tokens or more; there is nothing to draft along")
    return answers


class LookupRecorder:
    """Drafts to the largest depth at every place where a cycle can start."""

    def __init__(self, drafter: LookupDrafter) -> None:
        self.drafter = drafter
        self.columns: dict[str, list] = {name: [] for name in ("scores", "tokens", "entropy", "seconds")}

    def record(self, answers: Sequence[responses.Sequence], header: dict[str, Any]) -> Traces:
        """Traces of answers of two tokens or more; `header` holds temperature and the two hashes."""
        beam, depth = self.drafter.beam, self.drafter.max_depth
        for answer in tqdm(answers, desc="look-up trees", unit="answer", leave=False):
            self.drafter.prefill(None, answer.tokens[: answer.prompt_length])
            for root in range(answer.prompt_length, len(answer.tokens) - 1):
                self._draft(answer.tokens[root : root + 1])
        scores, tokens, entropy = (np.stack(self.columns[name]) for name in ("scores", "tokens", "entropy"))
        beams = _beams(scores, beam, depth)
        nodes = _true_nodes(scores, tokens, beams, continuations(answers, depth))
        counts = [len(answer.tokens) - 1 - answer.prompt_length for answer in answers]
        roots = [np.arange(answer.prompt_length, len(answer.tokens) - 1) for answer in answers]
        return Traces(
            scores=scores,
            true_node=nodes,
            ranks=true_path_ranks(scores, nodes, beam),
            beams=beams,
            root=_root_tokens(answers),
            context_length=np.concatenate(roots).astype(np.int32),
            sequence=np.repeat(np.arange(len(answers), dtype=np.int32), counts),
            tokens_left=np.concatenate([np.arange(count, 0, -1) for count in counts]).astype(np.int32),
            beam=beam,
            max_depth=depth,
            sequences=[
                {"task": answer.task, "question_id": answer.question_id, "turn": answer.turn}
                for answer in answers
            ],
            entropy=entropy.astype(np.float32),
            **header,
        )

    def _draft(self, root: torch.Tensor) -> None:
        drafter, entropy, seconds = self.drafter, [], []
        for level in range(drafter.max_depth):
            begun = time.perf_counter()
            drafter.expand() if level else drafter.extend(None, root)
            seconds.append(time.perf_counter() - begun)
            entropy.append(drafter.state.entropy())
        self.columns["scores"].append(drafter.state.scores.numpy(force=True).copy())
        self.columns["tokens"].append(drafter.tokens.copy())
        self.columns["entropy"].append(entropy)
        self.columns["seconds"].append(seconds)

    def pass_seconds(self) -> NDArray:
        """Seconds of the pass of every level [D], as in a profile; the first includes learning a token."""
        return np.array([typical(times) for times in zip(*self.columns["seconds"], strict=True)])


def _root_tokens(answers: Sequence[responses.Sequence]) -> NDArray[np.int32]:
    """The tokens of every answer that have a next one, [N]."""
    kept = [answer.tokens[answer.prompt_length : -1].numpy() for answer in answers]
    return np.concatenate(kept).astype(np.int32)


def continuations(answers: Sequence[responses.Sequence], max_depth: int) -> NDArray[np.int64]:
    """The tokens after every root, [N, D], -1 past the end of the answer."""
    rows = []
    for answer in answers:
        padded = np.concatenate([answer.tokens.numpy(), np.full(max_depth, -1)])
        windows = np.lib.stride_tricks.sliding_window_view(padded, max_depth)
        rows.append(windows[answer.prompt_length + 1 : len(answer.tokens)])
    return np.concatenate(rows)


def _beams(scores: NDArray, beam: int, max_depth: int) -> NDArray:
    """Indices within the level of the best W nodes of every level, [N, D, W], as the drafter expands them."""
    starts = [*level_starts(beam, max_depth), scores.shape[1]]
    kept = [
        np.argsort(-scores[:, first:end], axis=1, kind="stable")[:, :beam] for first, end in pairwise(starts)
    ]
    return np.stack(kept, axis=1).astype(np.uint8 if beam * beam <= 256 else np.uint16)


def _true_nodes(scores: NDArray, tokens: NDArray, beams: NDArray, following: NDArray) -> NDArray[np.int32]:
    none, places = torch.empty(0), torch.from_numpy(beams.astype(np.int64))
    trees = DraftedTrees(torch.from_numpy(scores), torch.from_numpy(tokens), places, none, none)
    return true_nodes(trees, torch.from_numpy(following)).to(torch.int32).numpy()


def lookup_profile(profile: LatencyProfile, pass_seconds: NDArray, draft_hash: str) -> LatencyProfile:
    """The machine's profile with the passes of a look-up drafter, which cost the same in any context."""
    columns = len(profile.context_lengths)
    ms = [[1e3 * float(seconds)] * columns for seconds in pass_seconds]
    levels = list(range(2, len(pass_seconds) + 1))
    profile = profile.replace_table("draft_prefix", LatencyTable([1], ms[:1]))
    profile = profile.replace_table("draft_step", LatencyTable(levels, ms[1:]))
    return replace(profile, draft_hash=draft_hash)
