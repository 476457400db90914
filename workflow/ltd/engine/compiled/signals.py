"""What rules look at in a draft, each as one compiled call: numpy and PyTorch would need half a dozen."""

import numpy as np

from ltd.engine.compiled.arithmetic import exponential, highest, kernel
from ltd.engine.compiled.tree import best_nodes


@kernel
def entropy(logits):
    """Entropy in nats of the distribution with logits [n]."""
    top, total, weighted = highest(logits), np.float32(0), np.float32(0)
    for i in range(len(logits)):
        below = logits[i] - top
        probability = exponential(below)
        total += probability
        weighted += probability * below
    return np.log(total) - weighted / total


@kernel
def beam_mass(scores, beam):
    """Logarithm of the sum of the probabilities of the best `beam` nodes, scores [n] their logarithms."""
    best = np.empty(min(beam, len(scores)), np.int64)
    best_nodes(scores, best)
    total = np.float32(0)
    for node in best:
        total += exponential(scores[node] - scores[best[0]])
    return scores[best[0]] + np.log(total)
