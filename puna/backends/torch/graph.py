"""Decode steps as CUDA graphs: one graph launch replaces some hundred kernel launches.

A decode step has one generated token per sequence; a step with guesses of more tokens is not recorded. The second step of a
bucket of sizes is recorded; the first compiles the kernels, which must not happen during a recording. A recording holds
addresses, not numbers. So all that differs between two steps of a bucket lies in one staging buffer, which each step refills,
and recorded work must not depend on numbers on the host: `Ops.READS_HOST` marks operations that do.

Copies of an existing row fill a bucket: they write the same numbers to the same slots.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from puna.backends.torch.staging import Array, StagingBuffer
from puna.backends.torch.step import Step, arrays_of, step_of
from puna.batch import Batch
from puna.model.rotary import RotaryTables
from puna.plan import Plan

# A step of more rows takes the device so long that the host keeps up.
ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
LENGTHS = tuple(512 << 2 * i for i in range(10))  # positions that the longest row sees: the width of page tables


@dataclass(frozen=True, slots=True)
class Bucket:
    """The sizes that a recording serves: this many rows, and up to this many positions."""

    rows: int
    length: int


def bucket_rows(rows: int) -> int:
    """
    >>> bucket_rows(5), bucket_rows(10_000)
    (8, 512)
    """
    return next((size for size in ROWS if size >= rows), ROWS[-1])


def bucket_of(batch: Batch) -> Bucket | None:
    """The smallest bucket that holds a batch; None if the batch is too large or not one row, with logits, per sequence."""
    rows = len(batch.token_ids)
    if not rows == len(batch.logit_rows) == len(batch.starts) - 1 or rows > ROWS[-1]:
        return None
    longest = int(batch.positions.max()) + 1
    return Bucket(bucket_rows(rows), next(length for length in LENGTHS if length >= longest))


class NotRecordedError(RuntimeError):
    """A step could not be recorded; it can still be computed."""


class Recorder(Protocol):
    """Records what a function launches on a device."""

    def record(self, work: Callable[[], object]) -> Callable[[], object]:
        """Run nothing yet; the result launches all of it again, with what lies at the same addresses by then."""


class CUDARecorder:
    """All recordings share one memory pool: no two run at the same time, and each one's logits are read before the next runs."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()  # torch's own stream for recordings stays on the process's first device

    def record(self, work: Callable[[], object]) -> Callable[[], object]:
        graph = torch.cuda.CUDAGraph()
        with (
            torch.cuda.stream(torch.cuda.current_stream()),  # a failed recording may leave its own stream active
            torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"),
        ):
            work()
        return graph.replay  # type: ignore[no-any-return]


@dataclass(slots=True)
class _Kept:
    """A bucket's state: the step whose arrays lie in `staging`, and its recording."""

    staging: StagingBuffer
    step: Step
    replay: Callable[[], object] | None = None


class Graphs:
    """The decode steps of a loaded model. `compute` is its forward pass: Step -> logits (rows, vocab_size)."""

    def __init__(
        self, compute: Callable[[Step], torch.Tensor], rotary: RotaryTables, plan: Plan, logits: torch.Tensor, recorder: Recorder
    ) -> None:
        """`logits` (rows, vocab_size): every recording writes its own here, `rows` at most."""
        self._compute, self._rotary, self._plan, self._recorder = compute, rotary, plan, recorder
        self._logits = logits
        self._most_rows = len(logits)
        self._kept: dict[Bucket, _Kept] = {}

    def logits(self, batch: Batch, token_ids: torch.Tensor) -> torch.Tensor | None:
        """The logits of a decode step; None if such a step cannot be recorded.  # (rows, vocab_size)

        Read the result on the device before the next call. Raises NotRecordedError if recording fails; errors of the device pass
        unchanged.
        """
        bucket = bucket_of(batch)
        if bucket is None or bucket.rows > self._most_rows:
            return None
        whole, least = batch.padded(bucket.rows, -(-bucket.length // self._plan.page_size))
        arrays = arrays_of(whole, self._rotary, self._plan.page_size)
        count, known = len(token_ids), self._kept.get(bucket)
        kept = known or self._new(whole, arrays, bucket, token_ids)
        if known is not None:
            known.staging.fill(arrays)
        kept.step.token_ids[:count] = token_ids
        kept.step.token_ids[count:] = token_ids[least]
        logits = self._compute(kept.step) if known is None else self._replayed(known)
        self._kept[bucket] = kept  # only now: an interrupted step has not run all kernels, and the next one would be recorded
        return logits[:count]

    def keep_below(self, rows: int) -> None:
        """Record only steps of fewer rows from now on."""
        self._most_rows = min(self._most_rows, rows - 1)
        self._kept = {bucket: kept for bucket, kept in self._kept.items() if bucket.rows < rows}

    def _new(self, whole: Batch, arrays: Mapping[str, Array], bucket: Bucket, token_ids: torch.Tensor) -> _Kept:
        staging = StagingBuffer(arrays, token_ids.device)
        ids = torch.empty(bucket.rows, dtype=torch.int64, device=token_ids.device)
        furthest = replace(
            step_of(whole, staging.tensors, ids, of_prompts=False), host_positions=[bucket.length - 1] * bucket.rows
        )
        return _Kept(staging, furthest)

    def _replayed(self, kept: _Kept) -> torch.Tensor:
        out = self._logits[: len(kept.step.token_ids)]
        if kept.replay is None:
            try:
                kept.replay = self._recorder.record(lambda: out.copy_(self._compute(kept.step)))
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:  # torch has no narrower class for a failed recording
                raise NotRecordedError(str(error)) from error
        kept.replay()
        return out
