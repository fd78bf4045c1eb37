"""A batch on the device: the inputs of every layer of one step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from puna.backends.torch.blob import Array, upload
from puna.backends.torch.kv import Slots
from puna.model.rope import RotaryTables
from puna.model.spec import ModelConfig
from puna.request import Batch


@dataclass(frozen=True, slots=True)
class Step:
    """Arrays on the device; `host_positions` and `sequences` are also on the host, where Python branches on them."""

    token_ids: torch.Tensor  # (tokens,)
    positions: torch.Tensor  # (tokens,)
    sequences: torch.Tensor  # (tokens,) each token's row of `page_tables`
    page_tables: torch.Tensor  # (sequences, pages)
    turns: torch.Tensor  # (tokens, 2, head_dim / 2) cos and sin, float32
    slots: Slots
    logit_rows: torch.Tensor  # (num_logits,)
    host_positions: list[int]
    host_sequences: list[int]
    of_prompts: bool  # all rows are prompt tokens; False: all are generated tokens

    def place(self, row: int) -> tuple[int, torch.Tensor]:
        """The position of a row, and the pages of its sequence."""
        return self.host_positions[row], self.page_tables[self.host_sequences[row]]


def make_step(batch: Batch, model: ModelConfig, page_size: int, token_ids: torch.Tensor, of_prompts: bool = False) -> Step:
    """Bring a batch to the device that already has its token ids."""
    return step_of(batch, upload(arrays_of(batch, model, page_size), token_ids.device), token_ids.long(), of_prompts)


def arrays_of(batch: Batch, model: ModelConfig, page_size: int) -> dict[str, Array]:
    """The arrays that a step reads on the device, without the token ids; `Step` and `Slots` describe them."""
    sequences = sequences_of(batch)
    cos_sin = RotaryTables(model).cos_sin(batch.positions, batch.prompt_lengths[sequences])[0]
    return {
        "positions": batch.positions.astype(np.int64),
        "sequences": sequences,
        "page_tables": batch.page_tables.astype(np.int64),
        "turns": cos_sin,
        "pages": batch.page_tables[sequences, batch.positions // page_size].astype(np.int64),
        "offsets": (batch.positions % page_size).astype(np.int64),
        "logit_rows": batch.logit_rows.astype(np.int64),
    }


def step_of(batch: Batch, there: Mapping[str, torch.Tensor], token_ids: torch.Tensor, of_prompts: bool) -> Step:
    """The step of a batch whose arrays are on the device."""
    return Step(
        token_ids=token_ids,
        positions=there["positions"],
        sequences=there["sequences"],
        page_tables=there["page_tables"],
        turns=there["turns"],
        slots=Slots(there["pages"], there["offsets"]),
        logit_rows=there["logit_rows"],
        host_positions=batch.positions.tolist(),
        host_sequences=sequences_of(batch).tolist(),
        of_prompts=of_prompts,
    )


def sequences_of(batch: Batch) -> npt.NDArray[np.int64]:
    """The sequence of each row.  # (tokens,)"""
    lengths = np.diff(batch.starts)
    return np.repeat(np.arange(len(lengths)), lengths)


def is_of_prompt(batch: Batch) -> npt.NDArray[np.bool_]:
    """Whether each row is a prompt token; that does not depend on when and beside what it is computed.  # (tokens,)"""
    return np.asarray(batch.positions < np.repeat(batch.prompt_lengths, np.diff(batch.starts)))


def rows_of(batch: Batch, rows: npt.NDArray[np.intp]) -> Batch:
    """Some rows of a batch, in order: at most one run of neighbours per sequence."""
    sequences = sequences_of(batch)[rows]
    kept, firsts = np.unique(sequences, return_index=True)
    places = np.full(len(batch.token_ids), -1, np.int32)
    places[rows] = np.arange(len(rows), dtype=np.int32)
    wanted = places[batch.logit_rows]
    return Batch(
        token_ids=batch.token_ids[rows],
        positions=batch.positions[rows],
        starts=np.append(firsts, len(rows)).astype(np.int32),
        page_tables=batch.page_tables[kept],
        logit_rows=wanted[wanted >= 0],
        prompt_lengths=batch.prompt_lengths[kept],
    )


def halves(batch: Batch, at: int) -> tuple[Batch, Batch]:
    """Split the token rows at `at` into two steps that, run one after the other, equal this one.

    A split sequence continues in the second; its logits are in the order of the rows.
    """
    before = int(np.searchsorted(batch.starts, at, side="left"))  # sequences that begin before `at`
    after = int(np.searchsorted(batch.starts, at, side="right")) - 1  # the sequence that holds it
    wanted = int(np.searchsorted(batch.logit_rows, at))
    return (
        Batch(
            token_ids=batch.token_ids[:at],
            positions=batch.positions[:at],
            starts=np.append(batch.starts[:before], np.int32(at)),
            page_tables=batch.page_tables[:before],
            logit_rows=batch.logit_rows[:wanted],
            prompt_lengths=batch.prompt_lengths[:before],
        ),
        Batch(
            token_ids=batch.token_ids[at:],
            positions=batch.positions[at:],
            starts=np.maximum(batch.starts[after:] - np.int32(at), 0).astype(np.int32),
            page_tables=batch.page_tables[after:],
            logit_rows=batch.logit_rows[wanted:] - np.int32(at),
            prompt_lengths=batch.prompt_lengths[after:],
        ),
    )
