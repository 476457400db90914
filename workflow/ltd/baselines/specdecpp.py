"""SpecDec++ (arXiv 2405.19715): stop where a rejection has become likely.

Decides the depth. A head on the draft model's hidden state predicts, token by token, that the token will
be accepted; the product along the chain is the probability of no rejection, and drafting stops where that
falls below a threshold (the optimal policy of the paper's decision process has this form). Original: 1 -
product above 0.7 stops. The first factor counts as 1 and at least two tokens are drafted, so the first level
is never judged. The head is the paper's comparison's: SiLU(W1 x) + W2 x of 1024 units, one logit, 5 epochs.

On trees: the hidden state is that of the best node that a pass expands, and "accepted" means that the
accepted path reaches the pass's level inside the verified tree. Each factor is learned from those
positions alone where the path had come as far as the level before, so that the product stands for the
probability of reaching the level from the first one. It is lower than that: training takes as many accepted
tokens as rejected ones, and of all tokens more are accepted. The search for the threshold makes up for it at
one depth, not at all of them. The fitted variant learns from trees of the best static size, the published one
from trees of `published_size` nodes: 60 in the papers, 38 in the default, all that a beam of 2 has at depth
10.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ltd import devices
from ltd.baselines.classifier import known, reached, sigmoid, train_network
from ltd.baselines.threshold import ThresholdRule
from ltd.baselines.variants import FitData
from ltd.errors import InputError
from ltd.replay.traces import Traces

ROWS_AT_ONCE = 8192
# The first level whose factor counts, and after which drafting may stop.
FIRST_JUDGED = 2


class AcceptanceHead(nn.Module):
    """Hidden states [B, H] -> logits [B, 1]."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.skip = nn.Linear(width, hidden), nn.Linear(width, hidden, bias=False)
        self.output = nn.Linear(hidden, 1)

    def forward(self, states: Tensor) -> Tensor:
        """Residual unit and logit."""
        return self.output(nn.functional.silu(self.gate(states)) + self.skip(states))

    @property
    def weights(self) -> int:
        """Number of its weights, biases left out."""
        return sum(layer.weight.numel() for layer in (self.gate, self.skip, self.output))

    def for_kernel(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]:
        """Arguments of `ltd.baselines.live_decisions.StateAcceptance`, in this head's memory on a CPU."""
        tensors = self.gate.weight, self.gate.bias, self.skip.weight, self.output.weight[0]
        return *(tensor.detach().cpu().numpy() for tensor in tensors), self.output.bias.item()

    def save(self, path: Path) -> None:
        """Write the weights."""
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, path)

    @classmethod
    def load(cls, path: Path) -> "AcceptanceHead":
        """Read a file written by `save`; raises InputError when it is absent or another's."""
        if not path.is_file():
            raise InputError(f"{path}: no such network; fit the baseline again")
        try:
            tensors = load_file(path)
            head = cls(tensors["gate.weight"].shape[1], tensors["gate.weight"].shape[0])
            head.load_state_dict(tensors)
        except (SafetensorError, KeyError, RuntimeError) as error:
            raise InputError(f"{path}: not an acceptance head ({str(error).splitlines()[0]})") from error
        return head.eval()


class NoRejection:
    """The signal: the predicted probability that no level after the first is rejected so far."""

    def __init__(self, head: AcceptanceHead) -> None:
        self.head, self._compiled = head, None
        self._product = 1.0
        if devices.has_numba():
            from ltd.baselines.live_decisions import StateAcceptance

            self._compiled = StateAcceptance(*head.for_kernel())

    def live(self, state: Any) -> float:
        """Of the newest level; asked after every level from the second one on, which starts anew."""
        if state.depth < FIRST_JUDGED:
            return 1.0
        before = self._product if state.depth > FIRST_JUDGED else 1.0
        on_cpu = self._compiled is not None and not state.feature.is_cuda
        self._product = before * (self._compiled if on_cpu else self._through_torch)(state)
        return self._product

    @torch.inference_mode()
    def _through_torch(self, state: Any) -> float:
        """The newest level's factor, on the device of the hidden state."""
        if self.head.output.weight.device != state.feature.device:
            self.head.to(state.feature.device)
        return float(sigmoid(self.head(state.feature[None].float()).numpy(force=True))[0, 0])

    def for_tree(self) -> tuple[Callable, Any]:
        """The kernel that drafts by this signal, and its details."""
        from ltd.baselines.live_decisions import state_tree

        return state_tree, (np.ones(1), FIRST_JUDGED, self.head.for_kernel())

    @torch.inference_mode()
    def recorded(self, traces: Traces) -> np.ndarray:
        """Of every level."""
        features = recorded_features(traces)
        rows = features.reshape(-1, features.shape[-1])
        parts = [
            self.head(torch.from_numpy(rows[first : first + ROWS_AT_ONCE].astype(np.float32))).numpy()
            for first in range(0, len(rows), ROWS_AT_ONCE)
        ]
        factors = sigmoid(np.concatenate(parts)).reshape(features.shape[:2])
        factors[:, : FIRST_JUDGED - 1] = 1.0
        return np.cumprod(factors, axis=1)


def recorded_features(traces: Traces) -> np.ndarray:
    """Hidden states [N, D, H] of the traces; raises InputError when they were recorded without."""
    if traces.features is None:
        raise InputError("specdecpp: the traces hold no hidden states; record with traces.features: true")
    return traces.features


def train(data: FitData, size: int) -> AcceptanceHead:
    """Learn which levels are reached, given the level before, in trees of `size` nodes."""
    features, arrived = recorded_features(data.traces), reached(data.traces, size)
    possible = known(data.traces)
    possible[:, 1:] &= arrived[:, :-1]
    samples = np.flatnonzero(possible)
    rows = features.reshape(-1, features.shape[-1])
    torch.manual_seed(data.training.seed)
    head = AcceptanceHead(rows.shape[1], data.training.hidden)
    train_network(
        head, lambda chosen: rows[samples[chosen]], arrived.ravel()[samples], data.training, "specdecpp"
    )
    return head.eval()


RULE = ThresholdRule(
    "specdecpp",
    signal=NoRejection,
    published_threshold=0.3,
    train=train,
    read=AcceptanceHead.load,
    first_checkpoints=(FIRST_JUDGED,),
)
