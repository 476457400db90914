"""The responses file: what the target answered to the prompts of one split.

`<name>.safetensors` holds flat arrays, `<name>.json` beside it says which prompt each sequence belongs to.
A conversation gives one sequence per turn; the prompt of a later turn includes the earlier turns with the
target's own answers.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ltd.errors import InputError
from ltd.files import atomic_path, read_json, write_json

ARRAYS = ("tokens", "offsets", "prompt_length", "seed_key")


@dataclass(frozen=True)
class Sequence:
    """One prompt and its answer.

    `tokens` is int64 [length], of which the first `prompt_length` are the prompt; `seed_key` is the seed that
    the sampling noise of this answer was keyed by (0 for greedy answers).
    """

    tokens: Tensor
    prompt_length: int
    task: str
    question_id: int | str
    turn: int
    seed_key: int = 0

    @property
    def answer(self) -> Tensor:
        """The answer's tokens, with the end-of-sequence token if it was reached."""
        return self.tokens[self.prompt_length :]


@dataclass(frozen=True)
class Responses:
    """All sequences of a split, in the order of the prompts files (by task, conversation, turn)."""

    tokens: Tensor  # int32 [total]
    offsets: Tensor  # int64 [count + 1]
    prompt_length: Tensor  # int32 [count]
    seed_key: Tensor  # int64 [count]
    labels: list[dict[str, Any]]  # task, question_id, turn of each sequence

    @classmethod
    def from_sequences(cls, sequences: Iterable[Sequence]) -> "Responses":
        """Concatenate sequences."""
        members = list(sequences)
        lengths = torch.tensor([0, *(len(member.tokens) for member in members)])
        return cls(
            tokens=torch.cat([torch.empty(0), *(m.tokens for m in members)]).to(torch.int32),
            offsets=lengths.cumsum(0),
            prompt_length=torch.tensor([m.prompt_length for m in members], dtype=torch.int32),
            seed_key=torch.tensor([m.seed_key for m in members], dtype=torch.int64),
            labels=[{"task": m.task, "question_id": m.question_id, "turn": m.turn} for m in members],
        )

    @classmethod
    def load(cls, path: str | Path) -> "Responses":
        """Read `path` (.safetensors) and the JSON beside it; raises InputError if one is damaged."""
        path = Path(path)
        if not path.is_file():
            raise InputError(f"{path}: no such file; run generate_responses first")
        try:
            arrays = load_file(path)
        except SafetensorError as error:
            raise InputError(
                f"{path}: not a whole safetensors file ({error}); delete and make it again"
            ) from error
        missing = [name for name in ARRAYS if name not in arrays]
        if missing:
            raise InputError(f"{path}: not a responses file, it has no array {missing[0]!r}")
        labels = read_json(path.with_suffix(".json"))
        if len(labels) != len(arrays["offsets"]) - 1:
            count = len(arrays["offsets"]) - 1
            raise InputError(
                f"{path}: {count} sequences, but {len(labels)} labels beside it; make both again"
            )
        return cls(**{name: arrays[name] for name in ARRAYS}, labels=labels)

    def save(self, path: str | Path) -> None:
        """Write `path` (.safetensors) and the JSON beside it."""
        path = Path(path)
        write_json(path.with_suffix(".json"), self.labels)
        with atomic_path(path) as temporary:
            save_file({name: getattr(self, name) for name in ARRAYS}, temporary)

    def __len__(self) -> int:
        return len(self.labels)

    def sequences(self) -> Iterator[Sequence]:
        """Yield the sequences in order."""
        bounds = self.offsets.tolist()
        lengths, keys = self.prompt_length.tolist(), self.seed_key.tolist()
        for index, label in enumerate(self.labels):
            tokens = self.tokens[bounds[index] : bounds[index + 1]].long()
            yield Sequence(tokens, lengths[index], **label, seed_key=keys[index])
