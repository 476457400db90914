"""Runs the pieces of cycles over and over and keeps how long each took.

A visit is a whole cycle made of the engine's own pieces (prefix pass, draft steps, policy decisions,
verification). Autoregressive steps and the rest of a cycle come from the decoding loop's own records,
beside whole cycles to check a profile against.

What a cycle finds in the processor's caches depends on those before. So cycles come in turns: four ordinary
trees, now and then a plain step or two, as between the cycles of a policy, then the cycle that counts. On a
CPU a tree of three nodes is drafted in 0.76 ms after its like, in 0.85 ms after a plain step and in 0.97 ms
after a tree of thirty nodes, and a plain step takes longer after a tree than in plain decoding.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ltd.engine.controllers import DraftState
from ltd.engine.decoding import CycleRecord, decode, decode_autoregressive
from ltd.engine.draft_loop import DraftLoop, make_draft_loop
from ltd.engine.drafting import Drafter
from ltd.engine.phases import PhaseClock
from ltd.engine.sampling import SamplingOptions
from ltd.engine.target import TargetModel
from ltd.engine.tree import pool_size
from ltd.engine.verification import make_verification
from ltd.measurement.timing import Stopwatch
from ltd.measurement.visits import LIVE_TOKENS, ORDINARY_TREES, PLAIN_TOKENS, prefix_axis, shorter_prompt
from ltd.rl.observations import ObservationSpec
from ltd.rl.policies import CONTINUE, Policy, PolicyNetwork
from ltd.rl.policy_controller import PolicyController
from ltd.rl.policy_settings import OBSERVED
from ltd.rl.presets import PAPER
from ltd.rl.suffix_prior import LEVELS, TOKENS, SuffixPrior

if TYPE_CHECKING:  # a GPU needs no Numba
    from ltd.engine.compiled.draft_loop import CompiledDecisions

WARM_UP = 2  # repetitions that are not counted
MOST_PLAIN_STEPS = 3  # in a turn
TREE_NEXT = 7 / 8  # chance that no plain step, or no further one, comes before the cycle that counts
PLAIN = (0, 1)  # a plain step in a schedule
NEVER_STOP = 1e9  # logit
SUFFIXES = 25_000  # in the tree of an untrained policy, about as many as the default's have


@dataclass(frozen=True)
class Turn:
    """Ordinary trees, plain steps, and the cycle that counts; trees as (depth, size)."""

    before: list[tuple[int, int]]
    plain_steps: int
    counted: tuple[int, int]


def own_text(target: TargetModel, length: int, seed: int) -> Tensor:
    """Text [length] that the target samples, so that drafts of it are accepted about as usual."""
    start = target.eos_ids[:1] or (0,)
    answer = decode_autoregressive(
        target, start, max_new_tokens=length - 1, temperature=1.0, seed=seed, eos_ids=()
    )
    return torch.tensor([*start, *answer.tokens], device=target.device)


def random_text(target: TargetModel, length: int, seed: int) -> Tensor:
    """Text [length] of any tokens: what a target with random weights writes is no likelier."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(target.vocab_size, (length,), generator=generator).to(target.device)


def shallowest(beam: int, size: int) -> int:
    """The least depth of a tree with so many nodes."""
    return next(depth for depth in count(1) if pool_size(beam, depth) >= size)


class PhaseTimer:
    """Takes the measurements; keys of the stopwatch are (phase, position on the axis, context)."""

    def __init__(
        self,
        target: TargetModel,
        drafter: Drafter,
        text: Tensor,
        sizes: tuple[int, ...],
        context_lengths: tuple[int, ...],
        policy_network: tuple[int, ...],
        seed: int,
        held_out_sizes: tuple[int, ...] = (),
        held_out_contexts: tuple[int, ...] = (),
        temperature: float = 0.0,
    ) -> None:
        """text [n]: tokens that prompts of all context lengths are cut from. What is held out is visited with
        the rest, but not in the axes of a profile. Tokens are chosen at `temperature`.
        """
        self.target, self.drafter, self.text = target, drafter, text
        self.watch = Stopwatch(target.device)
        self.temperature = temperature
        self.verification = make_verification(target, drafter, SamplingOptions(temperature))
        self.seed, self.random = seed, np.random.default_rng(seed)
        self.policies = untrained_policies(drafter, sizes, policy_network, self.random)
        self.loops = [make_draft_loop(drafter, pair, PhaseClock(target.device)) for pair in self.policies]
        self._visits = 0
        self.live: list[tuple[float, ...]] = []  # depth, size, context, prefix rows, milliseconds
        self.profile_sizes, self.sizes = sizes, (*sizes, *held_out_sizes)
        self.contexts = (*context_lengths, *held_out_contexts)
        self.rows = prefix_axis(drafter.max_depth)
        self.turns = max(len(self.sizes), len(self.rows))

    def run(self, repetitions: int) -> None:
        """Warm up, then visit everything `repetitions` times."""
        self.warm_up()
        for _ in tqdm(range(repetitions), desc="profile_latency", unit="round"):
            self.round()

    def warm_up(self) -> None:
        """Visit everything and forget it."""
        for _ in tqdm(range(WARM_UP), desc="warm-up", unit="round"):
            self.round()
        self.forget()

    def forget(self) -> None:
        """Drop what was taken so far."""
        self.watch.clear()
        self.live.clear()

    def begin_visit(self, number: int) -> None:
        """From here on draw as before visit number `number` of any run, whatever this one has visited."""
        self.random = np.random.default_rng([self.seed, number])

    def round(self) -> None:
        """Visit every context length."""
        for context in self.random.permutation(self.contexts).tolist():
            self.visit(context)

    def visit(self, context: int) -> None:
        """Visit every size at one context length, piece by piece and in the decoding loop."""
        self._visit_all(context)
        self._decode_live(context)

    @property
    def axes(self) -> dict[str, list[int]]:
        """Positions of every phase's table in a profile."""
        return {
            "autoregressive_step": [1],
            "plain_step": [1],
            "draft_prefix": list(self.rows),
            "draft_step": list(range(2, self.drafter.max_depth + 1)),
            "verify": list(self.profile_sizes),
            "depth_policy": sorted({policies.weights["depth"] for policies in self.policies}),
            "size_policy": sorted({policies.weights["size"] for policies in self.policies}),
            "rest": list(self.profile_sizes),
        }

    def _visit_all(self, context: int) -> None:
        """Every size and number of rows has a turn; the cache holds about `context` tokens in the middle."""
        turns = self._turns()
        prompt = self._prompt(max(context - shorter_prompt(len(turns)), 2))
        logits, taps = self.target.prefill(prompt)
        self.drafter.prefill(taps, prompt)
        newest = taps[-1:], logits.argmax(dim=-1, keepdim=True)
        self.drafter.defer(*newest)
        self.verification.begin(newest[1])
        rows = self.random.permutation(np.resize(self.random.permutation(self.rows), self.turns))
        for turn, needed in zip(turns, rows.tolist(), strict=True):
            # The policies take turns: each sees whole cycles, as it does in decoding.
            loop = self.loops[self._visits % len(self.loops)]
            self._visits += 1
            for shape in turn.before:
                self._visit(Stopwatch(self.target.device), loop, *shape, 1, context, *newest)
            for _ in range(min(turn.plain_steps, needed - 1)):  # each leaves a row to the next prefix pass
                self.verification.step()
                self.verification.follow(1)
                self.verification.keep(1)
            self._visit(self.watch, loop, *turn.counted, needed, context, *newest)

    def _visit(
        self,
        watch: Stopwatch,
        loop: DraftLoop,
        depth: int,
        size: int,
        rows: int,
        context: int,
        tap: Tensor,
        token: Tensor,
    ) -> None:
        """A cycle with a prefix pass of `rows` rows and a tree of `size` nodes, of which none is kept.

        Some rows wait from the cycles before; tap [1, 3 * Ht] and token [1] are the others.
        """
        drafter, verification = self.drafter, self.verification
        more = rows - drafter.pending
        drafter.defer(tap.repeat(more, 1), token.repeat(more))
        draft = self._draft_in_one_call if drafter.drafts_in_one_call else self._draft_by_level
        draft(watch, loop, depth, rows, context)
        loop.controller.accepted(0)
        verification.select(size)
        watch.time(("verify", size, context), verification.verify)
        verification.follow(1)
        verification.keep(1)

    def _draft_by_level(self, watch: Stopwatch, loop: DraftLoop, depth: int, rows: int, context: int) -> None:
        """Draft to a depth, asking the policies, whatever they answer."""
        policies = loop.controller

        def decide(kind: str, decision: Callable[[DraftState], object]) -> None:
            key = f"{kind}_policy", policies.weights[kind], context
            watch.time(key, lambda: decision(self.drafter.state))

        watch.time(("draft_prefix", rows, context), self.drafter.extend)
        for level in range(2, depth + 1):
            decide("depth", policies.continue_drafting)
            watch.time(("draft_step", level, context), self.drafter.expand)
        decide("size", policies.choose_size)

    def _draft_in_one_call(
        self, watch: Stopwatch, loop: DraftLoop, depth: int, rows: int, context: int
    ) -> None:
        """The same, as a CPU's drafter does it: the policies are asked before every level, and share the time
        of all decisions about the depth. What the call takes beside its parts belongs to level 1.
        """
        from ltd.engine.compiled.draft_loop import FIRST_LEVEL  # a GPU needs no Numba

        begun = time.perf_counter()
        loop(depth)
        total = 1000 * (time.perf_counter() - begun)
        deciding, choosing, _, *steps = (1000 * loop.seconds[: FIRST_LEVEL + depth]).tolist()
        weights = loop.controller.weights
        watch.add(("depth_policy", weights["depth"], context), deciding / depth)
        watch.add(("size_policy", weights["size"], context), choosing)
        watch.add(("draft_prefix", rows, context), total - deciding - choosing - sum(steps))
        for level, step in enumerate(steps, start=2):
            watch.add(("draft_step", level, context), step)

    def _turns(self) -> list[Turn]:
        """Turns with every size, in random order; the largest depth is always among those that count.

        Ordinary trees are of the smaller half of depths and sizes.
        """
        deepest, number = self.drafter.max_depth, self.turns
        smaller = self.profile_sizes[: (len(self.profile_sizes) + 1) // 2]
        before = zip(
            *(self._shapes(range(1, (deepest + 1) // 2 + 1), smaller) for _ in range(ORDINARY_TREES)),
            strict=True,
        )
        plain_steps = np.minimum(self.random.geometric(TREE_NEXT, number) - 1, MOST_PLAIN_STEPS).tolist()
        if not any(plain_steps):
            plain_steps[0] = 1  # every repetition has some to time at every context
        counted = self._shapes(range(deepest, 0, -1), self.sizes)
        return [Turn(list(trees), *rest) for trees, *rest in zip(before, plain_steps, counted, strict=True)]

    def _shapes(self, depths: Sequence[int], sizes: Sequence[int]) -> list[tuple[int, int]]:
        """A (depth, size) a turn, both in random order; depth as the size needs."""
        drawn = (self.random.permutation(np.resize(axis, self.turns)).tolist() for axis in (depths, sizes))
        beam = self.drafter.beam
        return [(max(depth, shallowest(beam, size)), size) for depth, size in zip(*drawn, strict=True)]

    def _decode_live(self, context: int) -> None:
        """Answers of the decoding loop: a plain one, and one whose cycles have random depths and sizes."""
        options = {"temperature": self.temperature, "seed": self.seed, "eos_ids": ()}
        # The first steps after a prompt, up to 1.2 times as long on a CPU, are part of every answer.
        prompt = self._prompt(max(context - PLAIN_TOKENS // 2, 2))
        plain = decode_autoregressive(self.target, prompt, max_new_tokens=PLAIN_TOKENS, **options)
        for cycle in plain.cycles:
            self.watch.add(("autoregressive_step", 1, context), cycle.verify_ms + cycle.rest_ms)
        parts = [[*turn.before, *[PLAIN] * turn.plain_steps, turn.counted] for turn in self._turns()]
        schedule = RandomSchedule([shape for part in parts for shape in part])
        counted = [place >= ORDINARY_TREES for part in parts for place in range(len(part))]
        prompt = self._prompt(max(context - LIVE_TOKENS // 2, 2))
        # Answers advance by as many tokens as are accepted, so how many it takes to play all cycles varies.
        while schedule.played < len(schedule.cycles):
            before = schedule.played
            answer = decode(
                self.target, self.drafter, schedule, prompt, max_new_tokens=LIVE_TOKENS, **options
            )
            rows = 1
            for played, cycle in enumerate(answer.cycles, start=before):
                if counted[played % len(counted)]:
                    self._add_live(cycle, rows, context)
                rows = cycle.tokens if cycle.depth else rows + 1

    def _add_live(self, cycle: CycleRecord, rows: int, context: int) -> None:
        """Take the times of a cycle of the decoding loop whose prefix pass had so many rows."""
        total = cycle.draft_ms + cycle.verify_ms + cycle.rest_ms
        self.live.append((cycle.depth, max(cycle.verified, 1), cycle.context_length, rows, total))
        if cycle.depth == 0:
            # Asking whether to draft is a call, too, and counts as drafting.
            self.watch.add(("plain_step", 1, context), total)
        else:
            self.watch.add(("rest", cycle.verified, context), cycle.rest_ms)
            self.watch.add(("verify", cycle.verified, context), cycle.verify_ms)

    def _prompt(self, length: int) -> Tensor:
        """A stretch of the text, from a random place."""
        start = int(self.random.integers(0, len(self.text) - length + 1))
        return self.text[start : start + length]


class RandomSchedule:
    """A controller that plays a given list of (depth, size) over and over."""

    name = "schedule"

    def __init__(self, cycles: list[tuple[int, int]]) -> None:
        self.cycles, self.played = cycles, 0

    def begin(self, prompt_length: int) -> None:
        """Nothing to prepare."""

    def compiled_decisions(self) -> "CompiledDecisions":
        """Those of the next entry."""
        from ltd.engine.compiled.draft_loop import static_decisions

        return static_decisions(*self._now)

    def continue_drafting(self, state: DraftState) -> bool:
        """Until the scheduled depth."""
        return state.depth < self._now[0]

    def choose_size(self, state: DraftState) -> int:
        """The scheduled size."""
        return self._now[1]

    def accepted(self, count: int) -> None:
        """On to the next entry."""
        self.played += 1

    @property
    def _now(self) -> tuple[int, int]:
        return self.cycles[self.played % len(self.cycles)]


def untrained_policies(
    drafter: Drafter, sizes: tuple[int, ...], network: tuple[int, ...], random: np.random.Generator
) -> tuple[PolicyController, ...]:
    """Policies with random weights, as slow as trained ones: compact ones with these layers, the paper's.

    They never stop drafting: the depth is not theirs to choose.
    """
    prior = SuffixPrior(np.arange(SUFFIXES) * TOKENS, np.zeros((SUFFIXES + 1, len(LEVELS)), np.float32))

    def policy(kind: str, parts: tuple[str, ...], layers: tuple[int, ...]) -> Policy:
        spec = ObservationSpec(parts, drafter.beam, drafter.max_depth, sizes, suffix_prior=prior)
        actions = sizes if kind == "size" else (0, 1)
        widths = pairwise((spec.width, *layers, len(actions)))
        weights = [(random.standard_normal((b, a)) / a**0.5, np.zeros(b)) for a, b in widths]
        if kind == "depth":
            weights[-1][1][CONTINUE] = NEVER_STOP
        return Policy(kind, PolicyNetwork(weights), spec, actions)

    kinds = ("depth", "size")
    compact = (policy(kind, OBSERVED, network) for kind in kinds)
    paper = (policy(kind, PAPER[f"{kind}_observation"], PAPER[f"{kind}_network"]) for kind in kinds)
    return PolicyController(*compact), PolicyController(*paper)
