"""Data sets of the Hugging Face hub with prompts: what their columns are, and entries of `prompts.hub`.

Snakemake reads this module for its plan, so it imports nothing heavy.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ltd.errors import InputError
from ltd.hub import split_revision


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


# The data sets behind the paper's five tasks (section 5.1). Their commits can be looked up on the hub alone:
# an entry without a revision takes the main branch (docs/real-models.md).
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
FORM = "expected <task>=<owner/name>[:<config>] or <task>=<owner/name>:<config>:<split>:<column>"


def parse_entry(entry: str) -> tuple[str, HubSource]:
    """Task and source of one entry of `prompts.hub`; raises InputError for a malformed one."""
    task, _, rest = entry.partition("=")
    name, *parts = rest.split(":")
    name, revision = split_revision(name)
    if not task or not name or len(parts) not in (0, 1, 3):
        raise InputError(f"prompts.hub: {entry!r}; {FORM}")
    if len(parts) == 3:
        config, split, column = parts
        return task, HubSource(name, config or None, split, (column,), revision=revision)
    if name not in KNOWN:
        raise InputError(f"prompts.hub: the columns of {name} are not known here; {FORM}")
    known = replace(KNOWN[name], revision=revision)
    return task, replace(known, config=parts[0]) if parts else known


def check_hub(entries: Sequence[str], tasks: Sequence[str]) -> None:
    """Raise InputError for a malformed entry, and for a task without one."""
    sources = dict(map(parse_entry, entries))
    for task in tasks:
        if task not in sources:
            raise InputError(f"prompts.hub: no data set for task {task!r}; {FORM}")
