"""Fit a second drafter for the same target: look-up in the target's own answers and in the present text.

The order of the n-grams and the weight of the present text are those under which the validation answers are
most probable; the static depth and size are the fastest in replay on traces of those answers, with the times
of the drafter's own passes.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ltd.devices import resolve_device
from ltd.engine.lookup_folder import LookupSettings, save_lookup
from ltd.engine.model_loading import read_config
from ltd.engine.ngrams import NgramCounts
from ltd.errors import InputError
from ltd.files import atomic_path, write_json
from ltd.measurement.lookup_traces import LookupRecorder, drafted_answers, lookup_profile
from ltd.options import DeviceOptions, StageOptions, option, run_stage
from ltd.replay.latency import LatencyProfile
from ltd.replay.oracle import oracle
from ltd.replay.static_grid import static_grid
from ltd.texts import responses
from ltd.tracking import StageRun


@dataclass(frozen=True, kw_only=True)
class FitLookupOptions(StageOptions, DeviceOptions):
    """Options of the fit."""

    target: str = option(help="folder or hub id of the target model, for the size of its vocabulary")
    texts: Path = option(help="answers of the target to learn from")
    validation: Path = option(help="answers of the target to choose the settings on")
    profile: Path = option(help="latency profile of this machine, for verification and plain steps")
    output: Path = option(help="folder of the drafter")
    train_tasks: tuple[str, ...] = option((), "tasks to choose for, those that policies see; none: all")
    beam: int = option(10, "beam width of the draft tree")
    max_depth: int = option(10, "largest number of draft passes")
    orders: tuple[int, ...] = option((2, 3, 4), "longest histories to try, in tokens")
    context_weights: tuple[int, ...] = option((1, 4, 16), "weights of the present text to try")


def tokens_of(path: Path) -> list[list[int]]:
    """Prompts and answers of a responses file."""
    return [sequence.tokens.tolist() for sequence in responses.Responses.load(path).sequences()]


def answers_to_choose_on(options: FitLookupOptions) -> list[responses.Sequence]:
    """Validation answers of the tasks that count; raises InputError for a task without any."""
    answers = drafted_answers(options.validation)
    known = sorted({answer.task for answer in answers})
    if missing := [task for task in options.train_tasks if task not in known]:
        raise InputError(
            f"train_tasks: {missing[0]!r} has no answers in {options.validation}; it holds {', '.join(known)}"
        )
    return [answer for answer in answers if answer.task in (options.train_tasks or known)]


def mean_log_probability(
    settings: LookupSettings, texts: NgramCounts, answers: Sequence[responses.Sequence]
) -> float:
    """Of the tokens of the answers, each after what stands before it."""
    model, total = settings.drafter(texts).model, []
    for answer in answers:
        model.reset()
        model.append(answer.tokens[: answer.prompt_length].tolist())
        for token in answer.answer.tolist():
            total.append(model.log_probability(token))
            model.append([token])
    return float(np.mean(total))


def choose_model(
    settings: LookupSettings, options: FitLookupOptions, answers: Sequence[responses.Sequence]
) -> tuple[LookupSettings, NgramCounts, list[dict[str, Any]]]:
    """The settings under which the answers are most probable, their counts, and all that was tried."""
    texts, tried = tokens_of(options.texts), []
    for order in options.orders:
        counts = NgramCounts.of_texts(texts, order)
        for weight in tqdm(options.context_weights, desc=f"n-grams of order {order}", leave=False):
            candidate = replace(settings, order=order, context_weight=weight)
            score = mean_log_probability(candidate, counts, answers)
            tried.append({"order": order, "context_weight": weight, "mean_log_probability": score})
    best = max(tried, key=lambda entry: entry["mean_log_probability"])
    chosen = replace(settings, order=best["order"], context_weight=best["context_weight"])
    return chosen, NgramCounts.of_texts(texts, chosen.order), tried


def choose_tree(
    settings: LookupSettings,
    texts: NgramCounts,
    profile: LatencyProfile,
    answers: Sequence[responses.Sequence],
    device: torch.device,
) -> tuple[LookupSettings, dict[str, Any]]:
    """The fastest static tree in replay, with times of drafting for a target on `device`, and what is known
    of it.
    """
    recorder = LookupRecorder(settings.drafter(texts, device))
    header = {"temperature": 0.0, "target_hash": profile.target_hash or "any", "draft_hash": "lookup"}
    traces = recorder.record(answers, header)
    machine = lookup_profile(profile, recorder.pass_seconds(), "lookup")
    grid = static_grid(traces, machine, range(1, settings.max_depth + 1), range(1, profile.max_size + 1))
    depth, size, throughput = grid.best()
    plain = static_grid(traces, machine, [0], [1]).throughput()[0, 0]
    bound = oracle(traces, machine, range(1, profile.max_size + 1))
    found = {
        "depth": depth,
        "size": size,
        "speedup": throughput / float(plain),
        "acceptance_length": grid.setting(depth, size).acceptance_length(),
        "oracle_speedup": bound.throughput() / float(plain),
        "pass_ms": (1e3 * recorder.pass_seconds()).round(4).tolist(),
    }
    return replace(settings, depth=depth, size=size), found


def fit_lookup(options: FitLookupOptions, run: StageRun | Any) -> None:
    """The stage: choose the n-grams, then the tree; write."""
    profile = LatencyProfile.load(options.profile)
    if options.max_depth > profile.max_depth or not options.orders or not options.context_weights:
        raise InputError(
            f"max_depth: {options.max_depth}, the profile goes to {profile.max_depth}; orders and "
            "context_weights: at least one each"
        )
    vocabulary = read_config(options.target).get_text_config().vocab_size
    answers = answers_to_choose_on(options)
    unfit = LookupSettings(vocabulary, 1, 1, options.beam, options.max_depth, depth=1, size=1)
    model, texts, tried = choose_model(unfit, options, answers)
    device = resolve_device(options.device)
    settings, found = choose_tree(model, texts, replace(profile, beam=options.beam), answers, device)
    with atomic_path(options.output) as temporary:
        save_lookup(temporary, settings, tokens_of(options.texts))
        write_json(temporary / "validation.json", found | {"tried": tried})
    run.params(asdict(settings))
    run.metrics({f"lookup.{key}": found[key] for key in ("speedup", "acceptance_length", "oracle_speedup")})
    print(
        f"n-grams of order {settings.order}, present text counted {settings.context_weight} times; "
        f"best static tree in replay: depth {settings.depth}, size {settings.size}, {found['speedup']:.3f}x "
        f"(oracle {found['oracle_speedup']:.3f}x)"
    )


def main(argv: list[str] | None = None) -> None:
    """Run the stage from the command line."""
    run_stage("fit_lookup", FitLookupOptions, fit_lookup, __doc__, argv)


if __name__ == "__main__":
    main()
