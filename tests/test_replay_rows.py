import pandas as pd
import torch

from ltd.measurement.replay_rows import as_recorded
from ltd.methods import BASELINE
from ltd.texts.responses import Sequence


def sequence(name, answer):
    return Sequence(torch.tensor([1, 2, *answer]), 2, "chat", name, 0)


def run(name, answer, method=BASELINE, repeat=0):
    key = {"task": "chat", "prompt": str(name), "turn": 0, "method": method, "repeat": repeat}
    return key | {"token_ids": answer}


def cycle(name, depth, verified, tokens, method="ltd", repeat=0):
    own = {"depth": depth, "verified": verified, "tokens": tokens}
    return run(name, None, method, repeat) | own


def test_answers_are_compared_as_far_as_both_go():
    prompts = [sequence(7, [3, 4, 5]), sequence(8, [3, 4, 5]), sequence(9, [3, 4])]
    other = [run(7, [9], method="ltd"), run(7, [9], repeat=1)]  # neither is plain decoding's first answer
    runs = pd.DataFrame([*other, run(7, [3, 4, 5]), run(8, [3, 6, 5]), run(9, [3, 4, 6])])
    none = pd.DataFrame([cycle(7, 0, 0, 1)])
    found = as_recorded(runs, none, none, prompts)
    assert (found["prompts"], found["same"]) == (3, 2)


def test_cycles_are_compared_on_answers_that_are_as_recorded():
    prompts = [sequence(name, [3, 4]) for name in (6, 7, 8)]
    runs = pd.DataFrame([run(6, [3, 4]), run(7, [3, 4]), run(8, [5, 4])])
    replayed = pd.DataFrame([cycle(6, 1, 2, 2), cycle(6, 0, 0, 1), cycle(7, 2, 3, 2), cycle(8, 1, 1, 2)])
    again = cycle(6, 3, 3, 1, repeat=1)  # of the repeats the first is compared
    for last, count in ((cycle(7, 2, 3, 2), 2), (cycle(7, 2, 3, 1), 1), (cycle(7, 2, 4, 2), 1)):
        measured = pd.DataFrame([cycle(6, 1, 2, 2), cycle(6, 0, 0, 1), again, last, cycle(8, 1, 1, 2)])
        assert as_recorded(runs, measured, replayed, prompts)["cycles"] == {"ltd": count}
