"""Where prompts come from: built-in generators, question files, hub data sets; and how a chat is rendered.

Every source gives the same thing, conversations by split and task, with no prompt in two splits.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from ltd import world
from ltd.errors import InputError
from ltd.files import read_jsonl
from ltd.world import Conversation

# The head learns from answers to `draft`, the policies from `train`: a head drafts better on texts that it
# has learned from than on any others, and policies would come to expect too much.
SPLITS = ("draft", "train", "validation", "test")
DATE = "26 Jul 2024"  # where a template has none of its own, that of Llama 3.1's
# Shares of a single file of questions: enough of EAGLE's 80 are left to test on. The rest is `train`.
_SHARES = {"test": 0.3, "validation": 0.2, "draft": 0.25}

Prompts = dict[str, dict[str, list[Conversation]]]


def builtin_prompts(tasks: Sequence[str], counts: Mapping[str, int], seed: int) -> Prompts:
    """Conversations of the built-in world, by split and task.

    Args:
        tasks: names of `ltd.world.TASKS`.
        counts: conversations a task for each split; `corpus` is allowed, too. `draft` comes from the same
            part of the world as `train`, and lacks the few that begin like one there.

    Raises InputError if a split of a task stays empty.
    """
    counts = dict(counts)
    draft = counts.pop("draft", 0)
    prompts = {
        split: {task: world.generate(task, split, count, seed) for task in tasks}
        for split, count in counts.items()
    }
    if draft:
        both = {task: world.generate(task, "train", counts["train"] + draft, seed) for task in tasks}
        prompts["train"] = {task: each[: counts["train"]] for task, each in both.items()}
        prompts["draft"] = {
            task: _without(each[counts["train"] :], prompts["train"][task]) for task, each in both.items()
        }
    return checked(prompts)


def _without(conversations: Sequence[Conversation], others: Sequence[Conversation]) -> list[Conversation]:
    """Those whose first turn none of the others has: two may begin alike and go on otherwise."""
    taken = {_first_turn(each) for each in others}
    return [each for each in conversations if _first_turn(each) not in taken]


def file_prompts(
    folder: str | Path, tasks: Sequence[str], counts: Mapping[str, int], test_only: Collection[str] = ()
) -> Prompts:
    """Questions of `<folder>/<split>/<task>.jsonl`, or of `<folder>/<task>.jsonl` divided here.

    Each line is an object in EAGLE's question format: `turns` (a list of strings), optionally
    `question_id`, `category`, `reference`. `counts` bounds the questions a task of each split; those of
    `test_only` are all test questions. Raises InputError for a missing file, a line that is not such an
    object, or a prompt in two splits.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"prompts.path: {folder} is not a folder; give one with <task>.jsonl files")
    prompts: Prompts = {split: {} for split in counts}
    for task in tasks:
        wanted = {"test": counts["test"]} if task in test_only else counts
        for split, conversations in _read_task(folder, task, wanted).items():
            prompts[split][task] = conversations[: counts[split]]
    return checked(prompts)


def _read_task(folder: Path, task: str, counts: Mapping[str, int]) -> dict[str, list[Conversation]]:
    files = {split: folder / split / f"{task}.jsonl" for split in counts}
    if any(file.is_file() for file in files.values()):
        return {split: read_questions(file) for split, file in files.items()}
    single = folder / f"{task}.jsonl"
    if not single.is_file():
        there = ", ".join(sorted({file.stem for file in folder.glob("**/*.jsonl")})) or "none"
        raise InputError(
            f"prompts.tasks: no {task}.jsonl under prompts.path {folder}; list those that are there "
            f"({there}), in benchmark.test_tasks too"
        )
    questions = read_questions(single)
    if "train" not in counts:
        return {"test": in_hash_order(questions, task)}
    return divide(questions, task, counts, single)


def read_questions(path: str | Path) -> list[Conversation]:
    """Read a file in EAGLE's question format; a question without `question_id` gets its place in the file.

    Raises InputError naming file and line for a line without `turns`, with a malformed `reference` or with
    a `question_id` that an earlier line has.
    """
    path = Path(path)
    rows = read_jsonl(path)
    filled = (number for number, line in enumerate(path.open(encoding="utf-8"), 1) if line.strip())
    questions: dict[Any, Conversation] = {}
    for index, (number, row) in enumerate(zip(filled, rows, strict=True)):
        try:
            question = question_of(row, index)
        except InputError as error:
            raise InputError(f"{path}, line {number}: {error}") from None
        if question.question_id in questions:
            taken = f"question_id {question.question_id!r} is taken"
            raise InputError(f"{path}, line {number}: {taken}; give each question its own")
        questions[question.question_id] = question
    return list(questions.values())


def question_of(row: Mapping[str, Any], default_id: int) -> Conversation:
    """The conversation of one row; raises InputError without `turns`, or for a malformed `reference` or
    `question_id`.
    """
    for key in ("turns", "reference"):
        value = row.get(key, [])
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise InputError(f"`{key}` is not a list of strings")
    if not any(turn.strip() for turn in row.get("turns", [])):
        raise InputError("no `turns`; expected a non-empty list of strings")
    if not isinstance(row.get("question_id", default_id), int | str):
        raise InputError("`question_id` is neither a number nor text")
    return Conversation(
        question_id=row.get("question_id", default_id),
        category=str(row.get("category", "")),
        turns=tuple(row["turns"]),
        reference=tuple(row.get("reference", ())),
    )


def divide(
    questions: Sequence[Conversation], task: str, splits: Collection[str], source: str | Path
) -> dict[str, list[Conversation]]:
    """Divide questions over `splits` by `_SHARES`, in the order of a hash of their ids.

    The same file always gives the same splits. Of questions with the same text the first is kept.
    Raises InputError naming `source`, the file or data set, for fewer than four different questions.
    """
    ordered = in_hash_order(questions, task)
    if len(ordered) < 4:
        raise InputError(
            f"{source}: {len(ordered)} different questions; add some, at least 4 are needed to divide them, "
            f"or name {task} in prompts.test_only"
        )
    divided, start = {}, 0
    for split, share in _SHARES.items():
        if split in splits:
            end = start + max(1, round(share * len(ordered)))
            divided[split] = ordered[start:end]
            start = end
    return {"train": ordered[start:], **divided}


def in_hash_order(questions: Sequence[Conversation], task: str) -> list[Conversation]:
    """Questions of different texts, the first of each, in the order of a hash of their ids; first turns
    decide, for each turn is a prompt of its own.
    """
    different = {_first_turn(question): question for question in reversed(questions)}.values()
    return sorted(different, key=lambda question: _order(task, question.question_id))


def _order(task: str, question_id: Any) -> str:
    return hashlib.sha256(f"{task} {question_id}".encode()).hexdigest()


def checked(prompts: Prompts) -> Prompts:
    """Return `prompts`; raises InputError if a task has none in a split, or a prompt is in two splits."""
    for split, tasks in prompts.items():
        for task, conversations in tasks.items():
            if not conversations:
                raise InputError(
                    f"prompts: no {split} prompts of {task}; ask for one or more or leave the task out"
                )
    world.check_disjoint(
        {split: [each for rows in tasks.values() for each in rows] for split, tasks in prompts.items()}
    )
    return prompts


def check_unlearned(asked: Mapping[str, Sequence[Conversation]], finished: str | Path, key: str) -> None:
    """Raise InputError if what a finished experiment made has learned from one of these prompts.

    Args:
        asked: test prompts by task; first turns decide, for each turn is a prompt of its own.
        finished: that experiment's folder of prompts, <split>/<task>.jsonl; from `test` nothing learned.
        key: where the prompts come from, `prompts.path` or `prompts.hub`.
    """
    files = sorted(file for file in Path(finished).glob("*/*.jsonl") if file.parent.name != "test")
    learned = {_first_turn(question): file for file in files for question in read_questions(file)}
    for task, conversations in asked.items():
        for conversation in conversations:
            if file := learned.get(_first_turn(conversation)):
                raise InputError(
                    f"{key}: {conversation.turns[0][:60]!r} of {task} is in {file}, too, which was learned "
                    f"from; take such questions out, or leave {key} out, and its own test prompts are decoded"
                )


def _first_turn(conversation: Conversation) -> str:
    return world.normalised(conversation.turns[:1])


@dataclass(frozen=True)
class ChatFormat:
    """How a conversation becomes text: the tokenizer's own chat template, unless said otherwise.

    system: system prompt of every conversation. template: Jinja text instead of the tokenizer's. thinking:
    the switch `enable_thinking` of templates that have one (Qwen3); None leaves it to the template.
    """

    system: str | None = None
    template: str | None = None
    thinking: bool | None = None


def chat_format(system: str | None, template: str | None, thinking: str) -> ChatFormat:
    """From the options of a stage: a template file, and on, off or template; InputError without the file."""
    if template is not None and not Path(template).is_file():
        raise InputError(f"responses.chat_template: {template}: no such file; give one with a Jinja template")
    text = Path(template).read_text(encoding="utf-8") if template is not None else None
    return ChatFormat(system, text, {"template": None, "on": True, "off": False}[thinking])


OWN_FORMAT = ChatFormat()


def messages_of(turns: Sequence[str], answers: Sequence[str], form: ChatFormat) -> list[dict[str, str]]:
    """A chat up to where the next answer starts, as chat templates take it; arguments as of `render`."""
    messages = [{"role": "system", "content": form.system}] if form.system else []
    messages.append({"role": "user", "content": turns[0]})
    for answer, turn in zip(answers, turns[1:], strict=True):
        messages.append({"role": "assistant", "content": answer})
        messages.append({"role": "user", "content": turn})
    return messages


def switches_of(form: ChatFormat) -> dict[str, Any]:
    """What a chat template is told beside the messages."""
    # Some templates tell the model today's date, and prompts would be others tomorrow.
    return {"date_string": DATE} | ({} if form.thinking is None else {"enable_thinking": form.thinking})


def render(
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[str],
    answers: Sequence[str],
    form: ChatFormat = OWN_FORMAT,
) -> list[int]:
    """Token ids of a chat up to where the next answer starts, as the chat template has it.

    Args:
        turns: the user's turns so far, the one to be answered last.
        answers: the answers so far, one fewer.
        form: what differs from the tokenizer's own chat template.

    Raises InputError if there is no chat template, or one that refuses these turns.
    """
    if not (form.template or tokenizer.chat_template):
        raise InputError(
            f"target.path: the tokenizer of {tokenizer.name_or_path or 'the target'} has no chat template; "
            "give responses.chat_template, or add chat_template.jinja to its folder"
        )
    messages, switches = messages_of(turns, answers, form), switches_of(form)
    try:
        text = tokenizer.apply_chat_template(
            messages, chat_template=form.template, add_generation_prompt=True, tokenize=False, **switches
        )
    except TemplateError as error:
        key = "responses.chat_template" if form.template else "target.path: the tokenizer's chat template"
        system = "; some templates know no system prompt, responses.system" if form.system else ""
        raise InputError(f"{key}: {error}{system}") from error
    # The template writes the special tokens itself.
    return tokenizer(text, add_special_tokens=False)["input_ids"]
