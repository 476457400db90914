"""Many answers replayed at once: lanes that walk along recorded answers, a draft-and-verify cycle at a time.

The training environments and the validation both stand on this walk. It holds no policy: whoever uses it
decides when a lane's draft stops and how much of it is verified.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from ltd.replay.dense_latency import dense_for
from ltd.replay.latency import LatencyProfile
from ltd.replay.latency_family import side_by_side
from ltd.replay.table import ReplayTable
from ltd.replay.traces import Traces
from ltd.rl import machine
from ltd.rl.observations import DraftView, Levels, ObservationSpec
from ltd.rl.policies import Policy, all_blind
from ltd.rl.suffix_prior import SuffixPrior, fit_suffix_prior

# Parts that are cheaper to read from the scores than to keep for every position and depth.
PLAIN_PARTS = {"nodes", "level", "depth", "length", "hidden", "suffix"}
MAX_TABLE_BYTES = 1 << 30
ROWS_AT_ONCE = 4096


class ReplayWorld:
    """Traces and the latency profile of one machine, ready for look-ups; shared by all walks over them.

    With a family of machines, every lane of a walk may be on another one, named by its place in the family.
    """

    def __init__(
        self,
        traces: Traces,
        profile: LatencyProfile,
        sizes: tuple[int, ...],
        family: Sequence[LatencyProfile] = (),
    ) -> None:
        """family: machines to walk on instead of that of `profile`, with its times of decisions.

        Raises InputError when traces and profile do not belong together or the profile lacks a size.
        """
        self.traces, self.profile, self.sizes = traces, profile, tuple(sizes)
        self.measured = profile
        self.family = tuple(family) or (profile,)
        self.max_depth = traces.max_depth
        self.table = ReplayTable(traces)
        self.latency = side_by_side([dense_for(traces, one, max(sizes)) for one in self.family])
        self._contexts = len(self.latency.autoregressive) // len(self.family)
        self.starts = traces.starts
        self.context_length = np.asarray(traces.context_length, dtype=np.int64)
        self.tokens_left = np.asarray(traces.tokens_left, dtype=np.int64)
        self.step_seconds = float(self.latency.autoregressive[self.context_length].mean())
        self._observations: dict[ObservationSpec, ObservationTable] = {}

    @property
    def hidden_size(self) -> int:
        """Width of the head's hidden states in the traces; 0 where they hold none."""
        return 0 if self.traces.features is None else self.traces.features.shape[-1]

    @cached_property
    def _suffixes(self) -> tuple[SuffixPrior, np.ndarray]:
        return fit_suffix_prior(self.traces)

    @property
    def suffix_prior(self) -> SuffixPrior:
        """What drafts after the newest tokens bring in these traces."""
        return self._suffixes[0]

    def known_by(self, prior: SuffixPrior) -> np.ndarray:
        """What a tree of suffixes says of every position, [N, C]; of those it was made from, without their
        own answer.
        """
        own, held_out = self._suffixes
        return held_out if prior == own else prior.after(self.traces.recent)

    def column(self, positions: np.ndarray, machines: np.ndarray | int = 0) -> np.ndarray:
        """Column of the latency tables at positions on machines of the family; the two broadcast."""
        return self.context_length[positions] + np.asarray(machines) * self._contexts

    def with_networks(self, weights: Mapping[str, int], blind: bool = False) -> "ReplayWorld":
        """The same traces where a decision costs what networks of so many weights, by kind, were timed at;
        blind as in `LatencyProfile.with_networks`.
        """
        world = copy.copy(self)
        world.profile = profile = self.measured.with_networks(weights, blind)
        world.latency = replace(self.latency, decisions=profile.decisions)
        return world

    def charged_for(self, *pair: Policy | int) -> "ReplayWorld":
        """The same traces where decisions cost what those of these policies do; constants are not asked."""
        weights = {policy.kind: policy.weights for policy in pair if isinstance(policy, Policy)}
        return self.with_networks(weights, all_blind(pair))

    def observations(self, spec: ObservationSpec) -> "ObservationTable":
        """Return the observations of `spec` at every position and depth, made once."""
        if spec not in self._observations:
            machines = None
            if machine.PART in spec.parts:
                machines = np.stack([machine.machine_numbers(one, spec.sizes) for one in self.family])
            known = None if spec.suffix_prior is None else self.known_by(spec.suffix_prior)
            self._observations[spec] = ObservationTable(self.traces, spec.without_machine, machines, known)
        return self._observations[spec]

    def walk(self, position: np.ndarray, machines: np.ndarray | None = None) -> "Walk":
        """Return one lane at each position [L]; machines [L] are places in the family, None its first."""
        return Walk(self, position, machines)


class ObservationTable:
    """Observations by (position, depth): summaries are computed once, plain parts when asked for.

    `machines` [P, M] float32, where the policy observes the machine, are the numbers of each; `known` [N, C],
    where it observes the suffix, what its tree says at every position.
    """

    def __init__(
        self,
        traces: Traces,
        spec: ObservationSpec,
        machines: np.ndarray | None = None,
        known: np.ndarray | None = None,
    ) -> None:
        self.traces, self.spec, self.machines, self.known = traces, spec, machines, known
        shape = (len(traces), traces.max_depth + 1, spec.width)
        self._rows: np.ndarray | None = None
        if math.prod(shape) * 4 <= MAX_TABLE_BYTES and not PLAIN_PARTS.issuperset(spec.parts):
            self._rows = self._whole(shape)

    def _whole(self, shape: tuple[int, int, int]) -> np.ndarray:
        """Compute the whole table [N, D + 1, width] float32."""
        table = np.empty(shape, dtype=np.float32)
        for first in range(0, shape[0], ROWS_AT_ONCE):
            positions = np.arange(first, min(first + ROWS_AT_ONCE, shape[0]))
            levels = Levels(len(positions), self.spec)
            for depth in range(shape[1]):
                table[positions, depth] = self._observe(positions, depth, levels)
        return table

    def rows(self, positions: np.ndarray, depth: np.ndarray, machines: np.ndarray | int = 0) -> np.ndarray:
        """Return observations [..., width] float32 of (position, depth) pairs, which broadcast.

        machines: places in the family, of the same shape as the positions, or one for all.
        """
        seen = self._of_drafts(positions, depth)
        if self.machines is None:
            return seen
        numbers = self.machines[np.broadcast_to(machines, seen.shape[:-1])]
        return np.concatenate([seen, numbers], axis=-1)

    def _of_drafts(self, positions: np.ndarray, depth: np.ndarray) -> np.ndarray:
        if self._rows is not None:
            return self._rows[positions, depth]
        positions, depth = np.broadcast_arrays(positions, depth)
        flat = positions.ravel(), depth.ravel()
        observations = np.empty((len(flat[0]), self.spec.width), dtype=np.float32)
        for level in np.unique(flat[1]):
            rows = np.flatnonzero(flat[1] == level)
            observations[rows] = self._observe(flat[0][rows], int(level))
        return observations.reshape(*positions.shape, self.spec.width)

    def _observe(self, positions: np.ndarray, depth: int, levels: Levels | None = None) -> np.ndarray:
        traces, entropy = self.traces, None
        if traces.entropy is not None:
            newest = traces.entropy[positions, depth - 1]
            entropy = newest if depth > 0 else np.zeros_like(newest)
        hidden = None
        if depth > 0 and "hidden" in self.spec.parts:
            hidden = traces.features[positions, depth - 1]
        suffix = None if self.known is None else self.known[positions]
        context = traces.context_length[positions]
        view = DraftView(traces.scores[positions], depth, context, entropy, levels, hidden, suffix)
        return self.spec.observe(view)


class Walk:
    """L lanes, each somewhere in an answer with a draft of some depth in progress.

    position [L] index into the traces, depth [L] levels drafted so far in the running cycle,
    decisions [L] times the depth policy was asked in it, rows [L] true rows the next prefix pass processes,
    machine [L] place of each lane's machine in the world's family.
    """

    def __init__(self, world: ReplayWorld, position: np.ndarray, machines: np.ndarray | None = None) -> None:
        """machines: [L]; the first of the family everywhere when None."""
        self.world = world
        lanes = len(position)
        self.machine = np.zeros(lanes, dtype=np.int64) if machines is None else machines
        self.position = np.array(position, dtype=np.int64)
        self.depth = np.zeros(lanes, dtype=np.int64)
        self.decisions = np.zeros(lanes, dtype=np.int64)
        self.rows = np.ones(lanes, dtype=np.int64)

    def place(self, lanes: np.ndarray, position: np.ndarray) -> None:
        """Put lanes at the start of other answers."""
        self.position[lanes] = position
        self.rows[lanes] = 1

    def finish(self, lanes: np.ndarray, sizes: np.ndarray, size_decisions: int) -> tuple[np.ndarray, ...]:
        """Verify the drafts of some lanes and step them on to the next root.

        Args:
            lanes: [B] which lanes; sizes: [B] chosen sizes (ignored at depth 0).
            size_decisions: 1 when a size policy was asked and its time counts, otherwise 0.

        Returns:
            tokens [B], seconds [B], ended [B]: True where the answer is over; the lane must then be placed.
        """
        world, position, depth = self.world, self.position[lanes], self.depth[lanes]
        accepted = world.table.accepted(position, depth, sizes)
        left = world.tokens_left[position]
        tokens = np.minimum(accepted + 1, left)
        seconds = world.latency.cycle_seconds(
            depth,
            sizes,
            world.column(position, self.machine[lanes]),
            self.rows[lanes],
            self.decisions[lanes],
            size_decisions * (depth > 0),
        )
        self.rows[lanes] = np.where(depth > 0, tokens, self.rows[lanes] + 1)
        self.position[lanes] = position + tokens
        self.depth[lanes] = 0
        self.decisions[lanes] = 0
        return tokens, seconds, tokens == left
