"""A batch on the device: the inputs of every layer of one step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from puna.backends.torch.kv import Slots
from puna.backends.torch.lora import AdaptedRows
from puna.backends.torch.staging import Array, upload
from puna.batch import Batch
from puna.model.rotary import RotaryTables


@dataclass(frozen=True, slots=True)
class Step:
    """Arrays on the device; `host_positions` and `sequences` are also on the host, where Python branches on them."""

    token_ids: torch.Tensor  # (tokens,)
    positions: torch.Tensor  # (tokens,)
    sequences: torch.Tensor  # (tokens,) each token's row of `page_tables`
    page_tables: torch.Tensor  # (sequences, pages)
    cos_sin: torch.Tensor  # (tables, tokens, 2, head_dim / 2) the rotary tables, float32
    slots: Slots
    logit_rows: torch.Tensor  # (num_logits,)
    hidden_rows: torch.Tensor  # (num_hidden,)
    host_positions: list[int]
    host_sequences: list[int]
    of_prompts: bool  # all rows are prompt tokens; False: all are generated tokens
    adapted: tuple[AdaptedRows, ...] = ()  # the rows that LoRA adapters change

    def position_and_pages(self, row: int) -> tuple[int, torch.Tensor]:
        """The position of a row, and the pages of its sequence."""
        return self.host_positions[row], self.page_tables[self.host_sequences[row]]


def make_step(batch: Batch, rotary: RotaryTables, page_size: int, token_ids: torch.Tensor, of_prompts: bool = False) -> Step:
    """Bring a batch to the device that already has its token ids."""
    step = step_of(batch, upload(arrays_of(batch, rotary, page_size), token_ids.device), token_ids.long(), of_prompts)
    return replace(step, adapted=_adapted(batch, token_ids.device)) if batch.has_adapters else step


def _adapted(batch: Batch, device: torch.device) -> tuple[AdaptedRows, ...]:
    """Each adapter of the batch, and its rows."""
    numbers = [int(number) for number in np.unique(batch.row_adapters) if number >= 0]
    return tuple((number, torch.from_numpy(np.flatnonzero(batch.row_adapters == number)).to(device)) for number in numbers)


def arrays_of(batch: Batch, rotary: RotaryTables, page_size: int) -> dict[str, Array]:
    """The arrays that a step reads on the device, without the token ids; `Step` and `Slots` describe them."""
    sequences = batch.sequences
    return {
        "positions": batch.positions.astype(np.int64),
        "sequences": sequences,
        "page_tables": batch.page_tables.astype(np.int64),
        "cos_sin": rotary.cos_sin(batch.positions, batch.row_prompt_lengths),
        "pages": batch.page_tables[sequences, batch.positions // page_size].astype(np.int64),
        "offsets": (batch.positions % page_size).astype(np.int64),
        "logit_rows": batch.logit_rows.astype(np.int64),
        "hidden_rows": batch.hidden_rows.astype(np.int64),
    }


def step_of(batch: Batch, there: Mapping[str, torch.Tensor], token_ids: torch.Tensor, of_prompts: bool) -> Step:
    """The step of a batch whose arrays are on the device."""
    return Step(
        token_ids=token_ids,
        positions=there["positions"],
        sequences=there["sequences"],
        page_tables=there["page_tables"],
        cos_sin=there["cos_sin"],
        slots=Slots(there["pages"], there["offsets"]),
        logit_rows=there["logit_rows"],
        hidden_rows=there["hidden_rows"],
        host_positions=batch.positions.tolist(),
        host_sequences=batch.sequences.tolist(),
        of_prompts=of_prompts,
    )
