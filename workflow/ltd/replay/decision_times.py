"""What the policies' decisions add to a cycle."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class DecisionTimes:
    """Seconds of a decision about the depth and of one about the size.

    planned: all decisions of a cycle are made before it begins, and take the time of one about the depth.
    """

    depth: float
    size: float
    planned: bool = False

    def seconds(self, depth_decisions: ArrayLike, size_decisions: ArrayLike = 0) -> NDArray:
        """All decisions of cycles; the two numbers of decisions broadcast."""
        depth_decisions, size_decisions = np.asarray(depth_decisions), np.asarray(size_decisions)
        if self.planned:
            return np.minimum(depth_decisions + size_decisions, 1) * self.depth
        return depth_decisions * self.depth + size_decisions * self.size
