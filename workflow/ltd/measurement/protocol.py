"""What the benchmark decodes and in which order: prompts of every task, methods and repeats shuffled."""

from pathlib import Path

import numpy as np
from tqdm import tqdm

from ltd.errors import InputError
from ltd.texts.responses import Responses, Sequence


def select_prompts(responses: Responses, tasks: tuple[str, ...], count: int, seed: int) -> list[Sequence]:
    """Return the first `count` conversations of each task, all turns, in one order shuffled over tasks.

    Where the target's context did not hold all of them, those that were answered, and a line that says so.
    Raises InputError for a task with less than two, from which there is no interval.
    """
    chosen: list[Sequence] = []
    sequences = list(responses.sequences())
    for task in tasks:
        members = [sequence for sequence in sequences if sequence.task == task]
        questions = list(dict.fromkeys(sequence.question_id for sequence in members))[:count]
        if len(questions) < 2:
            raise InputError(
                f"benchmark.test_tasks: {task!r} has answers to {len(questions)} test prompts; intervals are "
                "over two or more, so add some that fit the target, or leave the task out"
            )
        if len(questions) < count:
            tqdm.write(f"{task}: {len(questions)} of {count} test prompts, no more have answers")
        chosen += [sequence for sequence in members if sequence.question_id in set(questions)]
    order = np.random.default_rng(seed).permutation(len(chosen))
    return [chosen[index] for index in order]


def check_answers(prompts: list[Sequence], max_new_tokens: int, source: Path) -> None:
    """Raise InputError for recorded answers, of the file `source`, that are longer than decoding goes: replay
    would follow them further.
    """
    longest = max(len(prompt.answer) for prompt in prompts)
    if longest > max_new_tokens:
        raise InputError(
            f"responses.max_new_tokens: {max_new_tokens}, but {source} has answers of {longest} tokens; use "
            "the number that they were made with, or make them again"
        )


def schedule(methods: tuple[str, ...], repeats: int, seed: int, index: int) -> list[tuple[str, int]]:
    """Return (method, repeat) pairs of prompt number `index` in a random order of its own.

    Two repeats of all methods are shuffled together, then the next two: a machine's speed holds for a second
    or so, and what is compared should lie within it. The odd and the even repeats of a method stay to each
    other as two methods do.
    """
    rng = np.random.default_rng([seed, index])
    order: list[tuple[str, int]] = []
    for first in range(0, repeats, 2):
        both = range(first, min(first + 2, repeats))
        pairs = [(method, repeat) for method in methods for repeat in both]
        order += [pairs[place] for place in rng.permutation(len(pairs))]
    return order
