"""Batched decoding of many prompts with one key-value cache, for training data rather than for speed records.

Each sequence gets what it would get alone, up to near-ties of floating-point sums: padding is on the left
and masked, positions count from the first real token, sampling noise belongs to a sequence, not to a batch.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StaticCache

from ltd.texts.prompts import OWN_FORMAT, ChatFormat, render

# Chooses next tokens [rows] from logits [rows, vocabulary], the output position and each row's sequence.
Choose = Callable[[Tensor, int, Tensor], Tensor]


def greedy(logits: Tensor, position: int, rows: Tensor) -> Tensor:
    """Choose the most likely token."""
    return logits.argmax(dim=-1)


@torch.inference_mode()
def generate_batch(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    eos_ids: Collection[int],
    max_new_tokens: int,
    choose: Choose = greedy,
) -> list[list[int]]:
    """Continue every prompt until an end-of-sequence token (which is kept) or `max_new_tokens` tokens.

    Sequences that have ended leave the batch once they make up half of it.
    """
    device = model.device
    width = max(map(len, prompts))
    tokens = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros(len(prompts), width + max_new_tokens, dtype=torch.long, device=device)
    for row, prompt in enumerate(prompts):
        tokens[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    ends = torch.tensor(sorted(eos_ids), device=device)
    cache = StaticCache(config=model.config, max_cache_len=width + max_new_tokens)
    output = torch.zeros(len(prompts), max_new_tokens, dtype=torch.long, device=device)
    counts = torch.full((len(prompts),), max_new_tokens, device=device)
    rows = torch.arange(len(prompts), device=device)
    inputs, positions = tokens.to(device), (mask[:, :width].cumsum(dim=-1) - 1).clamp(min=0)
    for step in range(max_new_tokens):
        logits = model(
            input_ids=inputs,
            attention_mask=mask[rows, : width + step],
            position_ids=positions,
            past_key_values=cache,
            logits_to_keep=1,
        ).logits[:, -1]
        chosen = choose(logits.float(), step, rows)
        output[rows, step] = chosen
        ended = torch.isin(chosen, ends) & (counts[rows] == max_new_tokens)
        counts[rows[ended]] = step + 1
        alive = counts[rows] == max_new_tokens
        if not alive.any():
            break
        if alive.sum() <= len(rows) // 2:
            rows, chosen = rows[alive], chosen[alive]
            _keep_rows(cache, alive)
        inputs, positions = chosen[:, None], (lengths[rows] + step)[:, None]
    return [output[row, :count].tolist() for row, count in enumerate(counts.tolist())]


def _keep_rows(cache: StaticCache, keep: Tensor) -> None:
    for layer in cache.layers:
        here = keep.to(layer.keys.device)  # a model spread over GPUs has its cache spread, too
        layer.keys, layer.values = layer.keys[here], layer.values[here]
        layer.batch_size = len(layer.keys)


@dataclass(frozen=True)
class Answer:
    """One turn of a conversation answered: the ids of its whole prompt and of the answer, and the text."""

    prompt: list[int]
    tokens: list[int]
    text: str


def answer_conversations(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Sequence[str]],
    *,
    eos_ids: Collection[int],
    max_new_tokens: int,
    batch_size: int = 32,
    choose: Callable[[int, Sequence[int]], Choose] = lambda turn, members: greedy,
    form: ChatFormat = OWN_FORMAT,
) -> list[list[Answer]]:
    """Answer every turn of every conversation (lists of the user's turns), feeding the model its own answers.

    `choose(turn, members)` makes the token choice of a batch whose rows are the conversations `members`.
    Prompts of similar length share a batch. Returns the answers by conversation and turn.
    """
    answers: list[list[Answer]] = [[] for _ in conversations]
    for turn in range(max(map(len, conversations))):
        prompts = {
            index: render(tokenizer, turns[: turn + 1], [answer.text for answer in answers[index]], form)
            for index, turns in enumerate(conversations)
            if turn < len(turns)
        }
        order = sorted(prompts, key=lambda index: len(prompts[index]))
        for start in range(0, len(order), batch_size):
            members = order[start : start + batch_size]
            outputs = generate_batch(
                model,
                [prompts[index] for index in members],
                eos_ids=eos_ids,
                max_new_tokens=max_new_tokens,
                choose=choose(turn, members),
            )
            for index, tokens in zip(members, outputs, strict=True):
                text = tokenizer.decode(tokens, skip_special_tokens=True)
                answers[index].append(Answer(prompts[index], tokens, text))
    return answers
