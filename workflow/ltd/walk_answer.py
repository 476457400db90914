"""Write a web page that walks through one answer of the benchmark, cycle by cycle, two methods side by side.

The prompt is chosen by a rule and not for its looks: of the task in the middle by what the second method
gains over the first, the prompt in the middle by that gain. What is shown was decoded greedily.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from transformers import PreTrainedTokenizerBase

from ltd.engine.model_loading import load_tokenizer
from ltd.errors import InputError
from ltd.files import atomic_path
from ltd.measurement.summary import PHASES, at_temperature
from ltd.methods import BASELINE
from ltd.options import StageOptions, option, run_stage
from ltd.reporting.answer_page import Walk, WalkedCycle, page
from ltd.texts.responses import Responses
from ltd.tracking import StageRun

PARTIAL = "\ufffd"  # what decoding gives for a character whose last bytes are in the next token


@dataclass(frozen=True, kw_only=True)
class WalkAnswerOptions(StageOptions):
    """Options of the page."""

    target: str = option(help="folder or hub id of the target model, for its tokenizer")
    runs: Path = option(help="runs of the benchmark (parquet)")
    cycles: Path = option(help="cycles of the benchmark (parquet)")
    responses: Path = option(help="the answers whose prompts were decoded")
    output: Path = option(help="page to write (HTML)")
    methods: tuple[str, ...] = option(
        ("eagle3_grid", "ltd"),
        "methods to show; where none of them was decoded, the first two that were",
    )


class Key(NamedTuple):
    """One prompt of the benchmark; its columns in both tables."""

    task: str
    prompt: str
    turn: int


def methods_to_show(runs: pd.DataFrame, wanted: Sequence[str]) -> list[str]:
    """Those of `wanted` that were decoded, else the first two that draft, else plain decoding."""
    decoded = list(dict.fromkeys(runs["method"]))
    drafting = [method for method in decoded if method != BASELINE]
    return [method for method in wanted if method in decoded] or drafting[:2] or decoded[:1]


def choose_prompt(runs: pd.DataFrame, methods: Sequence[str]) -> tuple[Key, str]:
    """The prompt to show and the sentence that says how it was chosen.

    Gains are ratios of throughput of the last method over the first (over plain decoding where only one is
    shown), summed over turns and repeats. Of an even number it is the lower one in the middle.
    """
    ours, theirs = methods[-1], methods[0] if len(methods) > 1 else BASELINE
    by_task = _gains(runs, ["task"], ours, theirs).sort_values(kind="stable")
    task = str(by_task.index[(len(by_task) - 1) // 2])
    prompts = _gains(runs[runs["task"] == task], ["prompt"], ours, theirs).sort_values(kind="stable")
    prompt = str(prompts.index[(len(prompts) - 1) // 2])
    chosen = runs[(runs["task"] == task) & (runs["prompt"] == prompt)]
    rule = (
        f"Prompt {prompt} of the task {task}: of the tasks, the one in the middle by what {ours} gains over "
        f"{theirs} ({by_task[task]:.2f}x), and of its {len(prompts)} prompts the one in the middle "
        f"({prompts[prompt]:.2f}x)."
    )
    return Key(task, prompt, int(chosen["turn"].min())), rule


def _gains(runs: pd.DataFrame, by: list[str], ours: str, theirs: str) -> pd.Series:
    sums = runs.groupby(["method", *by])[["tokens", "seconds"]].sum()
    speed = sums["tokens"] / sums["seconds"]
    return (speed[ours] / speed[theirs]).dropna()


def pieces(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int], counts: Sequence[int]) -> list[str]:
    """The text of consecutive groups of so many tokens; a character is the group's that completes it."""
    found, done = [], 0
    ends = list(accumulate(counts))
    for end in ends:
        text = tokenizer.decode(tokens[:end], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        whole = text if end == ends[-1] else text.rstrip(PARTIAL)
        found.append(whole[done:])
        done = max(done, len(whole))
    return found


def walk(
    tokenizer: PreTrainedTokenizerBase, runs: pd.DataFrame, cycles: pd.DataFrame, key: Key, method: str
) -> Walk:
    """One method on one prompt; times are means over the repeats, which are alike in everything else."""
    speeds = {name: _speed(runs[_is(runs, key) & (runs["method"] == name)]) for name in (method, BASELINE)}
    rows = cycles[_is(cycles, key) & (cycles["method"] == method)]
    milliseconds = rows[list(PHASES)].sum(axis=1).groupby(rows["cycle"]).mean()
    rows = rows[rows["repeat"] == 0].sort_values("cycle")
    answer = runs.loc[_is(runs, key) & (runs["method"] == method), "token_ids"].iloc[0]
    first, *texts = pieces(tokenizer, list(answer), [1, *rows["tokens"]])
    columns = zip(
        rows["depth"], rows["verified"], rows["accepted"], rows["tokens"], milliseconds, texts, strict=True
    )
    walked = [WalkedCycle(*values) for values in columns]
    return Walk(method, first, walked, speeds[method], speeds[method] / speeds[BASELINE])


def _speed(runs: pd.DataFrame) -> float:
    return float(runs["tokens"].sum() / runs["seconds"].sum())


def _is(table: pd.DataFrame, key: Key) -> pd.Series:
    return (table["task"] == key.task) & (table["prompt"] == key.prompt) & (table["turn"] == key.turn)


def prompt_text(tokenizer: PreTrainedTokenizerBase, responses: Responses, key: Key) -> str:
    """The prompt with its template, as the target saw it; raises InputError when it is not there."""
    for sequence in responses.sequences():
        if (sequence.task, str(sequence.question_id), sequence.turn) == key:
            return tokenizer.decode(sequence.tokens[: sequence.prompt_length], skip_special_tokens=False)
    raise InputError(f"responses: no prompt {key.prompt}, turn {key.turn}, of the task {key.task}")


def walk_answer(options: WalkAnswerOptions, run: StageRun | Any) -> None:
    """The stage: choose, cut the text into cycles, write."""
    runs, cycles = (at_temperature(pd.read_parquet(path)) for path in (options.runs, options.cycles))
    methods = methods_to_show(runs, options.methods)
    # An answer that prefill alone finished has no cycles to walk through.
    key, rule = choose_prompt(runs[runs["tokens"] > 0], methods)
    tokenizer = load_tokenizer(options.target)
    if tokenizer is None:
        raise InputError(f"target: {options.target} has no tokenizer")
    walks = [walk(tokenizer, runs, cycles, key, method) for method in methods]
    lossless = bool(runs.loc[_is(runs, key) & runs["method"].isin(methods), "lossless"].all())
    prompt = prompt_text(tokenizer, Responses.load(options.responses), key)
    with atomic_path(options.output) as temporary:
        temporary.write_text(
            page(f"One answer, {' and '.join(methods)}", rule, prompt, walks, lossless), encoding="utf-8"
        )
    run.artifact(options.output)
    print(rule)


def main(argv: list[str] | None = None) -> None:
    """Run the stage from the command line."""
    run_stage("walk_answer", WalkAnswerOptions, walk_answer, __doc__, argv)


if __name__ == "__main__":
    main()
