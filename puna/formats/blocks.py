"""Block layouts of quantised weights: the definition, in numpy."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt


class BlockType(Protocol):
    """How a run of weights is stored: `block_size` weights in `block_bytes` bytes."""

    name: str
    block_size: int
    block_bytes: int

    def dequantize(self, rows: npt.NDArray[np.uint8], scales: npt.NDArray[np.float32] | None = None) -> npt.NDArray[np.float32]:
        """Bytes of rows to float32.  # (rows, bytes of a row) -> (rows, columns)"""
