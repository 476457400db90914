"""Target features for training the head: one teacher-forced forward pass, kept on disk where they fit.

Per position the head's training needs the three tapped hidden states (its input), the final hidden state
(from which the target's distribution follows) and the target's most likely token. That is 4 * H numbers a
position; small models keep them in a memory-mapped file, large ones recompute them batch by batch.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from ltd.bfloat16 import computes_in, saved_type
from ltd.errors import InputError
from ltd.files import atomic_path
from ltd.texts.responses import Sequence

GIB = 1 << 30


@dataclass(frozen=True)
class Features:
    """Teacher-forced features of padded sequences [B, S]."""

    taps: Tensor  # [B, S, 3 * Ht], low, middle, high
    final: Tensor  # [B, S, Ht], after the final norm
    best: Tensor  # [B, S], the target's most likely next token


FeatureSource = Callable[[list[int]], Features]


def pad_tokens(sequences: list[Tensor], device: torch.device, multiple: int = 1) -> tuple[Tensor, Tensor]:
    """Tokens [B, S] int64, padded with 0 on the right to a multiple of `multiple`, and lengths [B]."""
    lengths = torch.tensor([len(sequence) for sequence in sequences], device=device)
    padded = torch.nn.utils.rnn.pad_sequence([s.to(torch.int64) for s in sequences], batch_first=True)
    return F.pad(padded, (0, -padded.shape[1] % multiple)).to(device), lengths


@torch.no_grad()
def target_features(model, tap_layers: tuple[int, int, int], tokens: Tensor, lengths: Tensor) -> Features:
    """One forward pass of a transformers causal language model over tokens [B, S] of these lengths [B].

    The result is where the tokens are, also when the layers of the model are on several devices.
    """
    device = tokens.device
    mask = (torch.arange(tokens.shape[1], device=device) < lengths[:, None]).to(torch.int64)
    output = model.base_model(
        input_ids=tokens, attention_mask=mask, output_hidden_states=list(tap_layers), use_cache=False
    )
    taps = torch.cat([output.hidden_states[index].to(device) for index in tap_layers], dim=-1)
    final = output.last_hidden_state
    best = torch.stack([model.get_output_embeddings()(row).argmax(-1) for row in final])
    return Features(taps, final.to(device), best.to(device))


def online_source(model, tap_layers: tuple[int, int, int], sequences: list[Sequence]) -> FeatureSource:
    """Features computed anew for every batch of indices."""

    def source(indices: list[int]) -> Features:
        tokens, lengths = pad_tokens([sequences[index].tokens for index in indices], model.device)
        return target_features(model, tap_layers, tokens, lengths)

    return source


def cache_bytes(sequences: list[Sequence], width: int) -> int:
    """Size of the file that `cached_source` keeps for a target of this width."""
    return sum(len(sequence.tokens) for sequence in sequences) * (4 * width * 2 + 4)


def cached_source(
    model, tap_layers: tuple[int, int, int], sequences: list[Sequence], path: Path, batch_rows: int
) -> FeatureSource:
    """Features computed once in half precision and kept in the memory-mapped file `path`, which may exist
    already. Raises InputError where the disk or half precision is too small for them.
    """
    width, device = model.config.get_text_config().hidden_size, model.device
    # Residual streams of large bfloat16 models leave the range of float16.
    dtype = saved_type(computes_in(model))
    lengths = [len(sequence.tokens) for sequence in sequences]
    total, starts = sum(lengths), torch.tensor([0, *lengths]).cumsum(0).tolist()
    if not path.is_file():
        with atomic_path(path) as temporary:
            _check_disk(path, cache_bytes(sequences, width))
            states, best = _map(temporary, total, width, dtype)
            online = online_source(model, tap_layers, sequences)
            for indices in tqdm(
                _in_order_of_length(lengths, batch_rows), desc="target features", unit="batch"
            ):
                computed = online(indices)
                _check_range(computed, dtype)
                for row, index in enumerate(indices):
                    span, length = slice(starts[index], starts[index + 1]), lengths[index]
                    states[span, : 3 * width] = computed.taps[row, :length]
                    states[span, 3 * width :] = computed.final[row, :length]
                    best[span] = computed.best[row, :length]
    states, best = _map(path, total, width, dtype)

    def source(indices: list[int]) -> Features:
        spans = [slice(starts[index], starts[index + 1]) for index in indices]
        pad = torch.nn.utils.rnn.pad_sequence
        both = pad([states[span] for span in spans], batch_first=True).to(device=device, dtype=model.dtype)
        tokens = pad([best[span] for span in spans], batch_first=True).to(device=device, dtype=torch.int64)
        return Features(both[..., : 3 * width], both[..., 3 * width :], tokens)

    return source


def _check_disk(path: Path, size: int) -> None:
    """A mapped file that the disk cannot hold would end the process without a word."""
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise InputError(
            f"draft.feature_cache_gib: the target's features take {size / GIB:.1f} GiB, {path.parent} has "
            f"{free / GIB:.1f} GiB free; use a smaller number, which recomputes them, or another disk"
        )


def _check_range(features: Features, dtype: torch.dtype) -> None:
    end = torch.finfo(dtype).max
    if not all(bool((states.abs() <= end).all()) for states in (features.taps, features.final)):
        raise InputError(
            f"draft.feature_cache_gib: features of the target leave the range of {dtype}, {end:.0f}; "
            "use 0, which recomputes them, or dtype bfloat16"
        )


def _map(path: Path, total: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Views [total, 4 * width] and int32 [total] of one file, created when absent."""
    split = total * 4 * width * 2
    storage = torch.UntypedStorage.from_file(str(path), shared=True, nbytes=split + total * 4)
    raw = torch.empty(0, dtype=torch.uint8).set_(storage)
    return raw[:split].view(dtype).view(total, 4 * width), raw[split:].view(torch.int32)


def _in_order_of_length(lengths: list[int], batch_rows: int) -> list[list[int]]:
    """Group indices so that neighbours in length share a batch of at most about `batch_rows` padded rows."""
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    batches: list[list[int]] = [[]]
    for index in order:
        if batches[-1] and (len(batches[-1]) + 1) * lengths[index] > batch_rows:
            batches.append([])
        batches[-1].append(index)
    return batches
