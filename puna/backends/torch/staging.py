"""Staging buffers: tensors one after the other in one piece of memory, so that one copy brings them to a device.

A copy from ordinary memory makes the host wait until the device has done all earlier work. `upload` uses pinned memory, which
PyTorch does not reuse before the copy is done, so that the host goes on at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from puna.backends.torch.errors import empty_bytes

ALIGNMENT = 256  # bytes: enough for coalesced loads and any type

Array = npt.NDArray[Any]


class Offsets:
    """The offsets of tensors in a staging buffer, given out in order."""

    def __init__(self) -> None:
        self.end = 0

    def next(self, like: torch.Tensor) -> int:
        """The first byte of the next tensor, which has the type and shape of `like`."""
        first = self.end
        self.end = -(-(first + num_bytes(like)) // ALIGNMENT) * ALIGNMENT
        return first

    def view(self, like: torch.Tensor, buffer: torch.Tensor) -> torch.Tensor:
        """The next tensor, a view of `buffer`."""
        first = self.next(like)
        return buffer[first : first + num_bytes(like)].view(like.dtype).view(like.shape)


def num_bytes(tensor: torch.Tensor) -> int:
    return int(tensor.numel() * tensor.element_size())


class StagingBuffer:
    """Arrays on a device that can be overwritten in place. `tensors`: by name."""

    def __init__(self, arrays: Mapping[str, Array], device: torch.device) -> None:
        staged, likes = _staged(arrays, device.type == "cuda")
        offsets = Offsets()
        self._buffer = staged.to(device, non_blocking=True)
        self.tensors = {name: offsets.view(like, self._buffer) for name, like in likes.items()}

    def fill(self, arrays: Mapping[str, Array]) -> None:
        """Overwrite them with arrays of the same names, types and shapes."""
        self._buffer.copy_(_staged(arrays, self._buffer.is_cuda)[0], non_blocking=True)


def _staged(arrays: Mapping[str, Array], pinned: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """All arrays in one buffer of main memory, and a view of each."""
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    sizes, offsets = Offsets(), Offsets()
    for tensor in tensors.values():
        sizes.next(tensor)
    staged = empty_bytes(sizes.end, pinned)
    for tensor in tensors.values():
        offsets.view(tensor, staged).copy_(tensor)
    return staged, tensors


def upload(arrays: Mapping[str, Array], device: torch.device) -> dict[str, torch.Tensor]:
    """Copy arrays to the device in one copy; the host does not wait for it.

    >>> there = upload({"ids": np.array([1, 2]), "cos_sin": np.ones((1, 3), np.float32)}, torch.device("cpu"))
    >>> there["ids"].tolist(), tuple(there["cos_sin"].shape)
    ([1, 2], (1, 3))
    """
    return StagingBuffer(arrays, device).tensors
