"""Visits of the timer between the prompts of a benchmark: spread evenly, kept, put together."""

import dataclasses

import pytest
import torch

from ltd.files import read_json
from ltd.measurement.profile_rounds import ProfileRounds, drift
from ltd.measurement.timing import Stopwatch
from synthetic import synthetic_profile
from tiny_engine import tiny_target


class CountingTimer:
    """Takes the number of the visit, counted from 100 on, for a time."""

    contexts = (16, 32)
    target, axes = tiny_target(), {"verify": [1]}

    def __init__(self):
        self.watch, self.visits, self.warmed_up = Stopwatch(torch.device("cpu")), 0, 0

    def warm_up(self):
        self.warmed_up += 1

    def begin_visit(self, number):
        self.number = number

    def visit(self, context):
        self.watch.add(("verify", 1, context), 100.0 + self.visits)
        self.visits += 1

    def forget(self):
        self.watch.clear()


@pytest.mark.parametrize(("rounds", "prompts"), [(3, 10), (2, 4), (7, 3)])
def test_visits_are_spread_evenly_over_the_prompts(tmp_path, rounds, prompts):
    timer = CountingTimer()
    spread, taken = ProfileRounds(timer, rounds, prompts, tmp_path), [0]
    for prompt in range(prompts):
        spread.after(prompt)
        taken.append(timer.visits)
    visits = rounds * len(timer.contexts)
    assert taken[-1] == visits and timer.warmed_up == 1
    assert all(0 <= prompt * visits / prompts - done < 1 for prompt, done in enumerate(taken))


def test_a_visit_that_is_there_is_not_made_again(tmp_path):
    """Two visits, the machine is killed and one of their files lost: three of the four are left to make."""
    for prompt in range(2):
        ProfileRounds(CountingTimer(), 2, 4, tmp_path).after(prompt)
    (tmp_path / "visit-0000.json").unlink()
    second = CountingTimer()
    rounds = ProfileRounds(second, 2, 4, tmp_path)
    for prompt in range(4):
        rounds.after(prompt)
    assert second.visits == 3
    kept = [read_json(tmp_path / f"visit-000{number}.json") for number in range(4)]
    assert [(context, taken) for ((_, _, context, taken),) in kept] == [
        (16, [100.0]),
        (32, [100.0]),
        (16, [101.0]),
        (32, [102.0]),
    ]


def test_a_profile_is_of_all_visits_together(tmp_path):
    rounds = ProfileRounds(CountingTimer(), 3, 6, tmp_path)
    for prompt in range(6):
        rounds.after(prompt)
    earlier = dataclasses.replace(synthetic_profile(), context_lengths=[16, 32])
    later = rounds.profile(earlier, "int8")
    verify = later.tables["verify"]
    assert verify.ms == [[102.0, 103.0]] and verify.samples == 3  # of 100, 102, 104 and of 101, 103, 105
    assert later.dtype == "float32+int8" and later.target_hash == earlier.target_hash


def test_drift_compares_a_step_and_a_cycle():
    earlier = synthetic_profile()
    step = earlier.tables["autoregressive_step"]
    slower = dataclasses.replace(step, ms=[[1.25 * ms for ms in row] for row in step.ms])
    change = drift(earlier, earlier.replace_table("autoregressive_step", slower), 2, 2)
    assert change["autoregressive_step"] == pytest.approx(0.25) and change["grid_cycle"] == 0
    verify = earlier.tables["verify"]
    slower = dataclasses.replace(verify, ms=[[1.25 * ms for ms in row] for row in verify.ms])
    for depth, size in ((2, 2), (3, 12)):
        change = drift(earlier, earlier.replace_table("verify", slower), depth, size)
        assert change["autoregressive_step"] == 0
        context = earlier.context_lengths[len(earlier.context_lengths) // 2]
        share = earlier.verify(size, context) / earlier.cycle_seconds(depth, size, context)
        assert change["grid_cycle"] == pytest.approx(0.25 * float(share))
