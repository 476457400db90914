"""The training loop of the Eagle3 head: batches, optimisers, validation, checkpoints that survive a kill."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from ltd.devices import mixed_precision
from ltd.draft_head.checkpoint import EMBEDDING
from ltd.draft_head.eagle3 import Eagle3Head, save_head
from ltd.draft_head.features import FeatureSource, pad_tokens
from ltd.draft_head.processes import Processes
from ltd.draft_head.target_output import TargetOutput
from ltd.draft_head.training import (
    acceptance,
    plan_chains,
    row_multiple,
    taught_rows,
    unroll,
    unroll_hits,
    unroll_loss,
)
from ltd.files import atomic_path
from ltd.muon import Muon
from ltd.texts.responses import Sequence
from ltd.tracking import StageRun

CHECKPOINT_EVERY = 50  # optimiser steps: some tens of seconds of work
VALIDATION_ROWS = 4096  # answer tokens of a batch without gradients
POOL = 16  # batches are cut from pools of this many, sorted by length, so that little is padding


@dataclass(frozen=True)
class Recipe:
    """How to train; see `train_draft.TrainDraftOptions` for the meaning of each number."""

    seed: int
    unroll_steps: int
    step_weight: float
    epochs: int
    batch_rows: int
    matrix_learning_rate: float
    learning_rate: float
    warmup: float
    gradient_checkpointing: bool


@dataclass(frozen=True)
class Batch:
    """Sequences on the device, with what the target says about them."""

    taps: Tensor  # [B, S, 3 * Ht]
    tokens: Tensor  # [B, S]
    prompt_lengths: Tensor  # [B]
    lengths: Tensor  # [B]
    final: Tensor  # [B, S, Ht], the target's final hidden states
    best: Tensor  # [B, S], its most likely next tokens


@dataclass(frozen=True)
class Corpus:
    """Sequences with at least one draft chain each, and where their features come from."""

    sequences: list[Sequence]
    features: FeatureSource


def chain_count(sequence: Sequence) -> int:
    """Number of draft chains of an answer (see `ltd.draft_head.training`)."""
    return max(0, len(sequence.tokens) - 1 - sequence.prompt_length)


def epoch_batches(sequences: list[Sequence], batch_rows: int, seed: int, epoch: int) -> list[list[int]]:
    """Indices of each batch of an epoch: about `batch_rows` chains, of sequences with similar counts."""
    chooser = random.Random(f"{seed}/{epoch}")
    order = list(range(len(sequences)))
    chooser.shuffle(order)
    average = sum(map(chain_count, sequences)) / len(sequences)
    pool = max(1, round(POOL * batch_rows / average))
    batches: list[list[int]] = []
    for start in range(0, len(order), pool):
        batch: list[int] = []
        for index in sorted(order[start : start + pool], key=lambda i: chain_count(sequences[i])):
            if batch and (len(batch) + 1) * chain_count(sequences[index]) > batch_rows:
                batches.append(batch)
                batch = []
            batch.append(index)
        batches.append(batch)
    chooser.shuffle(batches)
    return batches


class Trainer:
    """Trains `head` in place, keeping checkpoints and the best epoch in folder `state`.

    `output` is the target's, for the draft vocabulary. `key` identifies the inputs: a checkpoint with another
    key is not continued. The kept head's weights are rounded to `saved_type`: decoding may pack them, and
    drafts must not depend on whether it does.
    """

    def __init__(
        self,
        recipe: Recipe,
        head: Eagle3Head,
        output: TargetOutput,
        state: Path,
        key: str,
        run: StageRun,
        saved_type: torch.dtype,
        processes: Processes | None = None,
    ) -> None:
        self.recipe, self.head, self.run, self.key = recipe, head, run, key
        self.processes = processes or Processes()
        self.device, self.saved_type = head.fc.weight.device, saved_type
        self.multiple = row_multiple(self.device)
        self.output = output.to(self.device)
        self.checkpoint, self.best_folder = state / "checkpoint.pt", state / "best"
        self.optimisers = _optimisers(head, recipe)
        self.epoch, self.done, self.step = 0, 0, 0
        self.history: list[dict[str, Any]] = []

    def train(self, train: Corpus, validation: Corpus) -> list[dict[str, Any]]:
        """Train to the end, from the last checkpoint if any; returns the validation of every epoch."""
        self._resume()
        self.processes.wait()  # nobody reads what the main process already writes
        while self.epoch < self.recipe.epochs:
            batches = epoch_batches(train.sequences, self.recipe.batch_rows, self.recipe.seed, self.epoch)
            progress = tqdm(
                batches,
                desc=f"epoch {self.epoch + 1}/{self.recipe.epochs}",
                unit="batch",
                mininterval=2,
                disable=not self.processes.main,
            )
            for index, members in enumerate(progress):
                if index < self.done:
                    continue
                share = self.processes.share(members)
                batch = self._batch(train, share) if share else None
                loss = self._step(batch, index / len(batches))
                self.done += 1
                if self.done % CHECKPOINT_EVERY == 0 and self.done < len(batches):
                    self._save()
                if self.step % 10 == 0:
                    progress.set_postfix(loss=f"{loss:.3f}")
                    self.run.metrics({"train/loss": loss}, step=self.step)
            self._finish_epoch(validation)
        return self.history

    def best_epoch(self) -> dict[str, Any]:
        """The validation of the epoch that was kept."""
        return max(self.history, key=lambda row: row["acceptance_length"])

    def _step(self, batch: Batch | None, position: float) -> float:
        """One optimiser step on this process's share of a batch; returns the loss of the whole batch."""
        factor = self._rate((self.epoch + position) / self.recipe.epochs)
        for optimiser, rate in self.optimisers:
            optimiser.param_groups[0]["lr"] = rate * factor
            optimiser.zero_grad()
        loss, rows = (None, 0) if batch is None else self._backward(batch)
        mean = self.processes.average(self.head.parameters(), loss, rows)
        with mixed_precision(self.device):
            for optimiser, _ in self.optimisers:
                optimiser.step()
        self.step += 1
        return mean

    def _backward(self, batch: Batch) -> tuple[Tensor, int]:
        """Add the gradient of the mean loss; return that mean and the number of rows it is over."""
        # A generator for every step: a continued run draws what an undisturbed one would.
        seed = self.recipe.seed * 1_000_003 + self.step
        generator = torch.Generator().manual_seed(seed + 1_000_000_007 * self.processes.rank)
        steps, weight = self.recipe.unroll_steps, self.recipe.step_weight
        checkpointing = self.recipe.gradient_checkpointing
        chains = plan_chains(batch.prompt_lengths, batch.lengths, steps, weight, generator, self.multiple)
        teacher, teacher_rows = self._teacher(batch)
        with mixed_precision(self.device):
            outputs = unroll(self.head, self.head.fuse(batch.taps), batch.tokens, chains, checkpointing)
            loss = unroll_loss(
                self.head, outputs, chains, teacher, teacher_rows, checkpointing, self.multiple
            )
        loss.backward()
        wanted = taught_rows(chains, teacher_rows, len(outputs)) if self.processes.count > 1 else []
        return loss, sum(int((row >= 0).sum()) for row in wanted)

    @torch.no_grad()
    def _teacher(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The target's distributions within the draft vocabulary, where they can be learnt (see
        `unroll_loss`).

        That is after the tokens of the answer, unless the most likely one is outside that vocabulary.
        """
        position = torch.arange(batch.tokens.shape[1], device=self.device)
        inside = (position >= batch.prompt_lengths[:, None]) & (position < batch.lengths[:, None])
        counted = inside & self.head.t2d[batch.best]
        rows = (counted.flatten().cumsum(0) - 1).view_as(counted)
        teacher = self.output.logits(batch.final[counted]).softmax(-1)
        return teacher, rows.where(counted, -1)

    def _rate(self, progress: float) -> float:
        """Linear warm-up, then linear decay to zero."""
        warmup = self.recipe.warmup
        return progress / warmup if progress < warmup else (1 - progress) / (1 - warmup)

    @torch.no_grad()
    def _batch(self, corpus: Corpus, members: list[int]) -> Batch:
        chosen = [corpus.sequences[index] for index in members]
        tokens, lengths = pad_tokens([sequence.tokens for sequence in chosen], self.device, self.multiple)
        prompts = torch.tensor([sequence.prompt_length for sequence in chosen], device=self.device)
        features = corpus.features(members)
        padding = (0, tokens.shape[1] - features.best.shape[1])
        taps = F.pad(features.taps.to(self.device, torch.float32), (0, 0, *padding))
        final = F.pad(features.final.to(self.device), (0, 0, *padding))
        best = F.pad(features.best.to(self.device), padding)
        return Batch(taps, tokens, prompts, lengths, final, best)

    def _finish_epoch(self, validation: Corpus) -> None:
        row = {"epoch": self.epoch + 1} | self.validate(validation)
        better = not self.history or row["acceptance_length"] > self.best_epoch()["acceptance_length"]
        if better and self.processes.main:
            save_head(self.head, self.best_folder, self.saved_type)
        self.history.append(row)
        self.run.metrics(_flat(row), step=row["epoch"])
        self.epoch, self.done = self.epoch + 1, 0
        self._save()

    @torch.no_grad()
    def validate(self, corpus: Corpus) -> dict[str, Any]:
        """Acceptance per draft step and simulated acceptance length, per task and as the mean over tasks."""
        steps = self.recipe.unroll_steps
        collected: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for members in epoch_batches(corpus.sequences, VALIDATION_ROWS, 0, 0):
            batch = self._batch(corpus, members)
            chains = plan_chains(batch.prompt_lengths, batch.lengths, steps)
            outputs = unroll(self.head, self.head.fuse(batch.taps), batch.tokens, chains)
            hits, taken = unroll_hits(self.head, outputs, chains, batch.tokens, steps)
            for row, index in enumerate(members):
                task, exists = corpus.sequences[index].task, chains.depths[row] > 0
                collected.setdefault(task, []).append((hits[row, exists].cpu(), taken[row, exists].cpu()))
        tasks = {}
        for task in sorted(collected):
            per_step, length = acceptance(*(torch.cat(parts) for parts in zip(*collected[task], strict=True)))
            tasks[task] = {
                "acceptance": [round(value, 4) for value in per_step.tolist()],
                "acceptance_length": length,
            }
        mean = torch.tensor([task["acceptance"] for task in tasks.values()]).mean(0).tolist()
        length = sum(task["acceptance_length"] for task in tasks.values()) / len(tasks)
        return {"acceptance": mean, "acceptance_length": length, "tasks": tasks}

    def _save(self) -> None:
        if not self.processes.main:
            return
        state = {
            "key": self.key,
            "head": {name: value for name, value in self.head.state_dict().items() if name != EMBEDDING},
            "optimisers": [optimiser.state_dict() for optimiser, _ in self.optimisers],
            "progress": [self.epoch, self.done, self.step],
            "history": self.history,
        }
        with atomic_path(self.checkpoint) as temporary:
            torch.save(state, temporary)

    def _resume(self) -> None:
        if not self.checkpoint.is_file():
            return
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        if state["key"] != self.key:
            return
        self.head.load_state_dict(state["head"], strict=False)
        for (optimiser, _), saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.epoch, self.done, self.step = state["progress"]
        self.history = state["history"]


def _optimisers(head: Eagle3Head, recipe: Recipe) -> list[tuple[torch.optim.Optimizer, float]]:
    """Muon for the layer's matrices, AdamW for the output head and the norms, each with its peak rate."""
    trained = {name: weight for name, weight in head.named_parameters() if weight.requires_grad}
    matrices = [weight for name, weight in trained.items() if weight.ndim == 2 and "lm_head" not in name]
    others = [weight for name, weight in trained.items() if weight.ndim != 2 or "lm_head" in name]
    rate = recipe.learning_rate
    return [
        (Muon(matrices, lr=recipe.matrix_learning_rate), recipe.matrix_learning_rate),
        (torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.0), rate),
    ]


def _flat(row: dict[str, Any]) -> dict[str, float]:
    """Names and numbers of one epoch's validation as tracked metrics."""

    def pairs() -> Iterator[tuple[str, float]]:
        for name, values in {"mean": row, **row["tasks"]}.items():
            yield f"validation/{name}/acceptance_length", values["acceptance_length"]
            for step, value in enumerate(values["acceptance"], start=1):
                yield f"validation/{name}/acceptance_step_{step:02d}", value

    return dict(pairs())
