"""Prompts from data sets of the Hugging Face hub, through the optional package `datasets`."""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ltd.errors import InputError
from ltd.hub import explain, split_revision
from ltd.texts.prompts import Prompts, checked, divide, in_hash_order
from ltd.world import Conversation


@dataclass(frozen=True)
class HubSource:
    """Where a data set keeps its prompts: columns joined by a new line, and a column of reference answers."""

    name: str
    config: str | None
    split: str
    columns: tuple[str, ...]
    reference: str | None = None
    lead: str = ""
    revision: str | None = None

    @property
    def whole_name(self) -> str:
        """Name and revision, as an entry has them."""
        return f"{self.name}@{self.revision}" if self.revision else self.name


# The data sets behind the paper's five tasks (section 5.1).
KNOWN = {
    source.name: source
    for source in (
        HubSource(
            "openai/openai_humaneval",
            None,
            "test",
            ("prompt",),
            "canonical_solution",
            lead="Complete the code I provided.\n",
        ),
        HubSource("openai/gsm8k", "main", "test", ("question",), "answer"),
        HubSource("tatsu-lab/alpaca", None, "train", ("instruction", "input"), "output"),
        HubSource("google-research-datasets/nq_open", None, "validation", ("question",), "answer"),
        HubSource("HuggingFaceH4/mt_bench_prompts", None, "train", ("prompt",), "reference"),
        # Its configurations are the 57 subjects (figure 7).
        HubSource("cais/mmlu", None, "test", ("question", "choices")),
    )
}
_FORM = "expected <task>=<owner/name>[:<config>] or <task>=<owner/name>:<config>:<split>:<column>"
_LETTERS = "ABCDEFGHIJ"


def hub_prompts(
    entries: Sequence[str],
    tasks: Sequence[str],
    counts: Mapping[str, int],
    test_only: Collection[str] = (),
) -> Prompts:
    """Questions of hub data sets, each divided into splits by a hash of the row's number.

    Args:
        entries: `task=owner/name` for a data set of `KNOWN`, with `:config` where it has several; else
            `task=owner/name:config:split:column` (an empty config stands for the default one). A revision
            may follow the name, `owner/name@revision`.
        counts: upper bounds of the questions a task, by split.
        test_only: tasks of which every question is a test question.

    Raises InputError for a malformed entry, a task without one, a data set that cannot be loaded, or
    without the package `datasets`.
    """
    sources = dict(map(parse_entry, entries))
    prompts: Prompts = {split: {} for split in counts}
    for task in tasks:
        if task not in sources:
            raise InputError(f"prompts.hub: no data set for task {task!r}; {_FORM}")
        questions = _load(sources[task])
        split_up = {"test": in_hash_order(questions, task)} if task in test_only else None
        for split, chosen in (split_up or divide(questions, task, counts, sources[task].name)).items():
            prompts[split][task] = chosen[: counts[split]]
    return checked(prompts)


def parse_entry(entry: str) -> tuple[str, HubSource]:
    """Task and source of one entry of `prompts.hub`; raises InputError for a malformed one."""
    task, _, rest = entry.partition("=")
    name, *parts = rest.split(":")
    name, revision = split_revision(name)
    if not task or not name or len(parts) not in (0, 1, 3):
        raise InputError(f"prompts.hub: {entry!r}; {_FORM}")
    if len(parts) == 3:
        config, split, column = parts
        return task, HubSource(name, config or None, split, (column,), revision=revision)
    if name not in KNOWN:
        raise InputError(f"prompts.hub: the columns of {name} are not known here; {_FORM}")
    known = replace(KNOWN[name], revision=revision)
    return task, replace(known, config=parts[0]) if parts else known


def _load(source: HubSource) -> list[Conversation]:
    # Read when the package is imported: older versions would ask at the terminal, newer ones run no code.
    os.environ["HF_DATASETS_TRUST_REMOTE_CODE"] = "0"
    try:
        import datasets
    except ImportError:
        raise InputError(
            "prompts.hub: needs the package datasets; run `pip install datasets`, or use prompts.path"
        ) from None
    try:
        rows = datasets.load_dataset(source.name, source.config, split=source.split, revision=source.revision)
    except Exception as error:  # whatever the hub, the network and the file formats raise
        reason = explain(error, source.whole_name, "dataset")
        raise InputError(
            f"prompts.hub: {source.name} cannot be loaded ({reason}); check its name, config and split"
        ) from error
    missing = [column for column in source.columns if column not in rows.column_names]
    if missing:
        raise InputError(
            f"prompts.hub: {source.name} has no column {missing[0]!r}; name one of "
            f"{', '.join(rows.column_names)}: <task>={source.name}:<config>:<split>:<column>"
        )
    questions = (_question(row, index, source) for index, row in enumerate(rows))
    return [question for question in questions if any(turn.strip() for turn in question.turns)]


def _question(row: Mapping[str, Any], index: int, source: HubSource) -> Conversation:
    first = row[source.columns[0]]
    if isinstance(first, list):
        turns = _users_turns(first, source)
    else:
        turns = (source.lead + "\n".join(_text(row[column]) for column in source.columns if row[column]),)
    answer = row.get(source.reference) if source.reference else None
    reference = tuple(map(str, answer)) if isinstance(answer, list) else (answer,) if answer else ()
    return Conversation(index, source.name, turns, reference[: len(turns)])


def _users_turns(values: list[Any], source: HubSource) -> tuple[str, ...]:
    """What the user says: a list of texts, or his part of the messages of a chat data set."""
    if all(isinstance(value, str) for value in values):
        return tuple(values)
    turns = []
    for value in values:
        who, said = (
            next((value[key] for key in keys if key in value), None) if isinstance(value, Mapping) else None
            for keys in (("role", "from"), ("content", "value"))
        )
        if not isinstance(said, str) or who is None:
            raise InputError(
                f"prompts.hub: {source.name}: {source.columns[0]} holds neither texts nor messages with role "
                "and content; name a column of prompts"
            )
        turns += [said] * (who in ("user", "human"))
    return tuple(turns)


def _text(value: Any) -> str:
    """A column's text; a list is a choice of answers, one a line."""
    if isinstance(value, list):
        return "\n".join(f"{letter}. {choice}" for letter, choice in zip(_LETTERS, value, strict=False))
    return str(value)
