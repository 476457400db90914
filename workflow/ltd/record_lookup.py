"""Record what the look-up drafter drafts along the target's answers, for policies of its own to learn from.

As `ltd.record_traces` does for the head, with the drafter of decoding itself. The profile is that of the
machine with the times of the drafter's own passes in it.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ltd.engine.lookup_folder import load_lookup
from ltd.errors import InputError
from ltd.files import file_hash
from ltd.options import StageOptions, option, run_stage
from ltd.replay.latency import LatencyProfile
from ltd.replay.lookup_traces import LookupRecorder, lookup_profile
from ltd.texts import responses
from ltd.tracking import StageRun


@dataclass(frozen=True, kw_only=True)
class RecordLookupOptions(StageOptions):
    """Options of the recording."""

    lookup: Path = option(help="folder of the look-up drafter")
    profile: Path = option(help="latency profile of this machine, for verification and plain steps")
    train: Path = option(help="answers of the target to learn from, other ones than the drafter's texts")
    validation: Path = option(help="answers of the target to choose policies on")
    output: Path = option(help="folder of train.safetensors, validation.safetensors and profile.json")


def answers_of(path: Path) -> list[responses.Sequence]:
    """Answers with a cycle: one of a single token comes from the prefill alone.

    Raises InputError when there is none.
    """
    answers = [answer for answer in responses.Responses.load(path).sequences() if len(answer.answer) > 1]
    if not answers:
        raise InputError(f"{path}: no answer of two tokens or more; there is nothing to draft along")
    return answers


def record_lookup(options: RecordLookupOptions, run: StageRun | Any) -> None:
    """The stage: draft along both sets of answers, write their traces and the profile."""
    settings, texts = load_lookup(options.lookup)
    profile = LatencyProfile.load(options.profile)
    draft = file_hash(options.lookup)
    header = {"temperature": 0.0, "target_hash": profile.target_hash, "draft_hash": draft}
    answers = {name: answers_of(getattr(options, name)) for name in ("train", "validation")}
    seconds = []
    for name, chosen in answers.items():
        recorder = LookupRecorder(settings.drafter(texts))
        traces = recorder.record(chosen, header)
        traces.save(options.output / f"{name}.safetensors")
        seconds.append(recorder.pass_seconds())
        run.metrics({f"positions.{name}": len(traces)})
    own = replace(profile, beam=settings.beam)
    lookup_profile(own, np.median(seconds, axis=0), draft).save(options.output / "profile.json")


def main(argv: list[str] | None = None) -> None:
    """Run the stage from the command line."""
    run_stage("record_lookup", RecordLookupOptions, record_lookup, __doc__, argv)


if __name__ == "__main__":
    main()
