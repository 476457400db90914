"""Trained policies: small networks in safetensors and JSON.

A folder of policies holds `depth.safetensors`, `size.safetensors` and one `policy.json` that describes both:
observation, action map, and the hashes of what they were trained on. The tree of the observation part
`suffix` is kept beside the weights. Only numpy, torch and safetensors are needed to run them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ltd.errors import InputError
from ltd.files import read_json, write_json
from ltd.rl.observations import DraftView, ObservationSpec
from ltd.rl.suffix_prior import SuffixPrior

VERSION = 2
STOP, CONTINUE = 0, 1
# Above this many weights a layer gains from torch's threads; below, numpy's lower overhead wins.
NUMPY_WEIGHTS = 100_000
DESCRIPTION = "policy.json"
# Written beside every pair by its training: among others the constants that do best in the place of either.
VALIDATION = "validation.json"
# The field of an observation that is kept beside the weights, and its arrays there.
SUFFIX_PRIOR, EDGES, VALUES = "suffix_prior", "suffix_edges", "suffix_values"


class PolicyNetwork:
    """A plain multilayer perceptron with ReLU between its linear layers."""

    def __init__(self, layers: list[tuple[np.ndarray, np.ndarray]]) -> None:
        """layers: (weight [out, in], bias [out]) float32 of every linear layer, input side first."""
        self.layers = [(np.ascontiguousarray(w, np.float32), np.asarray(b, np.float32)) for w, b in layers]
        # Transposed copies: rows times these is what numpy does fastest.
        self._transposed = [(np.ascontiguousarray(weight.T), bias) for weight, bias in self.layers]
        self.large = max(weight.size for weight, _ in self.layers) > NUMPY_WEIGHTS
        self._tensors = [(torch.from_numpy(w), torch.from_numpy(b)) for w, b in self.layers]
        # What `choose` writes into: a decision makes no arrays.
        self._hidden = [(w, b, np.empty_like(b), np.zeros_like(b)) for w, b in self.layers]

    @property
    def inputs(self) -> int:
        """Width of the observation that the network expects."""
        return self.layers[0][0].shape[1]

    @property
    def outputs(self) -> int:
        """Number of actions."""
        return self.layers[-1][0].shape[0]

    @property
    def hidden(self) -> tuple[int, ...]:
        """Widths of the hidden layers."""
        return tuple(len(bias) for _, bias in self.layers[:-1])

    @property
    def weights(self) -> int:
        """Numbers in the weight matrices: the multiplications of a decision."""
        return sum(weight.size for weight, _ in self.layers)

    def choose(self, observation: np.ndarray) -> int:
        """Return the index of the largest output for one observation [inputs] float32."""
        if self.large:
            return int(self._torch_logits(observation[None]).argmax())
        *inner, (weight, bias, out, _) = self._hidden
        hidden = observation
        for inner_weight, inner_bias, activation, zeros in inner:
            inner_weight.dot(hidden, activation)
            np.add(activation, inner_bias, out=activation)
            hidden = np.maximum(activation, zeros, out=activation)
        weight.dot(hidden, out)
        return int(np.add(out, bias, out=out).argmax())

    def logits(self, observations: np.ndarray) -> np.ndarray:
        """[B, inputs] float32 -> [B, outputs] float32."""
        if self.large:
            return self._torch_logits(observations)
        hidden = observations
        for weight, bias in self._transposed[:-1]:
            hidden = np.dot(hidden, weight)
            hidden += bias
            np.maximum(hidden, 0, out=hidden)
        weight, bias = self._transposed[-1]
        return np.dot(hidden, weight) + bias

    @torch.no_grad()
    def _torch_logits(self, observations: np.ndarray) -> np.ndarray:
        hidden = torch.from_numpy(np.ascontiguousarray(observations))
        for weight, bias in self._tensors[:-1]:
            hidden = torch.addmm(bias, hidden, weight.T).relu_()
        weight, bias = self._tensors[-1]
        return torch.addmm(bias, hidden, weight.T).numpy()

    def save(self, path: Path, **others: np.ndarray) -> None:
        """Write `layers.<i>.weight` and `layers.<i>.bias`, and what else belongs to the network."""
        tensors = dict(others)
        for index, (weight, bias) in enumerate(self.layers):
            tensors |= {f"layers.{index}.weight": weight, f"layers.{index}.bias": bias}
        save_file(tensors, path)

    @classmethod
    def load(cls, path: Path) -> "PolicyNetwork":
        """Read a file written by `save`; raises InputError when it is absent or has no such layers."""
        if not path.is_file():
            raise InputError(f"{path}: no such policy; train it first")
        try:
            tensors = load_file(path)
            count = sum(name.startswith("layers.") for name in tensors) // 2
            return cls([(tensors[f"layers.{i}.weight"], tensors[f"layers.{i}.bias"]) for i in range(count)])
        except (SafetensorError, KeyError, ValueError) as error:
            raise InputError(f"{path}: not a policy network ({error})") from error


@dataclass(frozen=True)
class Policy:
    """One trained decision.

    kind `size` chooses among `actions` (sizes, ascending); kind `depth` among stop (0) and continue (1),
    asked at depths first_decision, first_decision + interval, ... below the largest depth; elsewhere drafting
    goes on. `trained_on` holds hashes of traces, profile, target and draft head. `machine` are the numbers
    of the machine it was made for, where it observes the machine (`ltd.rl.machine`); otherwise empty.
    """

    kind: str
    network: PolicyNetwork
    spec: ObservationSpec
    actions: tuple[int, ...]
    first_decision: int = 0
    interval: int = 1
    trained_on: Mapping[str, str] = field(default_factory=dict)
    machine: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        wanted = (self.spec.width, len(self.actions))
        found = (self.network.inputs, self.network.outputs)
        if wanted != found:
            raise InputError(
                f"{self.kind} policy: its description asks for {wanted[0]} inputs and {wanted[1]} actions, "
                f"the network has {found[0]} and {found[1]}; the two files do not belong together"
            )

    @property
    def weights(self) -> int:
        """Multiplications of a decision; the machine, which stands still, is in the bias when it is made."""
        still = self.spec.width - self.spec.without_machine.width
        return self.network.weights - still * self.network.layers[0][0].shape[0]

    def asked(self, depth: np.ndarray | int) -> np.ndarray | bool:
        """Tell whether the depth policy decides at `depth`; elsewhere drafting continues without it."""
        return (depth >= self.first_decision) & ((depth - self.first_decision) % self.interval == 0)

    def choose(self, view: DraftView) -> np.ndarray:
        """Return the index of the best action for every draft of the view, [B]."""
        return self.network.logits(self.spec.observe(view)).argmax(axis=1)

    def description(self) -> dict[str, Any]:
        """What policy.json says about this policy."""
        rest = {name: getattr(self, name) for name in ("actions", "first_decision", "interval", "machine")}
        names = (field.name for field in fields(self.spec) if field.name != SUFFIX_PRIOR)
        observation = {name: getattr(self.spec, name) for name in names}
        return {"observation": observation} | rest | {"trained_on": dict(self.trained_on)}


def all_blind(pair: Iterable[Policy | int]) -> bool:
    """Whether no policy of a pair, of which either may be a constant, sees anything of the draft."""
    return all(policy.spec.blind for policy in pair if isinstance(policy, Policy))


def save_policies(folder: Path, *policies: Policy) -> None:
    """Write the given policies (one or both kinds) and their description into an existing folder."""
    for policy in policies:
        prior = policy.spec.suffix_prior
        arrays = {} if prior is None else {EDGES: prior.edges, VALUES: prior.values}
        policy.network.save(folder / f"{policy.kind}.safetensors", **arrays)
    descriptions = {policy.kind: policy.description() for policy in policies}
    write_json(folder / DESCRIPTION, {"version": VERSION} | descriptions)


def load_policy(folder: str | Path, kind: str) -> Policy:
    """Read the policy of one kind, `depth` or `size`; raises InputError when it is absent or inconsistent."""
    path = Path(folder) / DESCRIPTION
    description = read_json(path)
    if description.get("version") != VERSION:
        raise InputError(f"{path}: version {description.get('version')}, expected {VERSION}; train it again")
    if kind not in description:
        raise InputError(f"{path}: no {kind} policy in this folder")
    entry, weights = description[kind], path.with_name(f"{kind}.safetensors")
    network, arrays = PolicyNetwork.load(weights), load_file(weights)
    observation = entry["observation"]
    observation |= {"parts": tuple(observation["parts"]), "sizes": tuple(observation["sizes"])}
    observation[SUFFIX_PRIOR] = SuffixPrior(arrays[EDGES], arrays[VALUES]) if EDGES in arrays else None
    return Policy(
        kind=kind,
        network=network,
        spec=ObservationSpec(**observation),
        actions=tuple(entry["actions"]),
        first_decision=entry["first_decision"],
        interval=entry["interval"],
        trained_on=entry["trained_on"],
        machine=tuple(entry.get("machine", ())),
    )
