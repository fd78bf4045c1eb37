"""GPU properties that set kernel tiles: shared memory, and how many rows of x a tile multiplies.

Sums have one order on every GPU: a tile's columns do not depend on the GPU. Only these do: how many tiles are in flight, and
how many rows a tile has, each of which is summed by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch

KIB = 1 << 10
RESERVED_BYTES = 1 * KIB  # of shared memory that CUDA reserves for each program

# By the major compute capability. Tensor cores of 9 and 10 read their operands from memory; those of 8 and 12 read registers,
# where 64 rows of 128 columns in two halves of bf16 fill all 255 of a thread, and spill (Triton 3.6, 3.9).
WIDE_ROWS: Mapping[int, int] = {8: 32, 9: 64, 10: 64, 12: 32}
OTHER_WIDE_ROWS = 32  # for unknown GPUs


@dataclass(frozen=True, slots=True)
class GPUProperties:
    shared_bytes: int  # that one program may use
    wide_rows: int  # of x in a tile for large batches

    @property
    def half_bytes(self) -> int:
        """Shared memory of each of two programs on a multiprocessor: one computes while the other waits.

        >>> GPUProperties(99 * KIB, 32).half_bytes, H100.half_bytes
        (50176, 115712)
        """
        return (self.shared_bytes + RESERVED_BYTES) // 2 - RESERVED_BYTES


H100 = GPUProperties(227 * KIB, 64)


@cache
def gpu_properties(device: torch.device) -> GPUProperties:
    """The properties of a CUDA device; Triton's interpreter computes as an H100 does."""
    if device.type != "cuda":
        return H100
    properties = torch.cuda.get_device_properties(device)
    return GPUProperties(properties.shared_memory_per_block_optin, WIDE_ROWS.get(properties.major, OTHER_WIDE_ROWS))


def fitting_stages(wanted: int, tile_bytes: int, shared_bytes: int) -> int:
    """How many tiles can be in flight: one is in registers, the others in shared memory.

    >>> [fitting_stages(4, 32 * KIB, size * KIB) for size in (227, 99, 64, 31)]
    [4, 4, 3, 1]
    """
    return min(wanted, 1 + shared_bytes // tile_bytes)
