"""Write the prompts of every task of one split; no two splits share any of them.

Without other sources they come from the built-in world, which also gives the text that the embedded target
is trained on, the split `corpus`. The others are draft (for the head), train (for the policies), validation
and test. All are collected and compared, one is written: <output>/<task>.jsonl, one JSON object a line with
`question_id`, `category`, `turns` and `reference`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltd import world
from ltd.errors import InputError
from ltd.files import atomic_path, write_jsonl
from ltd.option_checks import check_prompts
from ltd.options import StageOptions, option, run_stage
from ltd.texts.hub_prompts import hub_prompts
from ltd.texts.prompts import SPLITS, Prompts, builtin_prompts, check_unlearned, checked, file_prompts
from ltd.tracking import StageRun

CORPUS = "corpus"
Tasks = dict[str, list[world.Conversation]]


@dataclass(frozen=True, kw_only=True)
class Options(StageOptions):
    """Which prompts, and how many of every split."""

    split: str = option(help="the split to write", choices=(*SPLITS, CORPUS))
    output: Path = option(help="folder to write")
    tasks: tuple[str, ...] = option(world.TASKS, "tasks; built in are code chat maths instructions qa stdlib")
    path: str | None = option(
        None, "folder of question files, <task>.jsonl or <split>/<task>.jsonl; none: built-in prompts"
    )
    hub: tuple[str, ...] = option(
        (), "data sets of the hub, <task>=<owner/name>[@<revision>][:<config>[:<split>:<column>]]"
    )
    test_only: tuple[str, ...] = option((), "tasks whose prompts, of files or the hub, are all test prompts")
    draft: int = option(160, "prompts a task whose answers the head learns from, at most; 0: none")
    train: int = option(80, "prompts a task whose answers the policies learn from, at most")
    validation: int = option(24, "validation prompts a task, at most")
    test: int = option(24, "test prompts a task, at most")
    corpus: int = option(2000, "built-in conversations a task to train the embedded target on; 0: none")
    learned_from: Path | None = option(
        None, "folder of a finished experiment's prompts: what it learned from must not be asked here"
    )


def prepare_prompts(options: Options, run: StageRun) -> None:
    """Collect the prompts, check them, and write the split; raises InputError before writing anything."""
    check_prompts(options)
    tasks = _collect(options).get(options.split)
    if not tasks:
        raise InputError(f"prompts.{options.split}: there are none; ask for some")
    if options.learned_from is not None:
        key = "prompts.hub" if options.path is None else "prompts.path"
        check_unlearned(tasks, options.learned_from, key)
    # As a whole: a task that is no longer wanted must not stay behind in the folder.
    with atomic_path(options.output) as folder:
        folder.mkdir()
        for task, conversations in tasks.items():
            write_jsonl(folder / f"{task}.jsonl", [each.as_row() for each in conversations])
    run.json(summarise(tasks, _source(options)), "summary.json")
    run.text(samples(tasks), "prompts.txt")
    run.metrics({f"{options.split}.{task}": len(rows) for task, rows in tasks.items()})
    print(f"{options.split}: " + ", ".join(f"{task} {len(rows)}" for task, rows in tasks.items()))


def _source(options: Options) -> str:
    return options.path or ("hub" if options.hub else "built in")


def _collect(options: Options) -> Prompts:
    counts = {split: getattr(options, split) for split in SPLITS if getattr(options, split)}
    corpus = {CORPUS: options.corpus} if options.corpus else {}
    if options.path is not None:
        prompts = file_prompts(options.path, options.tasks, counts, options.test_only)
    elif options.hub:
        prompts = hub_prompts(options.hub, options.tasks, counts, options.test_only)
    else:
        return builtin_prompts(options.tasks, counts | corpus, options.seed)
    # An embedded target that answers somebody's own prompts still learns from the built-in texts.
    return checked(prompts | builtin_prompts(world.TASKS, corpus, options.seed))


def summarise(tasks: Tasks, source: str) -> dict[str, Any]:
    """Counts and mean lengths (words) by task."""
    return {"source": source, "tasks": {task: _lengths(rows) for task, rows in tasks.items()}}


def _lengths(conversations: list[world.Conversation]) -> dict[str, float]:
    turns = [turn for each in conversations for turn in each.turns]
    references = [answer for each in conversations for answer in each.reference]
    return {
        "prompts": len(conversations),
        "turns": len(turns),
        "words_per_turn": _mean_words(turns),
        "words_per_reference": _mean_words(references),
    }


def _mean_words(texts: list[str]) -> float:
    return round(sum(len(text.split()) for text in texts) / max(len(texts), 1), 1)


def samples(tasks: Tasks) -> str:
    """The first conversation of every task, to be read by a person."""
    blocks = []
    for task, conversations in tasks.items():
        lines = [f"[{task}]"]
        for index, turn in enumerate(conversations[0].turns):
            lines.append(f"user: {turn}")
            lines += [f"reference: {answer}" for answer in conversations[0].reference[index : index + 1]]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def main(argv: list[str] | None = None) -> None:
    """Run the stage from the command line."""
    run_stage("prepare_prompts", Options, prepare_prompts, __doc__, argv)


if __name__ == "__main__":
    main()
