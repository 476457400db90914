"""The live back end of the environments: one answer at a time, decoded by the engine, its time measured.

`LiveWorld` and `LiveWalk` stand where `ReplayWorld` and `Walk` stand in replay, so environments, rewards and
deciding counterparts are the same code for both. Every call of the engine is timed; a decision costs what
the profile says, because the learner decides outside of the engine (and explores while it does).
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from ltd.devices import synchronise
from ltd.engine.controllers import RECENT
from ltd.engine.drafting import Drafter
from ltd.engine.sampling import SamplingOptions
from ltd.engine.target import TargetModel
from ltd.engine.verification import make_verification
from ltd.errors import InputError
from ltd.replay.latency import LatencyProfile
from ltd.rl.observations import ObservationSpec
from ltd.rl.policy_controller import LiveObserver
from ltd.rl.suffix_prior import SuffixPrior
from ltd.texts.responses import Responses, Sequence


class LiveDecoder:
    """Decodes on from any root of an answer, one part of a cycle a call, and adds up the seconds it takes."""

    def __init__(self, target: TargetModel, drafter: Drafter, temperature: float) -> None:
        self.target, self.drafter, self.temperature = target, drafter, temperature
        self.seconds = 0.0

    def begin(self, answer: Sequence, emitted: int) -> None:
        """Make the answer's token number `emitted` (from 1) the root; reading what precedes it is not timed.

        The answer ends at an end-of-sequence token, at the latest with as many tokens as were recorded.
        """
        self._limit, self._emitted, self.ended = len(answer.answer), emitted, False
        self.context = self.target.token_tensor(answer.tokens[: answer.prompt_length + emitted])
        options = SamplingOptions(self.temperature, seed=answer.seed_key)
        self._verification = make_verification(self.target, self.drafter, options)
        self._read()

    def _read(self) -> None:
        """Fill both caches with all but the root."""
        before, root = self.context[:-1], self.context[-1:]
        taps = self.target.prefill(before)[1]
        self.drafter.prefill(taps, before)
        self.drafter.defer(taps[-1:], root)
        self._verification.begin(root)
        self.seconds = 0.0

    def draft(self, depth: int) -> None:
        """Bring the draft of the running cycle to `depth` levels."""
        state = self.drafter.state
        state.continue_answer(self.context[-min(self._emitted, RECENT) :].tolist())
        if state.depth > depth:  # the environment was reset in mid-cycle
            self._read()
        with self._timed():
            while state.depth < depth:
                self.drafter.expand() if state.depth else self.drafter.extend()

    @torch.inference_mode()
    def finish(self, depth: int, size: int) -> tuple[int, float]:
        """Verify the best `size` nodes of a draft of `depth` levels, or take a plain step at depth 0.

        Returns the tokens that the cycle emitted and its seconds.
        """
        self.draft(depth)
        with self._timed():
            if depth:
                self._verification.select(size)
                self._verification.verify()
            else:
                self._verification.step()
            tokens = self._advance()
        self.context = torch.cat([self.context, self.context.new_tensor(tokens)])
        seconds, self.seconds = self.seconds, 0.0
        return len(tokens), seconds

    def _advance(self) -> list[int]:
        """Keep what the target chose, as far as it belongs to the answer."""
        tokens = self._verification.follow(self._emitted)
        tokens = tokens[: self._count(tokens)]
        self._verification.keep(len(tokens))
        return tokens

    def _count(self, tokens: list[int]) -> int:
        """How many of the tokens belong to the answer."""
        for count, token in enumerate(tokens, start=1):
            self._emitted += 1
            if token in self.target.eos_ids or self._emitted >= self._limit:
                self.ended = True
                return count
        return len(tokens)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        synchronise(self.target.device)
        begun = time.perf_counter()
        yield
        synchronise(self.target.device)
        self.seconds += time.perf_counter() - begun


class LiveWorld:
    """An engine and answers of its target, whose roots episodes start from; holds a single lane.

    Roots are numbered as the positions of traces of the same answers are; `context_length` [N] is what comes
    before each, `starts` the first of every answer. `step_seconds`, the unit of time of the
    rewards, is the profile's autoregressive step over all roots, as in replay.
    """

    def __init__(
        self,
        target: TargetModel,
        drafter: Drafter,
        responses: Responses,
        profile: LatencyProfile,
        sizes: tuple[int, ...],
        temperature: float = 0.0,
    ) -> None:
        """Raises InputError when there is no answer of two tokens, or answers or sizes exceed the engine."""
        self.profile, self.sizes, self.max_depth = profile, tuple(sizes), drafter.max_depth
        self.family = (profile,)
        if profile.beam != drafter.beam:
            raise InputError(f"{profile.path}: beam: {profile.beam}, but the drafter has {drafter.beam}")
        self.answers = [answer for answer in responses.sequences() if len(answer.answer) > 1]
        if not self.answers:
            raise InputError("responses: no answer of two tokens or more; there is nothing to decode")
        if max(sizes) > target.max_tree:
            raise InputError(f"sizes: {max(sizes)} exceeds the largest tree of the target, {target.max_tree}")
        for answer in self.answers:
            target.check_prompt(len(answer.tokens))
        roots = np.array([len(answer.answer) - 1 for answer in self.answers])
        self.starts = roots.cumsum() - roots
        prompts = np.repeat([answer.prompt_length for answer in self.answers], roots)
        self._answer = np.repeat(np.arange(len(roots)), roots)
        self._emitted = np.arange(len(prompts)) - self.starts[self._answer] + 1
        self.context_length = prompts + self._emitted - 1
        self.step_seconds = float(profile.autoregressive_step(self.context_length).mean())
        self.decoder = LiveDecoder(target, drafter, temperature)
        self._observations: dict[ObservationSpec, LiveObservations] = {}

    @property
    def hidden_size(self) -> int:
        """Width of the head's hidden states."""
        return self.decoder.drafter.head.config.hidden_size

    @property
    def suffix_prior(self) -> SuffixPrior:
        """Unknown: it takes traces."""
        raise InputError("observation part 'suffix': live answers hold no traces; leave it out or use replay")

    def observations(self, spec: ObservationSpec) -> "LiveObservations":
        """What policies of this observation see of the running draft."""
        return self._observations.setdefault(spec, LiveObservations(self.decoder, spec))

    def walk(self, position: np.ndarray, machines: np.ndarray | None = None) -> "LiveWalk":
        """Return the lane at position [1]; the machine is always this one."""
        return LiveWalk(self, position)

    def begin(self, position: int) -> None:
        """Decode from another root."""
        self.decoder.begin(self.answers[self._answer[position]], int(self._emitted[position]))
        self.forget()

    def forget(self) -> None:
        """A cycle is over: what was observed of it is stale."""
        for observations in self._observations.values():
            observations.observer.clear()


class LiveObservations:
    """The live counterpart of `ltd.rl.replay_walk.ObservationTable`: looking at a depth drafts down to it."""

    def __init__(self, decoder: LiveDecoder, spec: ObservationSpec) -> None:
        self.decoder, self.observer = decoder, LiveObserver(spec)

    def rows(self, positions: np.ndarray, depth: np.ndarray, machines: np.ndarray | int = 0) -> np.ndarray:
        """Return the observation of the one lane at its depth, [1, width], or [0, width] for no lane."""
        if not len(positions):
            return np.empty((0, self.observer.spec.width), dtype=np.float32)
        self.decoder.draft(int(depth[0]))
        return self.observer.observe(self.decoder.drafter.state)[None].copy()


class LiveWalk:
    """One lane that walks along answers as they are decoded; arrays [1] mean what they do in `Walk`."""

    def __init__(self, world: LiveWorld, position: np.ndarray) -> None:
        """Raises InputError for more than one lane: the engine decodes a single sequence."""
        if len(position) != 1:
            raise InputError(f"lanes: {len(position)} asked for; live decoding has 1")
        self.world = world
        self.position = np.array(position, dtype=np.int64)
        self.machine = np.zeros(1, dtype=np.int64)
        self.depth, self.decisions = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
        world.begin(int(position[0]))

    def place(self, lanes: np.ndarray, position: np.ndarray) -> None:
        """Put the lane, if it is asked for, at the start of another answer."""
        if len(lanes):
            self.position[:] = position
            self.world.begin(int(position[0]))

    def finish(self, lanes: np.ndarray, sizes: np.ndarray, size_decisions: int) -> tuple[np.ndarray, ...]:
        """Finish the cycle; arguments and results as for `ltd.rl.replay_walk.Walk.finish`."""
        world, depth = self.world, int(self.depth[0])
        tokens, seconds = world.decoder.finish(depth, int(sizes[0]))
        seconds += world.profile.decisions.seconds(self.decisions[0], size_decisions * (depth > 0))
        self.position += tokens
        self.depth[:] = self.decisions[:] = 0
        world.forget()
        return np.array([tokens]), np.array([seconds]), np.array([world.decoder.ended])
