import pandas as pd
import torch

from ltd.measurement.replay_rows import answers_as_recorded
from ltd.methods import BASELINE
from ltd.texts.responses import Sequence


def sequence(name, answer):
    return Sequence(torch.tensor([1, 2, *answer]), 2, "chat", name, 0)


def run(name, answer, method=BASELINE, repeat=0):
    key = {"task": "chat", "prompt": str(name), "turn": 0, "method": method, "repeat": repeat}
    return key | {"token_ids": answer}


def test_answers_are_compared_as_far_as_both_go():
    prompts = [sequence(7, [3, 4, 5]), sequence(8, [3, 4, 5]), sequence(9, [3, 4])]
    other = [run(7, [9], method="ltd"), run(7, [9], repeat=1)]  # neither is plain decoding's first answer
    runs = pd.DataFrame([*other, run(7, [3, 4, 5]), run(8, [3, 6, 5]), run(9, [3, 4, 6])])
    assert answers_as_recorded(runs, prompts) == {"prompts": 3, "same": 2}
