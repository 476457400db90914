"""Supervised policies: two small networks fitted to the best action of every recorded position.

Classification with costs: the target is the action that brought most, and a wrong one costs what it brought
less, so that positions where all actions are alike count for nothing. Where a draft should stop is learnt in
rounds: first against the stop that turned out best in hindsight, then against the stops that the network
itself would choose, because a network that cannot see ahead must not count on the best one.
"""

from torch import Tensor

from ltd.opponents.stopping import Approach


def expected_regret(outputs: Tensor, values: Tensor) -> Tensor:
    """What is lost against the best action when actions are drawn by the outputs' softmax; mean over rows."""
    chances = outputs.softmax(dim=-1)
    return (values.amax(dim=-1) - (chances * values).sum(dim=-1)).mean()


SUPERVISED = Approach(expected_regret, differences=False)
