"""Class sums: the answers of a draw of a bounded-influence head, in whole steps."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

STEPS = 10_000
"""An influence is a whole number of steps from 0 (or -STEPS) to STEPS, so that sums are exact in any order."""
Sides = Literal["one", "two"]
"""Whether influences lie in [0, 1] or in [-1, 1], in units of STEPS."""
Sums = NDArray[np.int64]
"""Each class's sum of influences on each test input: (n_test, K)."""
