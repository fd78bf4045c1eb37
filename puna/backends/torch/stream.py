"""Layers whose weights stay in main memory and come to the device in every step, each while the one before it is computed.

For models that do not fit otherwise. What a step costs is the transfer: their bytes over what the bus carries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from puna.backends.torch.blob import Places
from puna.backends.torch.errors import empty_bytes
from puna.backends.torch.layer import Layer

NUM_BUFFERS = 2


@dataclass(frozen=True, slots=True)
class Packed:
    """A layer's weights in one piece of main memory."""

    layer: Layer  # its weights have shapes and types, and no memory
    blob: torch.Tensor  # (bytes,)

    def over(self, buffer: torch.Tensor) -> Layer:
        """The layer whose weights lie in `buffer`, as the blob has them."""
        place = Places()
        return self.layer.mapped(lambda like: place.of(like, buffer))


def pack(layer: Layer, pinned: bool) -> Packed:
    """Gather a layer that lies in main memory; `pinned`: where the device can fetch it by itself."""
    sizes, places = Places(), Places()
    layer.mapped(_noting(sizes.take))
    blob = empty_bytes(sizes.end, pinned)
    layer.mapped(_noting(lambda weight: places.of(weight, blob).copy_(weight)))
    return Packed(layer.mapped(lambda weight: torch.empty_like(weight, device="meta")), blob)


def _noting(note: Callable[[torch.Tensor], object]) -> Callable[[torch.Tensor], torch.Tensor]:
    def same(weight: torch.Tensor) -> torch.Tensor:
        note(weight)
        return weight

    return same


class Stream:
    """Brings packed layers to the device in their order, over and over, into two buffers by turns."""

    def __init__(self, layers: Sequence[Packed], device: torch.device) -> None:
        self._layers = layers
        largest = max((len(packed.blob) for packed in layers), default=0)
        self._buffers = [torch.empty(largest, dtype=torch.uint8, device=device) for _ in range(NUM_BUFFERS)]
        self._lanes = _CUDALanes(device) if device.type == "cuda" else _Lanes()

    def layers(self) -> Iterator[Layer]:
        """Each layer once; what is computed with one must be asked of the device before the next is taken."""
        if self._layers:
            self._start(0)
        for number, packed in enumerate(self._layers):
            if number + 1 < len(self._layers):
                self._start(number + 1)
            self._lanes.wait(number % NUM_BUFFERS)
            yield packed.over(self._buffers[number % NUM_BUFFERS])
            self._lanes.release(number % NUM_BUFFERS)

    def _start(self, number: int) -> None:
        blob, buffer = self._layers[number].blob, self._buffers[number % NUM_BUFFERS]
        self._lanes.copy(number % NUM_BUFFERS, buffer[: len(blob)], blob)


class _Lanes:
    """Copies that are done when they are asked for."""

    def copy(self, lane: int, target: torch.Tensor, source: torch.Tensor) -> None:
        target.copy_(source)

    def wait(self, lane: int) -> None:
        """Until what was copied last is there."""

    def release(self, lane: int) -> None:
        """Until now the buffer was in use."""


class _CUDALanes(_Lanes):
    """Copies beside the computation, in a stream of their own; events keep each buffer's order."""

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
