"""The contract of a backend: it owns a whole forward pass and its KV storage.

The boundary is a forward pass, not an operation: an op boundary costs a Python call per op and forbids fusion. An op has the same
name in every backend (`rms_norm`, `rope`, `attend`, `matvec_q4_0`). A row's result never depends on the other rows.
"""

from __future__ import annotations

import errno
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

import numpy as np
import numpy.typing as npt

from puna.batch import Batch, Pending, SamplingBatch
from puna.errors import InsufficientMemoryError, PunaError, UsageError, first_line
from puna.formats.base import Checkpoint
from puna.plan import Layout, Plan, advice
from puna.progress import SILENT, Reporter

# The oldest GPUs for puna's Triton kernels: they have bf16 on tensor cores, and Triton 3.3 dropped everything below.
# (3.9 still compiles for 7.5, but without tensor cores and with kilobytes of spilled registers per thread.)
LEAST_CAPABILITY = (8, 0)


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """The device of a backend. `free_bytes` can be allocated now; container limits are included."""

    name: str  # "cpu", "reference"
    description: str  # "AMD EPYC, 2 threads, AVX2"
    threads: int
    total_bytes: int
    free_bytes: int
    rank: int = 0  # of `num_ranks` processes that share a model
    num_ranks: int = 1


@dataclass(frozen=True, slots=True)
class ProcessRank:
    """Which of the processes that share a model this one is, from torchrun's variables."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among those on this machine
    local_size: int = 1

    @classmethod
    def from_env(cls) -> ProcessRank:
        size = _variable("WORLD_SIZE", 1)
        if size == 1:  # a cluster's scheduler may set RANK all the same
            return cls()
        rank = _variable("RANK", 0)
        if _variable("LOCAL_WORLD_SIZE", 1) < 1:
            raise UsageError("LOCAL_WORLD_SIZE is 0; it must be 1 or more", hint="Start puna with torchrun.")
        if not 0 <= rank < size:
            raise UsageError(
                f"RANK is {rank} and WORLD_SIZE is {size}; the rank must be below the size", hint="Start puna with torchrun."
            )
        return cls(rank, size, _variable("LOCAL_RANK", rank), _variable("LOCAL_WORLD_SIZE", size))


def _variable(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not (text.isascii() and text.isdecimal()):
        raise UsageError(f"{name} is {text!r}, not a whole number", hint=f"Unset {name}, or start puna with torchrun.")
    return int(text)


@dataclass(frozen=True, slots=True)
class Roofline:
    """The device's roofline (Williams et al. 2009), measured by the backend. `puna bench` compares its speeds with it."""

    read_bytes_per_s: float  # DRAM read
    int8_ops_per_s: float  # multiply and add counted as two
    f32_ops_per_s: float


PageBytes = npt.NDArray[np.uint8]  # (pages, bytes of a page's K and V in all layers)


class Backend(Protocol):
    """One device's forward pass. Not thread-safe: one engine calls it."""

    info: DeviceInfo
    filters: frozenset[str]  # the filters of `puna.sampling` that the device applies; empty: it does not sample
    prompts_apart: bool  # whether generated tokens are computed otherwise than prompts, with other bits
    # What the bits of K and V depend on besides puna's sources, the model and the settings: libraries, CPU or GPU. "": pages
    # cannot be read or written, because this process holds only its part of them.
    kv_arithmetic: str

    def load(self, checkpoint: Checkpoint, plan: Plan, report: Reporter = SILENT) -> None:
        """Load the weights and allocate the KV pages that `plan` names. Afterwards the checkpoint may be dropped.

        Where several processes share a model, the checkpoint is this process's part of it (`formats/shards.py`), and `load`
        returns in the first process only: the others run its steps and end with it.
        """

    def step(self, batch: Batch, sampling: SamplingBatch | None = None) -> Pending:
        """Launch a step: write the batch's K and V, compute the logits of `batch.logit_rows`, and sample if `sampling` is given;
        else compute the hidden states of `batch.hidden_rows` too.

        Only a backend with `filters` is given `sampling`, for requests that need no filter beyond them. The sampled ids equal
        those of `SamplingBatch.sample_row` for the same logits, and stay on the device for the placeholders of the next step. At
        most one other step is unread.
        """

    def read_pages(self, page_ids: Sequence[int], out: PageBytes | None = None) -> PageBytes:
        """Copy the K and V of pages, into `out` if it is given. Another thread may call this while a step runs.
        # (pages,) -> (pages, page bytes)
        """

    def write_pages(self, page_ids: Sequence[int], pages: PageBytes) -> None:
        """Overwrite pages with what `read_pages` gave; steps launched afterwards see it."""

    def roofline(self) -> Roofline:
        """Measure the device's roofline (a second or two)."""

    def weights_bytes(self) -> int:
        """Bytes of the weights that `load` made in the device's memory: those of the plan's placements."""

    def held_bytes(self) -> int:
        """Bytes of device memory that this process holds now. Their growth during `load` is what loading takes."""

    def close(self) -> None:
        """Free everything. Idempotent."""


def moved(pages: PageBytes, out: PageBytes | None) -> PageBytes:
    """What `read_pages` returns: new memory, or what it was given."""
    if out is None:
        return pages
    out[:] = pages
    return out


@dataclass(frozen=True, slots=True)
class BackendSpec:
    """A row of the table of backends: what is known of a backend before its import."""

    module: str  # holds `create(config: EngineConfig, report: Reporter) -> Backend`
    layouts: Mapping[str, Layout]  # ways to keep weights in memory, the most accurate first
    fills_kv: bool = False  # whether loading, not first use, takes the memory of K and V


class Translation:
    """A context that turns errors raised inside into PunaErrors, where `translate` knows them.

    Put the work inside into a function of its own: the frame that holds the `with` keeps its locals as long as the error lives.
    This is no generator, because `contextlib` keeps the traceback in a frame of its own.
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


def loading_to_main_memory(checkpoint: Checkpoint, plan: Plan) -> Translation:
    """Raise InsufficientMemoryError, with what to do, if main memory runs out while a model is loaded inside."""
    hint = advice(plan, checkpoint.config, checkpoint.tensors)  # not later, when memory has run out

    def translate(error: BaseException) -> PunaError | None:
        if not isinstance(error, MemoryError) and not (isinstance(error, OSError) and error.errno == errno.ENOMEM):
            return None
        return InsufficientMemoryError(f"this machine ran out of memory while loading the model: {first_line(error)}", hint=hint)

    return Translation(translate)


def load_whole(load: Callable[[], None], release: Callable[[], None], errors: Translation) -> None:
    """Load a model whole, or call `release` and raise, with the error as `errors` translates it."""
    try:
        with errors:
            load()
    except BaseException:
        release()
        raise


def let_go(error: BaseException) -> None:
    """Release what an error's frames hold, e.g. a model that is loaded in part. A note keeps the traceback's text.

    A frame that has ended still holds its locals and its function's closure, so the whole traceback is removed.
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
