"""Pages of K and V on a torch device: a layer's pages lie together, page by page, head by head.

int8 keeps a scale for each token and head, the largest magnitude / 127. Attention reads the quantised numbers even for the token
that wrote them, so that a row's result does not depend on when its neighbours were computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from puna.model.spec import ModelConfig
from puna.plan import Plan

DTYPES: Mapping[str, torch.dtype] = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32, "int8": torch.int8}


@dataclass(frozen=True, slots=True)
class Slots:
    """The pages and offsets of a step's tokens.  # (tokens,) each"""

    pages: torch.Tensor
    offsets: torch.Tensor


@dataclass(frozen=True, slots=True)
class Half:
    """The K, or the V, of one layer."""

    numbers: torch.Tensor  # (pages, kv_heads, page_size, head_dim)
    scales: torch.Tensor | None  # (pages, kv_heads, page_size); only for int8

    def write(self, slots: Slots, values: torch.Tensor) -> None:
        """values (tokens, kv_heads, head_dim), float32"""
        if self.scales is not None:
            scales = values.abs().amax(dim=2) / 127
            self.scales[slots.pages, :, slots.offsets] = scales
            values = torch.round(values / scales.clamp_min(torch.finfo(torch.float32).tiny).unsqueeze(2))
        self.numbers[slots.pages, :, slots.offsets] = values.to(self.numbers.dtype)

    def read(self, pages: torch.Tensor, first: int, last: int) -> torch.Tensor:
        """Positions first..last-1 of a sequence with these pages, as float32.  # -> (kv_heads, last - first, head_dim)"""
        numbers = self.numbers[pages].float()
        if self.scales is not None:
            numbers *= self.scales[pages].unsqueeze(3)
        return numbers.transpose(0, 1).flatten(1, 2)[:, first:last]


@dataclass(frozen=True, slots=True)
class LayerKV:
    keys: Half
    values: Half


def read_pages(layers: Sequence[LayerKV], page_ids: Sequence[int]) -> torch.Tensor:
    """The bytes of pages, in main memory: all numbers, then all scales.  # -> (pages, bytes)"""
    parts = [part[list(page_ids)].flatten(1).view(torch.uint8) for part in _parts(layers)]
    return torch.cat(parts, dim=1).cpu()


def write_pages(layers: Sequence[LayerKV], page_ids: Sequence[int], pages: torch.Tensor) -> None:
    """Overwrite pages with the bytes that `read_pages` gave."""
    there = pages.to(layers[0].keys.numbers.device)
    for part in _parts(layers):
        size = part[0].numel() * part.element_size()
        part[list(page_ids)] = there[:, :size].contiguous().view(part.dtype).reshape(len(page_ids), *part.shape[1:])
        there = there[:, size:]


def _parts(layers: Sequence[LayerKV]) -> Iterator[torch.Tensor]:
    halves = [half for layer in layers for half in (layer.keys, layer.values)]
    yield from (half.numbers for half in halves)
    yield from (half.scales for half in halves if half.scales is not None)


def allocate(config: ModelConfig, plan: Plan, device: torch.device) -> list[LayerKV]:
    """Allocate the pages of `plan`, a pair for each layer."""
    pages = (plan.num_pages, config.num_kv_heads, plan.page_size)

    def half() -> Half:
        numbers = torch.zeros((*pages, config.head_dim), dtype=DTYPES[plan.kv_type], device=device)
        return Half(numbers, torch.zeros(pages, device=device) if plan.kv_type == "int8" else None)

    return [LayerKV(half(), half()) for _ in range(config.num_layers)]
