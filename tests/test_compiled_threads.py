"""The compiled engine computes the same with any number of threads, also with more than there are cores."""

from threading import Thread

import numba
import pytest
import torch

from engine_models import random_drafter, random_target
from ltd.engine.compiled.threads import share_threads
from ltd.errors import InputError

PROMPT = torch.tensor([3, 14, 15, 9, 2, 6, 5, 3])
HOLDINGS = {"float32": {}, "half": {"half_weights": True}, "pairs": {"bfloat16": True}}


def passes(threads, **held):
    """Results of a prefill, of drafting level by level behind it, and of verifying what was drafted."""
    target = random_target("qwen3", compiled=True, **held)
    torch.set_num_threads(threads)
    logits, taps = target.prefill(PROMPT)
    drafter = random_drafter(target, compiled=True)
    assert len(target.forward.work.scores) == threads
    drafter.prefill(taps, PROMPT)
    drafter.extend(taps[-1:], logits.argmax()[None])
    for _ in range(drafter.max_depth - 1):
        drafter.expand()
    tree = drafter.select(40)
    drafted = drafter.state.scores, drafter.state.feature, drafter.state.draft_logits, tree.tokens
    return *drafted, logits, taps, *target.verify(tree.tokens, tree.depths, tree.ancestors)


@pytest.mark.parametrize("held", HOLDINGS)
def test_threads_share_the_work_and_change_nothing(held):
    alone, *shared = (passes(threads, **HOLDINGS[held]) for threads in (1, 2, 3))
    for results in shared:
        assert all(torch.equal(one, other) for one, other in zip(alone, results, strict=True))


def test_other_threads_of_python_share_the_work_over_as_many():
    torch.set_num_threads(1)
    target, used = random_target("llama", compiled=True), []
    target.prefill(PROMPT)

    def answer():
        target.prefill(PROMPT)
        used.append(numba.get_num_threads())

    streaming = Thread(target=answer)
    streaming.start()
    streaming.join()
    assert used == [1] and numba.config.NUMBA_NUM_THREADS > 1


def test_without_openmp_the_remedy_is_named(monkeypatch):
    def no_layer(threads):
        raise ValueError("No threading layer could be loaded.")

    monkeypatch.setattr(numba, "set_num_threads", no_layer)
    with pytest.raises(InputError, match=r"libgomp\.so\.1.*apt-get install libgomp1") as refusal:
        share_threads()
    assert "\n" not in str(refusal.value)
