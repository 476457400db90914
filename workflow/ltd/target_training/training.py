"""Training loop of the embedded target: answer loss, two optimisers, growth in depth, checkpoints."""

import json
import math
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaForCausalLM

from ltd.devices import mixed_precision
from ltd.errors import InputError
from ltd.files import atomic_path
from ltd.muon import Muon
from ltd.target_training.growth import grow
from ltd.target_training.packing import Rows

CHECKPOINT = "checkpoint.safetensors"


class Schedule(Protocol):
    """The options that the loop reads; `ltd.train_target.Options` explains them."""

    seed: int
    layers: int
    steps: int
    grow_step: int
    matrix_learning_rate: float
    embedding_learning_rate: float
    head_learning_rate: float
    warmup_steps: int
    decay_share: float


def answer_loss(model: LlamaForCausalLM, rows: Rows, reduction: str = "mean") -> Tensor:
    """Cross-entropy of the answer tokens, ends of turn included; logits are computed for those alone."""
    hidden = model.model(
        input_ids=rows.tokens, attention_mask=rows.mask(), position_ids=rows.positions, use_cache=False
    ).last_hidden_state
    predicted = rows.answer[:, 1:]
    logits = model.lm_head(hidden[:, :-1][predicted])
    return F.cross_entropy(logits.float(), rows.tokens[:, 1:][predicted], reduction=reduction)


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, rows: dict[str, Rows]) -> dict[str, float]:
    """Mean cross-entropy per answer token for every task, and `mean`, the average over tasks."""
    losses = {}
    for task, packed in rows.items():
        total = sum(
            answer_loss(model, packed[start : start + 8], reduction="sum").item()
            for start in range(0, len(packed), 8)
        )
        losses[task] = total / packed.answer[:, 1:].sum().item()
    return losses | {"mean": sum(losses.values()) / len(losses)}


class Trainer:
    """Model, optimisers and history at one step; everything that a checkpoint holds."""

    def __init__(self, options: Schedule, model: LlamaForCausalLM, fingerprint: str) -> None:
        self.options, self.model, self.fingerprint = options, model, fingerprint
        self.step = 0
        self.history: list[dict[str, Any]] = []
        self._make_optimisers()

    def _make_optimisers(self) -> None:
        matrices, embeddings, others = [], [], []
        for name, parameter in self.model.named_parameters():
            if not parameter.requires_grad:
                continue
            hidden = ".layers." in name and parameter.ndim == 2
            kind = matrices if hidden else embeddings if "embed_tokens" in name else others
            kind.append(parameter)
        options = self.options
        self._peaks = [
            options.matrix_learning_rate,
            options.embedding_learning_rate,
            options.head_learning_rate,
        ]
        self.optimisers = [Muon(matrices, lr=self._peaks[0])] + [
            torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.95), weight_decay=0.0)
            for parameters, peak in ((embeddings, self._peaks[1]), (others, self._peaks[2]))
        ]

    def grow(self) -> None:
        """Give the model its final depth; the optimisers start afresh."""
        self.model = grow(self.model, self.options.layers, self.options.seed)
        self._make_optimisers()

    def train_step(self, rows: Rows) -> float:
        """Do one optimiser step and return its loss; grows the model when the time has come."""
        if self.step == self.options.grow_step:
            self.grow()
        factor = learning_rate_factor(self.step, self.options)
        with mixed_precision(rows.tokens.device):
            loss = answer_loss(self.model, rows)
        loss.backward()
        for optimiser, peak in zip(self.optimisers, self._peaks, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = peak * factor
            with mixed_precision(rows.tokens.device):
                optimiser.step()
            optimiser.zero_grad()
        self.step += 1
        value = loss.item()
        if not math.isfinite(value):
            raise InputError(f"target: the loss is {value} at step {self.step}; lower the learning rates")
        return value

    def save(self, folder: Path) -> None:
        """Write a checkpoint, atomically."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for number, optimiser in enumerate(self.optimisers):
            for index, state in optimiser.state_dict()["state"].items():
                tensors |= {f"optimiser.{number}.{index}.{key}": value for key, value in state.items()}
        metadata = {
            "fingerprint": self.fingerprint,
            "step": str(self.step),
            "history": json.dumps(self.history),
        }
        with atomic_path(folder / CHECKPOINT) as path:
            save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata=metadata)

    def restore(self, folder: Path) -> bool:
        """Continue from the checkpoint in `folder` when it belongs to the same options and texts."""
        if not (folder / CHECKPOINT).is_file():
            return False
        with safe_open(folder / CHECKPOINT, "pt") as file:
            metadata = file.metadata()
            if metadata["fingerprint"] != self.fingerprint:
                return False
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        self.step, self.history = int(metadata["step"]), json.loads(metadata["history"])
        if self.step > self.options.grow_step:
            self.grow()
        weights = {key.removeprefix("model."): v for key, v in tensors.items() if key.startswith("model.")}
        self.model.load_state_dict(weights)
        for number, optimiser in enumerate(self.optimisers):
            content = optimiser.state_dict()
            for key, value in tensors.items():
                kind, owner, *rest = key.split(".")
                if kind == "optimiser" and int(owner) == number:
                    content["state"].setdefault(int(rest[0]), {})[rest[1]] = value
            optimiser.load_state_dict(content)
        return True


def learning_rate_factor(step: int, options: Schedule) -> float:
    """Share of the peak learning rate: warm-up from 0 (again after growing), constant, linear decay to 0."""
    since = step - options.grow_step if step >= options.grow_step else step
    warm = min(1.0, (since + 1) / max(1, options.warmup_steps))
    return warm * min(1.0, (options.steps - step) / max(1.0, options.decay_share * options.steps))
