"""The contract of a backend: it owns a whole forward pass and its KV storage.

The boundary is a forward pass, not an operation: an op boundary costs a Python call per op and forbids fusion. The same op
has the same name in every backend (`rms_norm`, `rope`, `attend`, `matvec_q4_0`). A row's result never depends on the other rows.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

from puna.formats.base import Checkpoint
from puna.plan import Layout, Plan
from puna.report import SILENT, Reporter
from puna.request import Batch, Logits


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """What a backend runs on. `free_bytes` is what can be allocated now, container limits included."""

    name: str  # "cpu", "reference"
    description: str  # "AMD EPYC, 2 threads, AVX2"
    threads: int
    total_bytes: int
    free_bytes: int


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
        """Take the weights and allocate the KV pages that `plan` names. Afterwards the checkpoint may be dropped."""

    def forward(self, batch: Batch) -> Logits:
        """Run one step: write the batch's K and V, return the logits of `batch.logit_rows`.  # (num_logits, vocab_size)"""

    def limits(self) -> DeviceLimits:
        """Measure the device's limits (a second or two)."""

    def close(self) -> None:
        """Free everything. Idempotent."""


@dataclass(frozen=True, slots=True)
class BackendSpec:
    """A line of the table of backends: what is known of it without importing it."""

    module: str  # holds `create(config: EngineConfig, report: Reporter) -> Backend`
    layout: Layout


def usable_cores() -> int:
    """Cores that this process may use (affinity and, on Linux, the cgroup's CPU quota)."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(affinity, _cgroup_cores()))


def _cgroup_cores() -> int:
    quota, _, period = _first_line("/sys/fs/cgroup/cpu.max").partition(" ")
    return max(1, int(quota) // int(period)) if quota.isdecimal() and period.isdecimal() else 1 << 16


def memory_bytes() -> tuple[int, int]:
    """(total, free) bytes of main memory, the container's limit taken into account."""
    memory = psutil.virtual_memory()
    limit, used = _first_line("/sys/fs/cgroup/memory.max"), _first_line("/sys/fs/cgroup/memory.current")
    if limit.isdecimal() and used.isdecimal():
        return min(memory.total, int(limit)), min(memory.available, max(0, int(limit) - int(used)))
    return int(memory.total), int(memory.available)


def _first_line(path: str) -> str:
    try:
        with Path(path).open(encoding="ascii") as file:
            return file.readline().strip()
    except OSError:
        return ""
