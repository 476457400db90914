"""Record what the look-up drafter drafts along the target's answers, for policies of its own to learn from.

As `ltd.record_traces` does for the head, with the drafter of decoding itself. Where the drafter has learned
from the training answers themselves (a published head needs no others), each half of the conversations is
drafted along with a drafter that knows the other half alone: of what it has read it would know the
continuation. The profile is that of the machine with the times of the drafter's own passes in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ltd.devices import resolve_device
from ltd.engine.lookup_folder import LookupSettings, load_lookup
from ltd.engine.ngrams import NgramCounts
from ltd.files import file_hash
from ltd.measurement.lookup_traces import LookupRecorder, drafted_answers, lookup_profile
from ltd.options import DeviceOptions, StageOptions, option, run_stage
from ltd.replay.latency import LatencyProfile
from ltd.replay.traces import Traces, concatenate
from ltd.texts import responses
from ltd.tracking import StageRun


@dataclass(frozen=True, kw_only=True)
class RecordLookupOptions(StageOptions, DeviceOptions):
    """Options of the recording."""

    lookup: Path = option(help="folder of the look-up drafter")
    texts: Path = option(help="answers that it has learned from")
    profile: Path = option(help="latency profile of this machine, for verification and plain steps")
    train: Path = option(help="answers of the target for policies to learn from")
    validation: Path = option(help="answers of the target to choose policies on")
    temperature: float = option(0.0, "temperature that the answers were sampled with (kept as a label)")
    output: Path = option(help="folder of train.safetensors, validation.safetensors and profile.json")


def halves(answers: Sequence[responses.Sequence]) -> list[list[responses.Sequence]]:
    """Every other conversation, and the ones between, all turns of one together."""
    names = list(dict.fromkeys((answer.task, answer.question_id) for answer in answers))
    even = set(names[::2])
    sides = [(answer.task, answer.question_id) in even for answer in answers]
    return [
        [answer for answer, here in zip(answers, sides, strict=True) if here == side]
        for side in (True, False)
    ]


def record_crossed(
    settings: LookupSettings, answers: Sequence[responses.Sequence], header: dict[str, Any]
) -> Traces:
    """Traces of answers, each half drafted along with what is known from the other."""
    first, second = halves(answers)
    traces = []
    for known, drafted in ((second, first), (first, second)):
        texts = NgramCounts.of_texts([answer.tokens.tolist() for answer in known], settings.order)
        traces.append(LookupRecorder(settings.drafter(texts)).record(drafted, header))
    return concatenate(traces)


def record_lookup(options: RecordLookupOptions, run: StageRun | Any) -> None:
    """The stage: draft along both sets of answers, write their traces and the profile."""
    settings, texts = load_lookup(options.lookup)
    profile = LatencyProfile.load(options.profile)
    draft = file_hash(options.lookup)
    header = {
        "temperature": options.temperature,
        "target_hash": profile.target_hash or "any",
        "draft_hash": draft,
    }
    train, validation = drafted_answers(options.train), drafted_answers(options.validation)
    recorder = LookupRecorder(settings.drafter(texts, resolve_device(options.device)))
    recorded = {"validation": recorder.record(validation, header)}
    seconds = recorder.pass_seconds()
    if file_hash(options.texts) == file_hash(options.train):
        recorded["train"] = record_crossed(settings, train, header)
    else:
        recorded["train"] = LookupRecorder(settings.drafter(texts)).record(train, header)
    for name, traces in recorded.items():
        traces.save(options.output / f"{name}.safetensors")
        run.metrics({f"positions.{name}": len(traces)})
    own = replace(profile, beam=settings.beam)
    lookup_profile(own, seconds, draft).save(options.output / "profile.json")


def main(argv: list[str] | None = None) -> None:
    """Run the stage from the command line."""
    run_stage("record_lookup", RecordLookupOptions, record_lookup, __doc__, argv)


if __name__ == "__main__":
    main()
