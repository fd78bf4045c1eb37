"""Will it fit? Weights, KV and scratch in bytes, from headers alone, before anything is allocated. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Layout:
    """How a backend keeps tensors and KV in memory: a line of the table of backends."""

    resident_types: Mapping[str, str]  # tensor type of the file -> type in memory; one not named here becomes `other`
    other: str
    kv_types: tuple[str, ...]  # the first is the default
    row_multiple: int = 1  # rows are padded to a multiple of this
    column_multiple: int = 1

    def resident_type(self, file_type: str) -> str:
        return self.resident_types.get(file_type, self.other)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a backend is to allocate, and what that comes to."""

    weights_bytes: int
    kv_bytes: int
    scratch_bytes: int
    num_pages: int
    page_size: int  # tokens
    max_context: int  # tokens of one sequence
    max_tokens: int  # token rows of one step
    max_sequences: int
    kv_type: str  # "f16", "f32"

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.kv_bytes + self.scratch_bytes
