"""What the policies' decisions add to a cycle."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class DecisionTimes:
    """Seconds of a decision about the depth and of one about the size.

    planned: all decisions of a cycle are made before it begins, and take the time of one about the depth, or
    of the one about the size where the depth is not decided.
    """

    depth: float
    size: float
    planned: bool = False

    def seconds(self, depth_decisions: ArrayLike, size_decisions: ArrayLike = 0) -> NDArray:
        """All decisions of cycles; the two numbers of decisions broadcast."""
        depth_decisions, size_decisions = np.asarray(depth_decisions), np.asarray(size_decisions)
        if self.planned:
            return np.where(depth_decisions > 0, self.depth, (size_decisions > 0) * self.size)
        return depth_decisions * self.depth + size_decisions * self.size
