"""Offloaded layers: their weights stay in main memory, and each is copied to the device while the one before it computes.

For models that do not fit otherwise. The transfer sets a step's time: bytes of the layers / bandwidth of the bus.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from puna.backends.torch.errors import empty_bytes
from puna.backends.torch.layer import Layer
from puna.backends.torch.staging import Offsets

NUM_BUFFERS = 2


@dataclass(frozen=True, slots=True)
class Packed:
    """A layer's weights in one staging buffer of main memory."""

    layer: Layer  # its weights have shapes and types, but no memory
    staging: torch.Tensor  # (bytes,)

    def over(self, buffer: torch.Tensor) -> Layer:
        """The layer, with its weights in `buffer`, which has the layout of `staging`."""
        offsets = Offsets()
        return self.layer.mapped(lambda like: offsets.view(like, buffer))


def pack(layer: Layer, pinned: bool) -> Packed:
    """Pack a layer in main memory into one buffer; `pinned`: the device can read it directly."""
    sizes, offsets = Offsets(), Offsets()
    for weight in layer.weights:
        sizes.next(weight)
    staging = empty_bytes(sizes.end, pinned)
    for weight in layer.weights:
        offsets.view(weight, staging).copy_(weight)
    return Packed(layer.mapped(lambda weight: torch.empty_like(weight, device="meta")), staging)


class Offload:
    """Copies packed layers to the device in order, over and over, alternating between two buffers."""

    def __init__(self, layers: Sequence[Packed], device: torch.device) -> None:
        self._layers = layers
        largest = max((len(packed.staging) for packed in layers), default=0)
        self._buffers = [torch.empty(largest, dtype=torch.uint8, device=device) for _ in range(NUM_BUFFERS)]
        self._lanes = _CUDALanes(device) if device.type == "cuda" else _Lanes()

    @property
    def buffer_bytes(self) -> int:
        """Bytes of the weights that the buffers hold, without the gaps between them."""
        return NUM_BUFFERS * max((packed.layer.num_bytes for packed in self._layers), default=0)

    def layers(self) -> Iterator[Layer]:
        """Each layer once; launch the work with one layer before you take the next."""
        if self._layers:
            self._start(0)
        for number, packed in enumerate(self._layers):
            if number + 1 < len(self._layers):
                self._start(number + 1)
            self._lanes.wait(number % NUM_BUFFERS)
            yield packed.over(self._buffers[number % NUM_BUFFERS])
            self._lanes.release(number % NUM_BUFFERS)

    def _start(self, number: int) -> None:
        staging, buffer = self._layers[number].staging, self._buffers[number % NUM_BUFFERS]
        self._lanes.copy(number % NUM_BUFFERS, buffer[: len(staging)], staging)


class _Lanes:
    """Copies that are done at once."""

    def copy(self, lane: int, target: torch.Tensor, source: torch.Tensor) -> None:
        target.copy_(source)

    def wait(self, lane: int) -> None:
        """Wait until the last copy is done."""

    def release(self, lane: int) -> None:
        """Mark the buffer as free once the work launched so far is done."""


class _CUDALanes(_Lanes):
    """Copies in their own stream beside the computation; events keep each buffer's order."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._there = [torch.cuda.Event() for _ in range(NUM_BUFFERS)]
        self._free = [torch.cuda.Event() for _ in range(NUM_BUFFERS)]

    def copy(self, lane: int, target: torch.Tensor, source: torch.Tensor) -> None:
        self._stream.wait_event(self._free[lane])
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)
            self._there[lane].record(self._stream)

    def wait(self, lane: int) -> None:
        torch.cuda.current_stream().wait_event(self._there[lane])

    def release(self, lane: int) -> None:
        self._free[lane].record(torch.cuda.current_stream())
