"""Conversations as training rows: tokens, which of them are answers, several conversations to a row.

Conversations that share a row do not see each other: each has its own positions from 0 and a block of its
own in the attention mask.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from ltd.errors import InputError
from ltd.target_training.tokenizer import ASSISTANT, END, USER
from ltd.texts.prompts import read_questions
from ltd.world.conversation import Conversation

OPEN_ROWS = 32

Conversations = dict[str, list[Conversation]]  # by task


@dataclass(frozen=True)
class Document:
    """One conversation: `tokens` and, for each, whether it is to be predicted (answers and their end)."""

    tokens: np.ndarray
    answer: np.ndarray


@dataclass(frozen=True)
class Rows:
    """Packed rows, each tensor [rows, length]; `document` numbers a row's conversations, -1 is padding."""

    tokens: Tensor
    answer: Tensor
    document: Tensor
    positions: Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: slice) -> "Rows":
        return Rows(self.tokens[rows], self.answer[rows], self.document[rows], self.positions[rows])

    def to(self, device: torch.device) -> "Rows":
        """Move to a device."""
        return Rows(*(t.to(device) for t in (self.tokens, self.answer, self.document, self.positions)))

    def mask(self) -> Tensor:
        """Attention mask [rows, 1, length, length], True where a query (third axis) may look."""
        same = self.document[:, :, None] == self.document[:, None, :]
        return same.tril()[:, None]


def read_conversations(folder: Path) -> Conversations:
    """Read `<task>.jsonl` files whose every turn has a reference answer, by task in alphabetical order.

    Raises InputError for an empty folder or a question without as many references as turns.
    """
    paths = sorted(Path(folder).glob("*.jsonl"))
    if not paths:
        raise InputError(f"{folder}: no <task>.jsonl files; run prepare_prompts first")
    conversations = {path.stem: read_questions(path) for path in paths}
    for path in paths:
        for row in conversations[path.stem]:
            if len(row.turns) != len(row.reference):
                counts = f"{len(row.turns)} turns and {len(row.reference)} answers in `reference`"
                raise InputError(f"{path}, question {row.question_id}: {counts}; needs one for each turn")
    return conversations


def encode_conversations(conversations: Conversations, tokenizer: PreTrainedTokenizerFast) -> list[Document]:
    """Tokenize as the chat template renders; prompts are marked as not to be predicted."""
    user, assistant, end = tokenizer.convert_tokens_to_ids([USER, ASSISTANT, END])
    texts = [
        text
        for rows in conversations.values()
        for row in rows
        for pair in zip(row.turns, row.reference, strict=True)
        for text in pair
    ]
    encoded = iter(tokenizer(texts, add_special_tokens=False)["input_ids"]) if texts else iter(())
    documents = []
    for rows in conversations.values():
        for row in rows:
            tokens: list[int] = []
            answer: list[bool] = []
            for _ in row.turns:
                prompt = [user, *next(encoded), end, assistant]
                reply = [*next(encoded), end]
                tokens += prompt + reply
                answer += [False] * len(prompt) + [True] * len(reply)
            documents.append(Document(np.array(tokens), np.array(answer)))
    return documents


def pack(documents: Sequence[Document], length: int) -> Rows:
    """Put documents, in their order, into rows of `length` tokens; one that is longer is cut.

    Each goes to the fullest open row that has room; of more than `OPEN_ROWS` open rows the fullest is closed.
    """
    rows: list[list[Document]] = []
    free: dict[int, int] = {}
    for document in documents:
        needed = min(len(document.tokens), length)
        fitting = [row for row, space in free.items() if space >= needed]
        row = min(fitting, key=free.__getitem__) if fitting else len(rows)
        if not fitting:
            rows.append([])
            free[row] = length
        rows[row].append(document)
        free[row] -= needed
        if len(free) > OPEN_ROWS:
            del free[min(free, key=free.__getitem__)]
    return _tensors(rows, length)


def _tensors(rows: list[list[Document]], length: int) -> Rows:
    tokens, positions = np.zeros((2, len(rows), length), dtype=np.int64)
    answer = np.zeros((len(rows), length), dtype=bool)
    document = np.full((len(rows), length), -1)
    for row, members in enumerate(rows):
        start = 0
        for number, member in enumerate(members):
            count = min(len(member.tokens), length - start)
            part = slice(start, start + count)
            tokens[row, part], answer[row, part] = member.tokens[:count], member.answer[:count]
            document[row, part], positions[row, part] = number, np.arange(count)
            start += count
    return Rows(*map(torch.from_numpy, (tokens, answer, document, positions)))


def batches(documents: Sequence[Document], length: int, rows: int, seed: int, start: int) -> Iterator[Rows]:
    """Yield batches of `rows` rows for ever, every epoch shuffled anew, from batch number `start` on.

    The same seed gives the same batches wherever one starts; the rows that do not fill a batch at the end of
    an epoch are left out.
    """
    epoch = 0
    while True:
        order = np.random.default_rng([seed, epoch]).permutation(len(documents))
        packed = pack([documents[index] for index in order], length)
        count = len(packed) // rows
        if not count:
            raise InputError(f"corpus: {len(packed)} rows of {length} tokens do not fill a batch of {rows}")
        for number in range(min(start, count), count):
            yield packed[number * rows : (number + 1) * rows]
        start = max(0, start - count)
        epoch += 1
