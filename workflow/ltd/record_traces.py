"""Record draft traces: the full draft tree at every position of the target's answers, batched over positions.

Needs the target once (teacher-forced over its own answers) and the head; no decoding. Answers are handled in
parts that are kept in the state folder, so that a stopped recording goes on where it was.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ltd.draft_head.eagle3 import Eagle3Head
from ltd.engine.loading import load_models
from ltd.engine.memory import free_bytes
from ltd.engine.target import TargetModel
from ltd.engine.tree import pool_size
from ltd.errors import InputError
from ltd.files import discard, file_hash, read_json, write_json
from ltd.hub import identity
from ltd.options import ModelOptions, StageOptions, option, run_stage
from ltd.replay.batched_drafting import DraftedTrees, TrueRows, draft_trees, run_true_rows, true_nodes
from ltd.replay.traces import NO_RANK, Traces, concatenate, true_path_ranks
from ltd.texts import responses

Answers = Sequence[responses.Sequence]


@dataclass(frozen=True, kw_only=True)
class RecordTracesOptions(StageOptions, ModelOptions):
    """Options of the recording."""

    target: str = option(help="target model: a Hugging Face folder or hub id")
    draft: Path = option(help="folder of the Eagle3 head")
    responses: Path = option(help="answers of the target, a .safetensors file with its .json beside it")
    output: Path = option(help="trace file to write")
    state: Path = option(help="folder for finished parts; removed when the output is written")
    temperature: float = option(0.0, "temperature that the answers were sampled with (kept as a label)")
    beam: int = option(10, "beam width W of the trees")
    max_depth: int = option(10, "depth of the recorded trees, the largest that replay can choose")
    chunk: int = option(64, "positions drafted together; memory grows with it, 64 suits a CPU, 256 a GPU")
    part_tokens: int = option(4096, "tokens of prompts and answers in one part, the unit of resuming")
    entropy: bool = option(True, "also record the entropy of the draft distribution of every level")
    features: bool = option(True, "also record the head's hidden state at every level; specdecpp needs it")


class TraceRecorder:
    """Turns answers into traces with a target and a head on one device."""

    def __init__(self, target: TargetModel, head: Eagle3Head, options: RecordTracesOptions) -> None:
        self.target, self.head, self.options = target, head, options

    @torch.inference_mode()
    def record(self, answers: Answers, header: dict[str, Any]) -> Traces:
        """Traces of answers of at least two tokens each; `header` holds the hashes of target and head."""
        tokens = torch.nn.utils.rnn.pad_sequence([answer.tokens for answer in answers], batch_first=True)
        tokens = tokens.to(self.target.device)
        lengths = torch.tensor([len(answer.tokens) for answer in answers])
        rows = run_true_rows(self.head, self.target.sequence_taps(tokens, lengths), tokens)
        prompts = torch.tensor([answer.prompt_length for answer in answers])
        sequence, root = _roots(prompts, lengths)
        chunk = self._chunk(rows)
        pieces = [
            self._draft(rows, tokens, lengths, *positions)
            for positions in zip(sequence.split(chunk), root.split(chunk), strict=True)
        ]
        columns = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
        return Traces(
            **columns,
            root=tokens[sequence, root].to(torch.int32).numpy(force=True),
            context_length=root.to(torch.int32).numpy(),
            sequence=sequence.to(torch.int32).numpy(),
            tokens_left=(lengths[sequence] - 1 - root).to(torch.int32).numpy(),
            beam=self.options.beam,
            max_depth=self.options.max_depth,
            temperature=self.options.temperature,
            sequences=[_label(answer) for answer in answers],
            **header,
        )

    def _chunk(self, rows: TrueRows) -> int:
        """Positions to draft together: as many as asked for, or as fit into half of the free memory.

        Each has the keys and values of what precedes it to itself, twice while a level joins them with its
        own.
        """
        drafted = self.options.beam * self.options.max_depth
        _, heads, length, size = rows.keys.shape
        needed = 4 * heads * size * (length + drafted) * rows.keys.element_size()
        return max(1, min(self.options.chunk, free_bytes(rows.keys.device) // (2 * needed)))

    def _draft(
        self, rows: TrueRows, tokens: Tensor, lengths: Tensor, sequence: Tensor, root: Tensor
    ) -> dict[str, np.ndarray]:
        """Columns of one chunk of positions that come out of the trees."""
        beam, max_depth, device = self.options.beam, self.options.max_depth, tokens.device
        following = root[:, None] + torch.arange(1, max_depth + 1)
        known = following < lengths[sequence][:, None]
        following = tokens[sequence[:, None], following.clamp(max=tokens.shape[1] - 1)]
        continuation = torch.where(known.to(device), following, -1)
        trees = draft_trees(self.head, rows, sequence.to(device), root.to(device), beam, max_depth)
        return self._columns(trees, true_nodes(trees, continuation))

    def _columns(self, trees: DraftedTrees, true_node: Tensor) -> dict[str, np.ndarray]:
        beam = self.options.beam
        scores, nodes = trees.scores.numpy(force=True), true_node.to(torch.int32).numpy(force=True)
        narrow = np.uint8 if beam * beam <= 256 else np.uint16
        columns = {
            "scores": scores,
            "true_node": nodes,
            "ranks": true_path_ranks(scores, nodes, beam),
            "beams": trees.beams.numpy(force=True).astype(narrow),
        }
        if self.options.entropy:
            columns["entropy"] = trees.entropy.numpy(force=True)
        if self.options.features:
            columns["features"] = _halves(trees.features).numpy(force=True)
        return columns


def _halves(features: Tensor) -> Tensor:
    """The head's hidden states in the type of the traces; InputError where it is too small for them."""
    halves = features.to(torch.float16)
    if not halves.isfinite().all():
        raise InputError(
            f"traces.features: hidden states of the head leave the range of float16, "
            f"{torch.finfo(torch.float16).max:.0f}; use false, without the method specdecpp"
        )
    return halves


def _roots(prompts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Every place where a cycle can start: sequence and position of the root, int64 [N].

    The first root is the answer's first token, which the prefill emits; the last leaves one token to emit.
    """
    counts = lengths - prompts - 1
    sequence = torch.repeat_interleave(torch.arange(len(counts)), counts)
    place = torch.arange(len(sequence)) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    return sequence, prompts[sequence] + place


def _label(answer: responses.Sequence) -> dict[str, Any]:
    return {"task": answer.task, "question_id": answer.question_id, "turn": answer.turn}


def split_parts(answers: Answers, part_tokens: int) -> Iterator[list[responses.Sequence]]:
    """Consecutive answers whose padded tokens stay within `part_tokens`, at least one answer a part."""
    part: list[responses.Sequence] = []
    longest = 0
    for answer in answers:
        longest = max(longest, len(answer.tokens))
        if part and longest * (len(part) + 1) > part_tokens:
            yield part
            part, longest = [], len(answer.tokens)
        part.append(answer)
    if part:
        yield part


def record_traces(options: RecordTracesOptions, run: Any) -> None:
    """Record all parts that the state folder lacks, then join them."""
    _check_options(options)
    answers = _load_answers(options)
    # No drafter of the engine: it drafts one tree at a time, and compiles for that.
    target, head = load_models(
        options.target,
        options.draft,
        device=options.device,
        dtype=options.dtype,
        quantisation=options.quantisation,
        max_context=1,  # the target decodes nothing: its window may be narrow
    )
    _check_head(options, head, answers)
    header = _header(options)
    _prepare_state(options, header)
    recorder = TraceRecorder(target, head, options)
    parts = list(split_parts(answers, options.part_tokens))
    paths = [options.state / f"part-{number:05d}.safetensors" for number in range(len(parts))]
    begun, fresh = time.perf_counter(), 0
    for path, part in zip(tqdm(paths, desc="draft traces", unit="part"), parts, strict=True):
        if not path.is_file():
            traces = recorder.record(part, header)
            traces.save(path)
            fresh += len(traces)
    seconds = time.perf_counter() - begun
    whole = concatenate([Traces.load(path) for path in paths])
    whole.save(options.output)
    _report(whole, options.output, fresh / seconds, run)
    discard(options.state)  # who asks for the traces again wants them recorded again


def _check_options(options: RecordTracesOptions) -> None:
    for key in ("beam", "max_depth", "chunk", "part_tokens"):
        if getattr(options, key) < 1:
            raise InputError(f"{key}: {getattr(options, key)} is not at least 1")
    if pool_size(options.beam, options.max_depth) >= int(NO_RANK):
        raise InputError(
            f"beam, max_depth: a tree of {options.beam} x {options.max_depth} has over 65534 nodes"
        )


def _check_head(options: RecordTracesOptions, head: Eagle3Head, answers: Answers) -> None:
    if options.beam > head.config.draft_vocab_size:
        raise InputError(
            f"beam: {options.beam} is more than the head's draft vocabulary of {head.config.draft_vocab_size}"
        )
    largest = max(int(answer.tokens.max()) for answer in answers)
    if largest >= head.config.vocab_size:
        raise InputError(
            f"{options.responses}: token {largest} is not one of the target's {head.config.vocab_size}"
        )


def _load_answers(options: RecordTracesOptions) -> Answers:
    """Answers that hold a position; an answer of one token comes from the prefill alone."""
    answers = [
        answer
        for answer in responses.Responses.load(options.responses).sequences()
        if len(answer.tokens) - answer.prompt_length >= 2
    ]
    if not answers:
        raise InputError(f"{options.responses}: no answer of two tokens or more, nothing to record")
    return answers


def _header(options: RecordTracesOptions) -> dict[str, str]:
    return {"target_hash": identity(options.target), "draft_hash": identity(options.draft)}


def _prepare_state(options: RecordTracesOptions, header: dict[str, str]) -> None:
    """Drop parts that were made from other inputs or with other options."""
    keys = ("beam", "max_depth", "temperature", "part_tokens", "entropy", "features", "dtype", "quantisation")
    made_from = header | {key: getattr(options, key) for key in keys}
    made_from["responses"] = file_hash(options.responses, options.responses.with_suffix(".json"))
    note = options.state / "parts.json"
    if note.is_file() and read_json(note) == made_from:
        return
    for path in options.state.glob("part-*.safetensors"):
        path.unlink()
    write_json(note, made_from)


def _report(traces: Traces, output: Path, positions_per_second: float, run: Any) -> None:
    bytes_per_position = output.stat().st_size / len(traces)
    print(
        f"{len(traces)} positions of {len(traces.sequences)} answers, "
        f"{bytes_per_position:.0f} bytes a position, {positions_per_second:.0f} positions/s"
    )
    summary = {
        "traces.positions": len(traces),
        "traces.answers": len(traces.sequences),
        "traces.bytes_per_position": bytes_per_position,
        "traces.positions_per_second": positions_per_second,
    }
    run.metrics(summary)
    run.json(summary, "summary.json")


def main(argv: list[str] | None = None) -> None:
    """Run the stage from the command line."""
    run_stage("record_traces", RecordTracesOptions, record_traces, __doc__, argv)


if __name__ == "__main__":
    main()
