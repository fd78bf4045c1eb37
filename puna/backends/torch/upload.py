"""Arrays of the host, brought to the device in one copy. On a GPU nobody waits for it: it takes its turn among the kernels."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import numpy.typing as npt
import torch

ALIGNMENT = 16  # bytes: enough for every type, and what Triton's kernels are compiled for


def upload(arrays: Mapping[str, npt.NDArray[Any]], device: torch.device) -> dict[str, torch.Tensor]:
    """Each array by its name; all are pieces of one."""
    given = {name: torch.from_numpy(array) for name, array in arrays.items()}
    sizes = [-(-tensor.nbytes // ALIGNMENT) * ALIGNMENT for tensor in given.values()]
    firsts = list(accumulate(sizes, initial=0))
    # Pinned memory is torch's to reuse, which it does once the copy has been made.
    parcel = torch.empty(firsts[-1], dtype=torch.uint8, pin_memory=device.type == "cuda")
    for first, tensor in zip(firsts, given.values()):
        _piece(parcel, first, tensor).copy_(tensor)
    there = parcel.to(device, non_blocking=True)
    return {name: _piece(there, first, tensor) for first, (name, tensor) in zip(firsts, given.items())}


def _piece(parcel: torch.Tensor, first: int, like: torch.Tensor) -> torch.Tensor:
    """From byte `first` on, in the type and shape of `like`."""
    return parcel[first : first + like.nbytes].view(like.dtype).view(like.shape)
