"""Memory that kernels share between their programs: partial sums, and counters by which the last program of a group knows itself.

Counters are zero between launches: the last arriver sets its own back. One stream at a time may use them. Before a CUDA graph is
captured the same launches must have run once, so that the memory is not made within the capture.
"""

from __future__ import annotations

import torch

_FLOATS: dict[torch.device, list[torch.Tensor]] = {}
_COUNTERS: dict[torch.device, list[torch.Tensor]] = {}
LEAST = 1 << 16


def floats(count: int, device: torch.device) -> torch.Tensor:
    """At least `count` float32, with anything in them."""
    return _of_size(_FLOATS, count, device, torch.float32)


def counters(count: int, device: torch.device) -> torch.Tensor:
    """At least `count` int32 zeros."""
    return _of_size(_COUNTERS, count, device, torch.int32)


def _of_size(kept: dict[torch.device, list[torch.Tensor]], count: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """The newest is the largest. Older ones are kept as well: a CUDA graph that was captured with one still writes to it; so
    each is twice the last at least."""
    buffers = kept.setdefault(device, [])
    last = buffers[-1].numel() if buffers else 0
    if not buffers or last < count:
        size = max(count, 2 * last)
        buffers.append(torch.zeros(-(-size // LEAST) * LEAST or LEAST, dtype=dtype, device=device))
    return buffers[-1]
