"""A row of numbers as a row of signs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

HEIGHTS = "▁▂▃▄▅▆▇█"


def sparkline(values: npt.NDArray[np.float32]) -> str:
    """Numbers as signs of eight heights.  # (count,)

    >>> sparkline(np.float32([-1, 0, 1]))
    '▁▅█'
    """
    low, high = float(values.min()), float(values.max())
    heights = (values - low) / ((high - low) or 1.0) * (len(HEIGHTS) - 1) + 0.5
    return "".join(HEIGHTS[int(height)] for height in heights)
