"""The cores that this process may use, how fast they are, and with how many threads a model is computed.

All threads of a step get equal shares of its rows and wait for the slowest of them. So the hardware threads of a core get one
thread, and the slow cores of a CPU that has two kinds are used only if number times slowest speed is larger with them. There
`backends/cpu/threads.py` begins; it tries the other numbers in `ThreadChoice.counts`.

Sources: the kernel's `ABI/stable/sysfs-devices-system-cpu` (topology, cpu_capacity) and `perf` (/sys/devices/cpu_atom), Apple's
sysctl hw.perflevel0, Microsoft's GetLogicalProcessorInformationEx.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from puna.resources import THIS, Machine, ThisMachine, allowed_cores, allowed_cpus, cpu_quota, numbers_of_list, whole
from puna.units import counted

CPU = "/sys/devices/system/cpu"
SLOW = 0.4  # an estimate for the slow cores of Intel and Apple: half as wide vectors, a lower clock
WINDOWS_CORE = 0  # RelationProcessorCore


class Core(NamedTuple):
    """A core. `threads`: hardware threads of it that this process may use; `speed`: of the fastest core's 1.0."""

    threads: int = 1
    speed: float = 1.0


@dataclass(frozen=True, slots=True)
class ThreadChoice:
    """Numbers of threads for the steps of a model, ascending, and the one to begin with."""

    counts: tuple[int, ...]
    start: int
    why: str  # "one for each of 8 cores"

    @property
    def most(self) -> int:
        return self.counts[-1]


def choose_threads(limit: int = 0, machine: Machine | None = None, present: int | None = None) -> ThreadChoice:
    """The numbers of threads to choose from. `limit`: at most so many, and up to so many; 0: what this machine has.

    `present`: the machine's CPUs, used if nothing else says it; by default what Python counts.
    """
    machine = machine or THIS
    cores = cores_of(machine, present)
    sets, threads = list(_sets(cores)), sum(core.threads for core in cores)
    quota = min(cpu_quota(machine) or threads, threads)
    best = max(sets, key=lambda found: (found[0] * found[1], -found[0]))[0]
    most = limit or max(1, math.ceil(quota))
    start = min(best, most, max(1, math.floor(quota)))
    return ThreadChoice(
        _counts(start, most, [*(count for count, _ in sets), threads]), start, _why(start, limit, best, len(cores))
    )


def _why(start: int, limit: int, best: int, cores: int) -> str:
    if start == limit:
        return "as --threads says"
    if start < best:
        return "as many as the quota allows"
    return f"one for each of {f'the {best} fast ones of ' if best < cores else ''}{counted(cores, 'core')}"


def _sets(cores: Sequence[Core]) -> Iterator[tuple[int, float]]:
    """The number of all cores that are at least so fast, for each speed, the highest first.

    >>> list(_sets([Core(speed=0.4), Core(), Core(speed=0.4), Core()]))
    [(2, 1.0), (4, 0.4)]
    """
    count = 0
    for speed, group in groupby(sorted((core.speed for core in cores), reverse=True)):
        count += len(list(group))
        yield count, speed


def _counts(start: int, most: int, whole_sets: Sequence[int]) -> tuple[int, ...]:
    """Numbers up to `most`, each about half as large again, with `start` and the sets of cores. None lies between two sets: some
    cores would have more to do than others.

    >>> _counts(8, 16, [8, 16]), _counts(2, 2, [2, 2]), _counts(6, 14, [6, 14, 20]), _counts(2, 5, [2])
    ((1, 2, 3, 4, 6, 8, 16), (1, 2), (1, 2, 3, 4, 6, 14), (1, 2, 5))
    """
    found, count = {start, most, *(n for n in whole_sets if n <= most)}, 1
    while count < min(start, most):
        found.add(count)
        count = max(count + 1, round(1.5 * count))
    return tuple(sorted(found))


# ---- the cores ----------------------------------------------------------------------------------------------------------


def cores_of(machine: Machine, present: int | None = None) -> list[Core]:
    """The cores that this process may use; if the system does not tell, each CPU counts as one."""
    find = SYSTEMS.get(machine.system)
    found = find(machine) if find else None
    return found or [Core()] * (allowed_cores(machine) or present or os.cpu_count() or 1)


def _of_linux(machine: Machine) -> list[Core] | None:
    """CPUs with one list of siblings are one core. ARM tells how fast each is; Intel's slow ones are those of cpu_atom."""
    cpus = allowed_cpus(machine)
    if not cpus:
        return None
    slow = set(numbers_of_list(machine.read("/sys/devices/cpu_atom/cpus")) or ())
    threads: dict[str, int] = {}
    speeds: dict[str, float] = {}
    for cpu in cpus:
        core = (machine.read(f"{CPU}/cpu{cpu}/topology/thread_siblings_list") or "").strip() or str(cpu)
        threads[core] = threads.get(core, 0) + 1
        speeds[core] = whole(machine.read(f"{CPU}/cpu{cpu}/cpu_capacity")) or 1000 * (SLOW if cpu in slow else 1.0)
    fastest = max(speeds.values())
    return [Core(count, speeds[core] / fastest) for core, count in threads.items()]


def _of_macos(machine: Machine) -> list[Core] | None:
    return cores_by_sysctl(_sysctl) if isinstance(machine, ThisMachine) else None


def cores_by_sysctl(number: Callable[[str], int | None]) -> list[Core] | None:
    """Of Apple's CPUs, level 0 is the fastest. Intel's Macs have one level.

    >>> m4 = {"hw.nperflevels": 2, "hw.perflevel0.physicalcpu": 4, "hw.perflevel1.physicalcpu": 6}
    >>> cores_by_sysctl(m4.get) == [Core()] * 4 + [Core(speed=SLOW)] * 6
    True
    >>> cores_by_sysctl({"hw.physicalcpu": 4, "hw.logicalcpu": 8}.get) == [Core(threads=2)] * 4
    True
    """
    levels = number("hw.nperflevels") or 1
    if levels > 1:
        counts = [number(f"hw.perflevel{level}.physicalcpu") or 0 for level in range(min(levels, 8))]
        return [Core(speed=SLOW if level else 1.0) for level, count in enumerate(counts) for _ in range(count)]
    cores, threads = number("hw.physicalcpu"), number("hw.logicalcpu")
    return [Core(max(1, (threads or 0) // cores))] * cores if cores else None


def _sysctl(name: str) -> int | None:
    value, size = ctypes.c_int32(), ctypes.c_size_t(4)
    with suppress(OSError, AttributeError):
        failed = ctypes.CDLL(None).sysctlbyname(name.encode(), ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0))
        return None if failed else value.value
    return None


def _of_windows(machine: Machine) -> list[Core] | None:
    return cores_by_records(_windows_records()) if isinstance(machine, ThisMachine) else None


def _windows_records() -> bytes:
    libraries = getattr(ctypes, "windll", None)  # only Python for Windows has it
    if libraries is None:
        return b""
    ask, size = libraries.kernel32.GetLogicalProcessorInformationEx, ctypes.c_uint32()
    ask(WINDOWS_CORE, None, ctypes.byref(size))
    records = ctypes.create_string_buffer(size.value)
    return records.raw[: size.value] if ask(WINDOWS_CORE, records, ctypes.byref(size)) else b""


def cores_by_records(records: bytes) -> list[Core] | None:
    """From SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX: relationship and size (4 bytes each), flags, class of efficiency (higher is
    faster), 20 bytes, number of groups (2 bytes), then 16 bytes for each group, which begin with its mask of CPUs."""
    found, at = [], 0
    while at + 32 <= len(records):
        kind, size = (int.from_bytes(records[at + i : at + i + 4], "little") for i in (0, 4))
        groups = int.from_bytes(records[at + 30 : at + 32], "little")
        masks = (records[at + 32 + 16 * i :][:8] for i in range(groups))
        if kind == WINDOWS_CORE:
            found.append((sum(int.from_bytes(mask, "little").bit_count() for mask in masks), records[at + 9]))
        at += max(size, 32)
    fastest = max((level for _, level in found), default=0)
    return [Core(max(1, threads), 1.0 if level == fastest else SLOW) for threads, level in found]


SYSTEMS: Mapping[str, Callable[[Machine], list[Core] | None]] = {"Linux": _of_linux, "Darwin": _of_macos, "Windows": _of_windows}
