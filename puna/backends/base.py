"""The contract of a backend: it owns a whole forward pass and its KV storage.

The boundary is a forward pass, not an operation: an op boundary costs a Python call per op and forbids fusion. The same op
has the same name in every backend (`rms_norm`, `rope`, `attend`, `matvec_q4_0`). A row's result never depends on the other rows.
"""

from __future__ import annotations

import errno
import os
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, runtime_checkable

from puna.errors import InsufficientMemoryError, PunaError, UsageError
from puna.formats.base import Checkpoint
from puna.plan import Layout, Plan
from puna.report import SILENT, Reporter
from puna.request import Batch, Choices, Logits

# The oldest cards for puna's Triton kernels: they have bf16 on tensor cores, and Triton supports nothing below since 3.3.
# (3.9 still compiles for 7.5, without tensor cores and with kilobytes of spilled registers a thread: nothing to rely on.)
LEAST_CAPABILITY = (8, 0)


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """What a backend runs on. `free_bytes` is what can be allocated now, container limits included."""

    name: str  # "cpu", "reference"
    description: str  # "AMD EPYC, 2 threads, AVX2"
    threads: int
    total_bytes: int
    free_bytes: int
    rank: int = 0  # of `num_ranks` processes that share a model
    num_ranks: int = 1


@dataclass(frozen=True, slots=True)
class ProcessPlace:
    """Which of several processes that share a model this one is, as torchrun's variables say."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among those on this machine
    local_size: int = 1

    @classmethod
    def from_env(cls) -> ProcessPlace:
        size = _variable("WORLD_SIZE", 1)
        if size == 1:  # whatever else says RANK: schedulers of clusters do
            return cls()
        rank = _variable("RANK", 0)
        if _variable("LOCAL_WORLD_SIZE", 1) < 1:
            raise UsageError("LOCAL_WORLD_SIZE is 0; it must be 1 or more", hint="Start with torchrun.")
        if not 0 <= rank < size:
            raise UsageError(
                f"RANK is {rank} and WORLD_SIZE {size}; the rank must lie below the size", hint="Start with torchrun."
            )
        return cls(rank, size, _variable("LOCAL_RANK", rank), _variable("LOCAL_WORLD_SIZE", size))


def _variable(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not (text.isascii() and text.isdecimal()):
        raise UsageError(f"{name} is {text!r}; a whole number is needed", hint=f"Unset {name}, or start with torchrun.")
    return int(text)


@dataclass(frozen=True, slots=True)
class DeviceLimits:
    """The machine's limits, measured by the backend: what `puna bench` holds its speeds against."""

    read_bytes_per_s: float  # DRAM read
    int8_ops_per_s: float  # multiply and add counted as two
    f32_ops_per_s: float


class Backend(Protocol):
    """One device's forward pass. Not thread-safe: one engine calls it."""

    info: DeviceInfo

    def load(self, checkpoint: Checkpoint, plan: Plan, report: Reporter = SILENT) -> None:
        """Take the weights and allocate the KV pages that `plan` names. Afterwards the checkpoint may be dropped.

        Where several processes share a model, the checkpoint is this one's part of it (`formats/shards.py`), and only in the
        first does `load` return: the others take part in its steps, and end with it.
        """

    def forward(self, batch: Batch) -> Logits:
        """Run one step: write the batch's K and V, return the logits of `batch.logit_rows`.  # (num_logits, vocab_size)"""

    def limits(self) -> DeviceLimits:
        """Measure the device's limits (a second or two)."""

    def held_bytes(self) -> int:
        """Bytes of the device's memory that this process holds now: what loading takes is the difference."""

    def close(self) -> None:
        """Free everything. Idempotent."""


class Chosen(Protocol):
    """Ids that a device chooses, while the host goes on."""

    def read(self) -> list[int]:
        """Wait for them. -1 stands where the logits allow no choice: they hold what is not finite."""


@runtime_checkable
class LooksAhead(Protocol):
    """A backend that can choose ids by itself, so that the host need not wait for one step before it asks for the next."""

    def choose(self, batch: Batch, choices: Choices) -> Chosen:
        """As `forward`, but the next ids are chosen on the device, and the logits stay there.

        They are the ids that `puna.sampling` chooses of the same logits (`choose_row`), biases and penalties included, which
        count the ids that the device itself chose last. At most one result is unread when this is called.
        """


@dataclass(frozen=True, slots=True)
class BackendSpec:
    """A line of the table of backends: what is known of it without importing it."""

    module: str  # holds `create(config: EngineConfig, report: Reporter) -> Backend`
    layouts: Mapping[str, Layout]  # ways to keep weights in memory, the one that loses least first
    fills_kv: bool = False  # whether loading takes the memory of K and V, not their first use


class Translation:
    """A context that raises the errors of what runs inside as PunaErrors, where `translate` knows them.

    The work inside belongs in a function of its own: the locals of the frame that holds the `with` live as long as the error. It
    is no generator, since `contextlib` keeps the traceback in a frame of its own.
    """

    def __init__(self, translate: Callable[[BaseException], PunaError | None]) -> None:
        self._translate = translate

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        del trace
        told = None if error is None or isinstance(error, PunaError) else self._translate(error)
        if error is not None and told is not None:
            let_go(error)
            raise told from error


def main_memory(doing: str, advice: str) -> Translation:
    """Raise InsufficientMemoryError, with `advice` as what to do, where main memory runs out inside. `doing`: "while ..."."""

    def translate(error: BaseException) -> PunaError | None:
        if not isinstance(error, MemoryError) and not (isinstance(error, OSError) and error.errno == errno.ENOMEM):
            return None
        words = (str(error).splitlines() or [type(error).__name__])[0]
        return InsufficientMemoryError(f"this machine ran out of memory {doing}: {words}", hint=advice)

    return Translation(translate)


def let_go(error: BaseException) -> None:
    """Release what the frames of an error hold: a model that is loaded in part. A note keeps the traceback's text.

    A frame that has ended holds its locals, and beyond them its function's closure; so the whole traceback is taken away.
    """
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        if one.__traceback__ is not None:
            one.add_note("".join(traceback.format_tb(one.__traceback__)))
            traceback.clear_frames(one.__traceback__)
            one.__traceback__ = None
        one = one.__cause__ or one.__context__
