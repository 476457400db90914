"""The latency profile of a benchmark's own minutes: between its prompts the timer visits a context length.

Replay is to say how well traces and times predict the clock. A shared machine is another one half an hour
after the profile that the policies learned from, so the times for it are taken where the clock's are.
"""

import dataclasses
from pathlib import Path

from ltd.engine.drafting import Drafter
from ltd.engine.target import TargetModel
from ltd.files import read_json, write_json
from ltd.measurement.phase_timer import PhaseTimer, own_text
from ltd.measurement.profile_tables import latency_tables, machine_facts
from ltd.measurement.timing import Key
from ltd.replay.latency import LatencyProfile


def rounds_between(
    prompts: int,
    rounds: int,
    target: TargetModel,
    drafter: Drafter,
    profile: LatencyProfile,
    temperature: float,
    seed: int,
    state: Path,
) -> "ProfileRounds":
    """Visits to the points of `profile` between so many prompts; finished ones are kept in `state`."""
    sizes, contexts = tuple(profile.tables["verify"].axis), tuple(profile.context_lengths)
    timer = PhaseTimer(
        *(target, drafter, own_text(target, contexts[-1] + 1, seed), sizes, contexts),
        policy_network=tuple(profile.policy_network),
        seed=seed,
        temperature=temperature,
    )
    return ProfileRounds(timer, rounds, prompts, state)


class ProfileRounds:
    """Spreads a timer's visits evenly over the prompts; each is kept in a file, so that an interrupted
    benchmark goes on with the next.
    """

    def __init__(self, timer: PhaseTimer, rounds: int, prompts: int, state: Path) -> None:
        """In `rounds` rounds, each context length is visited once a round."""
        self.timer, self.prompts, self.state = timer, prompts, state
        self.visits = rounds * timer.contexts
        self._warm = False

    def after(self, prompt: int) -> None:
        """Measure what is due after prompt number `prompt`, from 0 on, and not there yet."""
        first, end = (number * len(self.visits) // self.prompts for number in (prompt, prompt + 1))
        for number in range(first, end):
            file = self._file(number)
            if not file.is_file():
                write_json(file, self._measure(number))

    def profile(self, earlier: LatencyProfile, quantisation: str) -> LatencyProfile:
        """A profile like `earlier`, at its points, of all visits together."""
        samples: dict[Key, list[float]] = {}
        for number in range(len(self.visits)):
            for *key, taken in read_json(self._file(number)):
                samples.setdefault(tuple(key), []).extend(taken)
        return dataclasses.replace(
            earlier,
            **machine_facts(self.timer.target, quantisation),
            tables=latency_tables(samples, self.timer.axes, earlier.context_lengths),
            interpolation_error={},
        )

    def _file(self, number: int) -> Path:
        return self.state / f"visit-{number:04d}.json"

    def _measure(self, number: int) -> list[list]:
        """[phase, position on its axis, context length, milliseconds] of one visit."""
        if not self._warm:
            self.timer.warm_up()
            self._warm = True
        self.timer.begin_visit(number)
        self.timer.visit(self.visits[number])
        taken = [[*key, list(samples)] for key, samples in self.timer.watch.samples().items()]
        self.timer.forget()
        return taken


def drift(earlier: LatencyProfile, later: LatencyProfile, depth: int, size: int) -> dict[str, float]:
    """How the machine changed between two profiles, later / earlier - 1: an autoregressive step, and a whole
    cycle of the grid's setting, at the middle one of the context lengths.
    """
    context = earlier.context_lengths[len(earlier.context_lengths) // 2]

    def seconds(profile: LatencyProfile) -> dict[str, float]:
        return {
            "autoregressive_step": float(profile.autoregressive_step(context)),
            "grid_cycle": float(profile.cycle_seconds(depth, size, context)),
        }

    before = seconds(earlier)
    return {name: after / before[name] - 1 for name, after in seconds(later).items()}
