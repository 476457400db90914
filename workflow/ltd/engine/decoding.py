"""The decoding loop: draft a tree, decide, verify it with one target pass, keep the accepted path.

The same loop without a drafter is plain autoregressive decoding, so that both are measured on one engine.
Whatever the controller decides, the tokens are those of autoregressive decoding with the same seed.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ltd.devices import synchronise
from ltd.engine.controllers import Controller, largest_size
from ltd.engine.draft_loop import make_draft_loop
from ltd.engine.drafting import Drafter
from ltd.engine.phases import PhaseClock
from ltd.engine.sampling import SamplingOptions
from ltd.engine.target import TargetModel
from ltd.engine.verification import make_verification
from ltd.errors import InputError

TokenCallback = Callable[[list[int]], None]
StopRule = Callable[[list[int]], bool]


@dataclass(slots=True)
class CycleRecord:
    """One cycle: tokens in the target's cache at its start, what was chosen, what came out, milliseconds by
    phase.

    size is the controller's choice, verified the nodes there were (both 0 in a plain step). tokens counts
    what was emitted, end-of-sequence and length limit respected; accepted counts the draft tokens among
    them. draft includes the bookkeeping of the pool and, where one call drafts a tree, what it takes to begin
    that; rest is tree building, choosing tokens (greedily the compiled engine does it within verify) and
    cache compaction. The four sum to the cycle's wall time.
    """

    context_length: int
    depth: int
    size: int
    verified: int
    accepted: int
    tokens: int
    draft_ms: float = 0.0
    verify_ms: float = 0.0
    policy_ms: float = 0.0
    rest_ms: float = 0.0


@dataclass
class Generation:
    """Generated ids (the first comes from the prefill, an end-of-sequence token is included) and what they
    cost.

    seconds runs from the first token to the last, prefill_seconds to the first token, the draft head's pass
    over the prompt included. Throughput is (len(tokens) - 1) / seconds.
    """

    tokens: list[int]
    cycles: list[CycleRecord] = field(default_factory=list)
    prefill_seconds: float = 0.0
    seconds: float = 0.0


def decode_autoregressive(target: TargetModel, prompt_ids: Sequence[int] | Tensor, **options) -> Generation:
    """Plain decoding on the same engine; options as for `decode`."""
    return decode(target, None, None, prompt_ids, **options)


def decode(
    target: TargetModel,
    drafter: Drafter | None,
    controller: Controller | None,
    prompt_ids: Sequence[int] | Tensor,
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    eos_ids: Sequence[int] | None = None,
    on_tokens: TokenCallback | None = None,
    stop: StopRule | None = None,
) -> Generation:
    """Answer a prompt [n] with at most `max_new_tokens` tokens, fewer at an end-of-sequence or the
    context's limit.

    eos_ids None means the target's own; on_tokens receives the new ids of every cycle; stop sees all ids so
    far after each and ends the answer by returning True. Without drafter and controller every step is plain.
    The same seed, the same noise at every place of the answer, whatever the prompt: another answer takes
    another seed. Warns where the context cut an answer. Raises InputError for one of the two alone, prompts
    that do not fit, tokens out of the vocabulary, batches, and sampling options out of range.
    """
    if (drafter is None) != (controller is None):
        raise InputError("decode: a drafter needs a controller and a controller a drafter; give both or none")
    prompt = target.token_tensor(prompt_ids)
    target.check_tokens(prompt)
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens: {max_new_tokens} is not at least 1")
    options = SamplingOptions(temperature, top_k, top_p, seed)
    ends = frozenset(target.eos_ids if eos_ids is None else eos_ids)
    last = _last_token_rule(ends, stop)
    limit = min(max_new_tokens, target.max_context - len(prompt) + 1)
    with torch.inference_mode():
        result = _Loop(target, drafter, controller, options, last, limit, on_tokens).run(prompt)
    if len(result.tokens) == limit < max_new_tokens and not last(result.tokens):
        warnings.warn(
            f"answer cut after {limit} tokens: with its prompt of {len(prompt)} it fills the context of "
            f"{target.max_context}; a larger max_context holds more, as far as the model has positions",
            stacklevel=2,
        )
    return result


class _Loop:
    """State of one answer."""

    def __init__(
        self,
        target: TargetModel,
        drafter: Drafter | None,
        controller: Controller | None,
        options: SamplingOptions,
        last: StopRule,
        limit: int,
        on_tokens: TokenCallback | None,
    ) -> None:
        self.target, self.drafter, self.controller = target, drafter, controller
        self.last, self.limit, self.on_tokens = last, limit, on_tokens
        self.verification = make_verification(target, drafter, options)
        self.clock = PhaseClock(target.device)
        if drafter is not None:
            self.draft_loop = make_draft_loop(drafter, controller, self.clock)
            if (largest := largest_size(controller)) is not None:
                self._check_size(largest)
        self.result = Generation([])

    def run(self, prompt: Tensor) -> Generation:
        self.target.new_cache()
        started = time.perf_counter()
        logits, taps = self.target.prefill(prompt)
        if self.drafter is not None:
            self.drafter.prefill(taps, prompt)
        token = self.verification.sampler.choose(logits[None], 0)
        self.done = False
        self._emit(token.tolist())
        self.verification.begin(token)
        if self.drafter is not None:
            self.drafter.defer(taps[-1:], token)
            self.controller.begin(len(prompt))
        synchronise(self.target.device)
        begun = time.perf_counter()
        self.clock.start()
        while not self.done:
            self._cycle()
        synchronise(self.target.device)
        self.result.prefill_seconds, self.result.seconds = begun - started, time.perf_counter() - begun
        self.clock.settle()
        return self.result

    def _cycle(self) -> None:
        context, depth, size, verified = self.target.length, 0, 0, 0
        if self.drafter is not None:
            depth, size = self._draft()
        if depth:
            verified = self._verify(size)
        else:
            self.verification.step()
        self.clock.mark("verify")
        accepted, emitted = self._advance()
        self.clock.mark("rest")
        if self.controller is not None:
            self.controller.accepted(accepted)
            self.clock.mark("policy")
        record = CycleRecord(context, depth, size, verified, accepted, emitted)
        self.clock.finish(record)
        self.result.cycles.append(record)

    def _draft(self) -> tuple[int, int]:
        """Depth and chosen size of a tree, 0 and 0 for a plain step."""
        self.drafter.state.continue_answer(self.result.tokens)
        self.clock.mark("rest")
        depth, size = self.draft_loop()
        if depth:
            self._check_size(size)
        return depth, size

    def _check_size(self, size: int) -> None:
        if not 1 <= size <= self.target.max_tree:
            raise InputError(
                f"controller {self.controller.name}: size {size} is not between 1 and "
                f"{self.target.max_tree}; choose one that is, or make the target with a larger max_tree"
            )

    def _verify(self, size: int) -> int:
        verified = self.verification.select(size)
        self.clock.mark("rest")
        self.verification.verify()
        return verified

    def _advance(self) -> tuple[int, int]:
        """Emit what the target chose and keep it; accepted draft tokens and tokens in all."""
        tokens = self.verification.follow(len(self.result.tokens))
        emitted = self._emit(tokens)
        self.verification.keep(emitted)
        return min(len(tokens) - 1, emitted), emitted

    def _emit(self, tokens: list[int]) -> int:
        """Append what the end of the sequence and the limit leave of `tokens`; how many that is."""
        answer, before = self.result.tokens, len(self.result.tokens)
        for token in tokens:
            answer.append(token)
            if len(answer) >= self.limit or self.last(answer):
                self.done = True
                break
        if self.on_tokens is not None:
            self.on_tokens(answer[before:])
        return len(answer) - before


def _last_token_rule(ends: frozenset[int], stop: StopRule | None) -> StopRule:
    if stop is None:
        return lambda answer: answer[-1] in ends
    return lambda answer: answer[-1] in ends or stop(answer)
