"""Arrays of the host, brought to the device in one copy. On a GPU nobody waits for it: it takes its turn among the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy.typing as npt
import torch

ALIGNMENT = 16  # bytes: enough for every type, and what Triton's kernels are compiled for

Typed = tuple[npt.NDArray[Any], torch.dtype]  # an array, and the type that it has on the device


def upload(arrays: Sequence[Typed], device: torch.device) -> list[torch.Tensor]:
    """Each array in its type, all of them pieces of one."""
    sizes = [array.size * dtype.itemsize for array, dtype in arrays]
    firsts = list(accumulate((-(-size // ALIGNMENT) * ALIGNMENT for size in sizes), initial=0))
    # Pinned memory is torch's to reuse, which it does once the copy has been made.
    parcel = torch.empty(firsts[-1], dtype=torch.uint8, pin_memory=device.type == "cuda")
    places = [slice(first, first + size) for first, size in zip(firsts, sizes)]
    for (array, dtype), place in zip(arrays, places, strict=True):
        parcel[place].view(dtype).view(array.shape).copy_(torch.from_numpy(array))
    there = parcel.to(device, non_blocking=True)
    return [there[place].view(dtype).view(array.shape) for (array, dtype), place in zip(arrays, places, strict=True)]
