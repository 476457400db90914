"""Prompts from data sets of the Hugging Face hub, through the optional package `datasets`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ltd.errors import InputError
from ltd.texts.prompts import Prompts, checked, divide
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
        HubSource("openai/gsm8k", "main", "train", ("question",), "answer"),
        HubSource("tatsu-lab/alpaca", None, "train", ("instruction", "input"), "output"),
        HubSource("google-research-datasets/nq_open", None, "train", ("question",), "answer"),
        HubSource("HuggingFaceH4/mt_bench_prompts", None, "train", ("prompt",), "reference"),
    )
}
_FORM = "expected <task>=<owner/name> or <task>=<owner/name>:<config>:<split>:<column>"


def hub_prompts(entries: Sequence[str], tasks: Sequence[str], counts: Mapping[str, int]) -> Prompts:
    """Questions of hub data sets, each divided into splits by a hash of the row's number.

    Args:
        entries: `task=owner/name` for a data set of `KNOWN`, else `task=owner/name:config:split:column`
            (an empty config stands for the default one).
        counts: upper bounds of the questions a task, by split.

    Raises InputError for a malformed entry, a task without one, a data set that cannot be loaded, or
    without the package `datasets`.
    """
    sources = dict(map(_parse, entries))
    prompts: Prompts = {split: {} for split in counts}
    for task in tasks:
        if task not in sources:
            raise InputError(f"prompts.hub: no data set for task {task!r}; {_FORM}")
        for split, questions in divide(_load(sources[task]), task, counts).items():
            prompts[split][task] = questions[: counts[split]]
    return checked(prompts)


def _parse(entry: str) -> tuple[str, HubSource]:
    task, _, rest = entry.partition("=")
    name, *parts = rest.split(":")
    if not task or not name or len(parts) not in (0, 3):
        raise InputError(f"prompts.hub: {entry!r}; {_FORM}")
    if parts:
        config, split, column = parts
        return task, HubSource(name, config or None, split, (column,))
    if name not in KNOWN:
        raise InputError(f"prompts.hub: the columns of {name} are not known here; {_FORM}")
    return task, KNOWN[name]


def _load(source: HubSource) -> list[Conversation]:
    try:
        import datasets
    except ImportError:
        raise InputError(
            "prompts.hub: needs the package datasets; run `pip install datasets`, or use prompts.path"
        ) from None
    try:
        rows = datasets.load_dataset(source.name, source.config, split=source.split)
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"prompts.hub: {source.name} cannot be loaded ({reason}); check its name, config and split"
        ) from error
    missing = [column for column in source.columns if column not in rows.column_names]
    if missing:
        raise InputError(
            f"prompts.hub: {source.name} has no column {missing[0]!r}; it has {', '.join(rows.column_names)}"
        )
    questions = (_question(row, index, source) for index, row in enumerate(rows))
    return [question for question in questions if any(turn.strip() for turn in question.turns)]


def _question(row: Mapping[str, Any], index: int, source: HubSource) -> Conversation:
    first = row[source.columns[0]]
    if isinstance(first, list):
        turns = tuple(map(str, first))
    else:
        turns = (source.lead + "\n".join(str(row[column]) for column in source.columns if row[column]),)
    answer = row.get(source.reference) if source.reference else None
    reference = tuple(map(str, answer)) if isinstance(answer, list) else (answer,) if answer else ()
    return Conversation(index, source.name, turns, reference[: len(turns)])
