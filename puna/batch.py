"""A step's data: what a backend receives (`Batch`, and `SamplingBatch` if it samples), and what it gives back (`Pending`).

Every batch is made by `Batch.of`, or from another one by `Batch._select`: a new fact about a sequence is a field and a line in
each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from puna.errors import NumericalError
from puna.request import PLACEHOLDER, TEMPERATURE_FIRST, SamplingParams
from puna.sampling import History, Row, Sampler, sample
from puna.scheduler import ScheduledChunk

IntArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float64]
Logits = npt.NDArray[np.float32]  # (rows, vocab_size)
RowIndex = npt.NDArray[np.intp] | slice  # which rows of an array


@dataclass(frozen=True, eq=False)
class Batch:
    """One step's work, ragged: decode rows and prefill chunks together. Sequence s owns token rows starts[s]..starts[s+1]-1.

    A row at position p attends to positions 0..p of its sequence. The K and V of p are in page `page_tables[s, p // page_size]`,
    slot `p % page_size`. The backend writes the batch's K and V before it attends.
    """

    token_ids: IntArray  # (num_tokens,)
    positions: IntArray  # (num_tokens,)
    starts: IntArray  # (num_sequences + 1,)
    page_tables: IntArray  # (num_sequences, max pages of any; unused entries -1)
    logit_rows: IntArray  # (num_logits,) the token rows whose logits are needed, ascending
    hidden_rows: IntArray  # (num_hidden,) the prompts' rows whose hidden states are needed, ascending
    prompt_lengths: IntArray  # (num_sequences,)
    adapters: IntArray  # (num_sequences,) the LoRA adapter of each, by its number; -1: none

    @classmethod
    def of(cls, chunks: Sequence[ScheduledChunk]) -> Batch:
        """The arrays of scheduled chunks. Lists become arrays once, not per request: that costs time with 256 requests."""
        token_ids: list[int] = []
        positions: list[int] = []
        logit_rows: list[int] = []
        hidden_rows: list[int] = []
        starts = [0]
        for chunk in chunks:
            token_ids += chunk.request.token_ids(chunk.first, chunk.last)
            token_ids += chunk.draft_ids
            positions += range(chunk.first, chunk.last + len(chunk.draft_ids))
            starts.append(len(positions))
            logit_rows += range(len(positions) - chunk.num_logits, len(positions))
            if chunk.request.pool is not None:
                hidden_rows += range(len(positions) - chunk.num_hidden, len(positions))
        return cls(
            token_ids=np.array(token_ids, np.int32),
            positions=np.array(positions, np.int32),
            starts=np.array(starts, np.int32),
            page_tables=_page_tables([chunk.request.page_ids for chunk in chunks]),
            logit_rows=np.array(logit_rows, np.int32),
            hidden_rows=np.array(hidden_rows, np.int32),
            prompt_lengths=np.array([chunk.request.prompt_length for chunk in chunks], np.int32),
            adapters=np.array([chunk.request.adapter for chunk in chunks], np.int32),
        )

    def _select(
        self, rows: RowIndex, sequences: RowIndex, starts: IntArray, logit_rows: IntArray, hidden_rows: IntArray
    ) -> Batch:
        """The batch of some token rows and sequences; `starts`, `logit_rows` and `hidden_rows` are the new ones."""
        return Batch(
            token_ids=self.token_ids[rows],
            positions=self.positions[rows],
            starts=starts,
            page_tables=self.page_tables[sequences],
            logit_rows=logit_rows,
            hidden_rows=hidden_rows,
            prompt_lengths=self.prompt_lengths[sequences],
            adapters=self.adapters[sequences],
        )

    # ---- facts that follow -----------------------------------------------------------------------------------------------

    @cached_property
    def sequences(self) -> npt.NDArray[np.int64]:
        """The sequence of each row.  # (num_tokens,)"""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    @cached_property
    def row_prompt_lengths(self) -> IntArray:
        """The prompt length of each row's sequence: rotary frequencies may depend on it (`RotaryTables`).  # (num_tokens,)"""
        return self.prompt_lengths[self.sequences]

    @cached_property
    def row_adapters(self) -> IntArray:
        """The LoRA adapter of each row's sequence.  # (num_tokens,)"""
        return self.adapters[self.sequences]

    @property
    def has_adapters(self) -> bool:
        return bool((self.adapters >= 0).any())

    @cached_property
    def is_prompt(self) -> npt.NDArray[np.bool_]:
        """Whether each row is a prompt token; that does not depend on when and beside what it is computed.  # (num_tokens,)"""
        return np.asarray(self.positions < self.row_prompt_lengths)

    def by_sequence(self, logits: Logits) -> list[Logits]:
        """Split the logits by sequence.  # (num_logits, vocab_size) -> num_sequences arrays"""
        return np.split(logits, np.searchsorted(self.logit_rows, self.starts[1:-1]))

    def results(self, pending: Pending) -> list[Logits]:
        """A step's results by sequence: the logits, or the hidden states of a sequence that needs these instead."""
        logits = self.by_sequence(pending.logits())
        if not len(self.hidden_rows):
            return logits
        hidden = np.split(pending.hidden(), np.searchsorted(self.hidden_rows, self.starts[1:-1]))
        return [states if len(states) else rows for states, rows in zip(hidden, logits, strict=True)]

    def sources(self, sampled: Sequence[int]) -> IntArray:
        """For each placeholder, its index among the ids that the previous step sampled; -1 for a known id.  # (num_tokens,)

        `sampled` is that index for each sequence; -1: the previous step sampled nothing for it.
        """
        sources, ends = np.full(len(self.token_ids), -1, np.int32), self.starts[1:] - 1
        sources[ends] = np.where(self.token_ids[ends] == PLACEHOLDER, sampled, -1)
        return sources

    # ---- parts -----------------------------------------------------------------------------------------------------------

    def rows(self, rows: npt.NDArray[np.intp]) -> Batch:
        """Some token rows, in order: at most one run of neighbours per sequence."""
        kept, firsts = np.unique(self.sequences[rows], return_index=True)
        new_index = np.full(len(self.token_ids), -1, np.int32)
        new_index[rows] = np.arange(len(rows), dtype=np.int32)
        wanted = (found[found >= 0] for found in (new_index[self.logit_rows], new_index[self.hidden_rows]))
        return self._select(rows, kept, np.append(firsts, len(rows)).astype(np.int32), *wanted)

    def split(self, at: int) -> tuple[Batch, Batch]:
        """Split the token rows at `at` into two steps that, run one after the other, equal this one.

        A split sequence continues in the second; its logits are in the order of the rows.
        """
        before = int(np.searchsorted(self.starts, at, side="left"))  # sequences that begin before `at`
        after = int(np.searchsorted(self.starts, at, side="right")) - 1  # the sequence that holds it
        cut = np.int32(at)
        wanted = [np.split(rows, [np.searchsorted(rows, at)]) for rows in (self.logit_rows, self.hidden_rows)]
        first, second = np.append(self.starts[:before], cut), np.maximum(self.starts[after:] - cut, 0).astype(np.int32)
        return (
            self._select(slice(at), slice(before), first, *(rows for rows, _ in wanted)),
            self._select(slice(at, None), slice(after, None), second, *(rows - cut for _, rows in wanted)),
        )

    def padded(self, rows: int, pages: int) -> tuple[Batch, int]:
        """Fill a batch up to `rows` rows, all copies of the row that sees least; returns that row, too. Each row becomes a
        sequence of its own, and all have logits.

        Tables are cut or padded to `pages` pages, which hold every row's positions.
        """
        count, least = len(self.token_ids), int(self.positions.argmin())
        order = np.append(np.arange(count), np.full(rows - count, least))
        starts = np.arange(rows + 1, dtype=np.int32)
        whole = self._select(order, self.sequences[order], starts, starts[:-1], self.hidden_rows)
        tables, width = np.full((rows, pages), -1, np.int32), min(pages, self.page_tables.shape[1])
        tables[:, :width] = whole.page_tables[:, :width]
        return replace(whole, page_tables=tables), least


def _page_tables(page_ids: Sequence[Sequence[int]]) -> IntArray:
    """The page ids as rows, padded with -1.

    >>> _page_tables([[4], [2, 0]]).tolist()
    [[4, -1], [2, 0]]
    """
    lengths = np.array(list(map(len, page_ids)))
    tables = np.full((len(lengths), lengths.max()), -1, np.int32)
    tables[np.arange(lengths.max()) < lengths[:, None]] = list(chain.from_iterable(page_ids))
    return tables


# ---- how a device samples ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LogitEdits:
    """Edits of some rows' logits before sampling: biases are added, then ids that occurred are penalised.

    Edit e changes row `rows[e]`; `ids[starts[e]:starts[e + 1]]` are its ids, each once; `bias_starts` slices its biases alike.
    `counts` does not include a token in flight, which the previous step sampled and the host has not read yet: `sources` gives
    its index among the ids of that step.
    """

    rows: IntArray  # (num_edits,) ascending
    sources: IntArray  # (num_edits,) an index among the ids that the previous step sampled; -1: no token in flight
    repetition: FloatArray  # (num_edits,)
    presence: FloatArray  # (num_edits,)
    frequency: FloatArray  # (num_edits,)
    starts: IntArray  # (num_edits + 1,)
    ids: IntArray  # (starts[-1],)
    counts: IntArray  # (starts[-1],) how often each id was generated; 0: it occurs in the prompt only
    bias_starts: IntArray  # (num_edits + 1,)
    bias_ids: IntArray  # (bias_starts[-1],)
    biases: FloatArray  # (bias_starts[-1],)

    @classmethod
    def of(cls, samplers: Sequence[Sampler], histories: Sequence[History], sources: IntArray) -> LogitEdits | None:
        """The edits of these samplers, one row of logits each; None if none edits its logits.  # sources (num_logits,)"""
        lengths = _lengths(histories, sources)
        rows = [row for row, sampler in enumerate(samplers) if sampler.edits_logits(lengths[row])]
        if not rows:
            return None
        phases = [samplers[row].phase(lengths[row]) for row in rows]
        params = [samplers[row].effective for row in rows]
        seen = [samplers[row].occurrences(histories[row], int(sources[row] >= 0)) for row in rows]
        return cls(
            rows=np.array(rows, np.int32),
            sources=sources[rows],
            repetition=np.array([p.repetition_penalty for p in params], np.float64),
            presence=np.array([p.presence_penalty for p in params], np.float64),
            frequency=np.array([p.frequency_penalty for p in params], np.float64),
            starts=_starts([len(occurrences.ids) for occurrences in seen]),
            ids=np.concatenate([np.asarray(occurrences.ids) for occurrences in seen]),
            counts=np.concatenate([np.asarray(occurrences.counts) for occurrences in seen]),
            bias_starts=_starts([len(phase.bias_ids) for phase in phases]),
            bias_ids=np.concatenate([phase.bias_ids for phase in phases]),
            biases=np.concatenate([phase.biases for phase in phases]),
        )

    def as_params(self, e: int, params: SamplingParams, last_ids: Sequence[int]) -> tuple[SamplingParams, History]:
        """`params` with edit `e`, and a history to which it applies. `last_ids` are the ids that the previous step sampled."""
        seen, biases = (slice(starts[e], starts[e + 1]) for starts in (self.starts, self.bias_starts))
        ids, source = self.ids[seen], self.sources[e]
        edited = replace(
            params,
            repetition_penalty=self.repetition[e],
            presence_penalty=self.presence[e],
            frequency_penalty=self.frequency[e],
            logit_bias=dict(zip(self.bias_ids[biases].tolist(), self.biases[biases].tolist(), strict=True)),
        )
        last = [] if source < 0 else [last_ids[source]]
        return edited, History(ids.tolist(), [*np.repeat(ids, self.counts[seen]).tolist(), *last])


def _lengths(histories: Sequence[History], sources: IntArray) -> list[int]:
    """How many tokens each sequence has generated, with the one in flight.  # sources (num_logits,)"""
    return [len(history.output_ids) + int(source >= 0) for history, source in zip(histories, sources, strict=True)]


def _starts(lengths: list[int]) -> IntArray:
    """The start of each piece, and the end of the last one."""
    return np.concatenate((np.zeros(1, np.int32), np.cumsum(lengths, dtype=np.int32)))


@dataclass(frozen=True, slots=True)
class SamplingBatch:
    """How a device samples one token for each of a batch's `logit_rows`. Temperature 0 takes the most likely id."""

    # The orders of filters that the fields describe. A device that samples by them has these filters and no other.
    ORDERS: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("logit_bias", "penalties", "top_k", "top_p", "min_p", "temperature"),
        ("logit_bias", "penalties", "temperature", "top_k", "top_p", "min_p"),
    )
    FILTERS: ClassVar[frozenset[str]] = frozenset(ORDERS[0])

    sources: IntArray  # (num_tokens,) as `Batch.sources` gives them
    temperature: FloatArray  # (num_logits,), as are the next five
    temperature_first: npt.NDArray[np.bool_]  # whether it divides the logits before the other filters, or after them
    top_k: IntArray
    top_p: FloatArray
    min_p: FloatArray
    uniform: FloatArray  # the random number of each draw, in [0, 1)
    edits: LogitEdits | None = None  # None: no logit edits

    @classmethod
    def describes(cls, filters: Sequence[str]) -> bool:
        """Whether the fields describe these filters in this order.

        >>> SamplingBatch.describes(["top_k", "temperature"]), SamplingBatch.describes(["top_p", "top_k"])
        (True, False)
        """
        return any(tuple(name for name in order if name in filters) == tuple(filters) for order in cls.ORDERS)

    @classmethod
    def of(
        cls, samplers: Sequence[Sampler], histories: Sequence[History], sources: IntArray, logit_rows: IntArray
    ) -> SamplingBatch:
        """Sample as these samplers would, one for each of `logit_rows`."""
        params = [sampler.effective for sampler in samplers]
        lengths = _lengths(histories, sources[logit_rows])
        return cls(
            sources=sources,
            temperature=np.array([p.temperature for p in params], np.float64),
            temperature_first=np.array([sampler.temperature_first for sampler in samplers], np.bool_),
            top_k=np.array([p.top_k for p in params], np.int32),
            top_p=np.array([p.top_p for p in params], np.float64),
            min_p=np.array([p.min_p for p in params], np.float64),
            uniform=np.array([sampler.uniform(length) for sampler, length in zip(samplers, lengths)], np.float64),
            edits=LogitEdits.of(samplers, histories, sources[logit_rows]),
        )

    def sample_row(self, i: int, logits: Row, last_ids: Sequence[int] = ()) -> int:
        """Sample token `i` as its sampler would: the definition for devices. PLACEHOLDER if these logits allow none.

        `last_ids` are the ids that the previous step sampled.
        """
        params = SamplingParams(
            temperature=self.temperature[i],
            top_k=self.top_k[i],
            top_p=self.top_p[i],
            min_p=self.min_p[i],
            samplers=TEMPERATURE_FIRST if self.temperature_first[i] else None,
        )
        history, edits = History(), self.edits
        if edits is not None and i in edits.rows:
            params, history = edits.as_params(int(np.searchsorted(edits.rows, i)), params, last_ids)
        try:
            return sample(logits, params, history, float(self.uniform[i]))
        except NumericalError:
            return PLACEHOLDER


# ---- what a step gives back -------------------------------------------------------------------------------------------------


class Pending(Protocol):
    """A launched step. Reading its result waits for the device; the next step may be launched before."""

    def logits(self) -> Logits:
        """The logits of the batch's `logit_rows`, (num_logits, vocab_size). Only of a step without a SamplingBatch."""

    def hidden(self) -> Logits:
        """The hidden states of the batch's `hidden_rows` after the final norm, (num_hidden, hidden_size). Only of a step without
        a SamplingBatch."""

    def token_ids(self) -> list[int]:
        """The sampled ids, one for each of `logit_rows`; PLACEHOLDER where the logits are not finite. Only of a step with one."""


@dataclass(frozen=True, slots=True)
class Computed:
    """A step that is done, with its logits and hidden states on the host."""

    rows: Logits
    hidden_states: Logits = field(default_factory=lambda: np.empty((0, 0), np.float32))

    def logits(self) -> Logits:
        return self.rows

    def hidden(self) -> Logits:
        return self.hidden_states

    def token_ids(self) -> list[int]:
        raise NotImplementedError("the host samples from these logits")
