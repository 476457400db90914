"""Prompts from data sets of the Hugging Face hub, through the optional package `datasets`."""

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ltd.errors import InputError
from ltd.hub import explain
from ltd.texts.hub_sources import HubSource, check_hub, parse_entry
from ltd.texts.prompts import Prompts, checked, divide, in_hash_order
from ltd.world import Conversation

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
    check_hub(entries, tasks)
    sources = dict(map(parse_entry, entries))
    prompts: Prompts = {split: {} for split in counts}
    for task in tasks:
        questions = _load(sources[task])
        split_up = {"test": in_hash_order(questions, task)} if task in test_only else None
        for split, chosen in (split_up or divide(questions, task, counts, sources[task].name)).items():
            prompts[split][task] = chosen[: counts[split]]
    return checked(prompts)


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
