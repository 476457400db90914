"""Supervised policies: two small networks fitted to the best actions of every recorded position.

Classification with soft labels: an action is the label to a share that grows with what it brought. What was
best is largely luck, and the action that is best most often need not be the one that brings most on average;
at a high temperature the shares are nearly linear in what was brought, and so are their averages. Where a
draft should stop is learnt in rounds, against the stops that the network itself would choose: one that cannot
see ahead must not count on the stop that turns out best.
"""

from torch import Tensor

from ltd.opponents.stopping import Approach

# In autoregressive steps saved: above most differences between actions.
TEMPERATURE = 2.0


def soft_cross_entropy(outputs: Tensor, values: Tensor) -> Tensor:
    """Cross-entropy of the outputs' softmax and the labels that the values of the actions make; mean."""
    labels = (values / TEMPERATURE).softmax(dim=-1)
    return -(labels * outputs.log_softmax(dim=-1)).sum(dim=-1).mean()


SUPERVISED = Approach(soft_cross_entropy, differences=False)
