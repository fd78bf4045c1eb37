"""Memory that a kernel's programs share: partial sums, and counters that tell the last program of a group that it is the last.

Counters are zero between launches: the last arriver resets its own. Only one stream at a time may use them. Run the same launches
once before capturing a CUDA graph, so that the memory is not allocated during the capture.
"""

from __future__ import annotations

import torch

_FLOATS: dict[torch.device, list[torch.Tensor]] = {}
_COUNTERS: dict[torch.device, list[torch.Tensor]] = {}
LEAST = 1 << 16


def floats(count: int, device: torch.device) -> torch.Tensor:
    """At least `count` float32, not initialised."""
    return _of_size(_FLOATS, count, device, torch.float32)


def counters(count: int, device: torch.device) -> torch.Tensor:
    """At least `count` int32 zeros."""
    return _of_size(_COUNTERS, count, device, torch.int32)


def _of_size(kept: dict[torch.device, list[torch.Tensor]], count: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """The newest is the largest. Older ones are kept too: a CUDA graph that was captured with one still writes to it. So each
    is at least twice the one before."""
    buffers = kept.setdefault(device, [])
    last = buffers[-1].numel() if buffers else 0
    if not buffers or last < count:
        size = max(count, 2 * last)
        buffers.append(torch.zeros(-(-size // LEAST) * LEAST or LEAST, dtype=dtype, device=device))
    return buffers[-1]
