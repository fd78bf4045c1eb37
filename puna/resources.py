"""The cores and the main memory that this process may use, under the limits of containers, service managers and `ulimit`.

The one owner of these facts: `doctor`, `plan`, `run` and every backend ask here. They come from files of the kernel, read
through a `Machine`, so that a test can simulate any machine. Sources: cgroups(7), the kernel's `cgroup-v1/memory.rst` and
`cgroup-v2.rst`, proc_pid_limits(5), proc_pid_status(5).

Limits of ancestor groups apply too, so the tightest one counts. File pages that the kernel can drop do not count as used.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import psutil

from puna.files import read_small

GROUPS = "/sys/fs/cgroup"
UNIFIED_ROOTS = (GROUPS, f"{GROUPS}/unified")  # where systemd mounts version 2: alone, and beside version 1
NO_LIMIT = 1 << 60  # version 1 writes a huge number for "no limit"
MAX_DEPTH = 40  # groups to read, from the process's own upwards
CHOOSING = ("_NUM_THREADS", "_CORETYPE", "_CPU_FEATURES", "_CPU_CAPABILITY")  # how variables end that choose a library's code
MAX_CPUS = 1024  # whose numbers are told; more are counted
MAX_DIGITS = 20  # longer numbers are ignored
MAX_FILE_BYTES = 1 << 20
# memory.stat's names of file pages, which the kernel drops when memory is short.
DROPPABLE = ("inactive_file", "active_file", "slab_reclaimable")
DROPPABLE_V1 = ("total_inactive_file", "total_active_file")
# Line of /proc/self/limits -> what `ulimit` calls it, and the line of /proc/self/status that counts against it.
ULIMITS: Mapping[str, tuple[str, str]] = {"Max address space": ("ulimit -v", "VmSize"), "Max data size": ("ulimit -d", "VmData")}


class Machine(Protocol):
    """A machine whose files can be read."""

    @property
    def system(self) -> str:
        """`platform.system()`: "Linux", "Windows", "Darwin"."""

    def read(self, path: str) -> str | None:
        """A regular file's text, at most MAX_FILE_BYTES; None if it is missing or not readable."""


@dataclass(frozen=True, slots=True)
class ThisMachine:
    """The machine that this process runs on."""

    system: str = field(default_factory=platform.system)

    def read(self, path: str) -> str | None:
        try:
            content = read_small(Path(path), MAX_FILE_BYTES)
        except (OSError, ValueError):
            return None
        return None if content is None else content.decode("utf-8", "replace")


THIS: Machine = ThisMachine()


class MainMemory(NamedTuple):
    """Bytes of a machine's main memory and swap, without limits."""

    total: int
    free: int
    swap_total: int
    swap_free: int


class Limit(NamedTuple):
    """A limit on this process's memory, in bytes. `used`: counts against it now, and cannot be dropped."""

    name: str  # "cgroup", "ulimit -v", "ulimit -d"
    bytes: int
    used: int

    @property
    def left(self) -> int:
        return max(0, self.bytes - self.used)


# ---- memory -------------------------------------------------------------------------------------------------------------


def memory_bytes(machine: Machine | None = None) -> tuple[int, int]:
    """(total, free) bytes of main memory that this process may use."""
    machine = machine or THIS
    return within(machine_memory(machine) or memory_by_psutil(), memory_limits(machine))


def within(memory: MainMemory, limits: list[Limit]) -> tuple[int, int]:
    """(total, free) bytes of `memory` under `limits`.

    >>> within(MainMemory(100, 60, 0, 0), [Limit("cgroup", 50, 30), Limit("ulimit -v", 70, 10)])
    (50, 20)
    """
    return min([memory.total, *(one.bytes for one in limits)]), min([memory.free, *(one.left for one in limits)])


def machine_memory(machine: Machine) -> MainMemory | None:
    """The memory in /proc/meminfo; None if there is no such file."""
    kib = _sizes(machine.read("/proc/meminfo"))
    free = kib.get("MemAvailable", kib.get("MemFree", 0))
    memory = MainMemory(kib.get("MemTotal", 0), free, kib.get("SwapTotal", 0), kib.get("SwapFree", 0))
    return memory if memory.total else None


def memory_by_psutil() -> MainMemory:
    """The memory of a system that has no such file."""
    main, swap = psutil.virtual_memory(), psutil.swap_memory()
    return MainMemory(int(main.total), int(main.available), int(swap.total), int(swap.free))


def memory_limits(machine: Machine) -> list[Limit]:
    """All limits on this process's memory: of its group and all ancestor groups, and of `ulimit`."""
    return [*_unified_limits(machine), *_legacy_limits(machine), *_ulimits(machine)]


def _unified_limits(machine: Machine) -> Iterator[Limit]:
    """Limits of version 2. Beyond memory.high the kernel throttles processes, so it counts like memory.max."""
    for folder in _unified(machine):
        limits = (whole(machine.read(f"{folder}/{name}")) for name in ("memory.max", "memory.high"))
        limit = min((one for one in limits if one is not None), default=NO_LIMIT)
        if limit < NO_LIMIT:
            used = whole(machine.read(f"{folder}/memory.current")) or 0
            yield Limit("cgroup", limit, max(0, used - _droppable(machine, folder, DROPPABLE)))


def _legacy_limits(machine: Machine) -> Iterator[Limit]:
    """Limits of version 1. A group's memory.stat also has the least limit of all ancestors, visible here or not."""
    for folder in _legacy(machine, "memory"):
        above = _pairs(machine.read(f"{folder}/memory.stat")).get("hierarchical_memory_limit", NO_LIMIT)
        limit = min(whole(machine.read(f"{folder}/memory.limit_in_bytes")) or NO_LIMIT, above)
        if limit < NO_LIMIT:
            used = whole(machine.read(f"{folder}/memory.usage_in_bytes")) or 0
            yield Limit("cgroup", limit, max(0, used - _droppable(machine, folder, DROPPABLE_V1)))


def _droppable(machine: Machine, folder: str, names: tuple[str, ...]) -> int:
    pairs = _pairs(machine.read(f"{folder}/memory.stat"))
    return sum(pairs.get(name, 0) for name in names)


def _ulimits(machine: Machine) -> Iterator[Limit]:
    lines = (machine.read("/proc/self/limits") or "").splitlines()
    status = _sizes(machine.read("/proc/self/status"))
    for begin, (name, counted) in ULIMITS.items():
        words = next((line[len(begin) :].split() for line in lines if line.startswith(begin)), [])
        limit = whole(words[0]) if words else None
        if limit is not None:
            yield Limit(name, limit, status.get(counted, 0))


def oom_kills(machine: Machine) -> int:
    """How many processes of this group the OOM killer has ended."""
    texts = [machine.read(f"{folder}/memory.events") for folder in _unified(machine)]
    texts += [machine.read(f"{folder}/memory.oom_control") for folder in _legacy(machine, "memory")]
    return max((_pairs(text).get("oom_kill", 0) for text in texts), default=0)


def oom_kills_since_start(machine: Machine) -> int:
    """How many processes of the whole machine the OOM killer has ended since it was started."""
    return _pairs(machine.read("/proc/vmstat")).get("oom_kill", 0)


def own_bytes() -> int:
    """Bytes of main memory that belong to this process alone: without mapped files, which the system can drop."""
    lines = (ThisMachine().read("/proc/self/smaps_rollup") or "").splitlines()  # exact; /proc/self/status lags by some MiB
    anonymous = _sizes("\n".join(lines[1:])).get("Anonymous")
    return anonymous if anonymous is not None else int(psutil.Process().memory_info().rss)


def return_free_memory() -> None:
    """Return freed memory to the system: glibc keeps freed pieces of up to 32 MiB, and loading leaves many."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


# ---- cores --------------------------------------------------------------------------------------------------------------


def usable_cores(machine: Machine | None = None, present: int | None = None) -> int:
    """How many threads to start, 1 or more, by affinity, cpuset and quota.

    `present`: the machine's CPUs, used if the affinity is unknown; by default what Python counts.
    """
    machine = machine or THIS
    allowed = allowed_cores(machine) or present or os.cpu_count() or 1
    return max(1, min(allowed, math.floor(cpu_quota(machine) or allowed)))


def cpu_identity(machine: Machine | None = None) -> str:
    """What libraries choose code by, so that sums may have other bits elsewhere: the CPU's instructions, and their variables."""
    text = (machine or THIS).read("/proc/cpuinfo") or ""
    facts = sorted({line for line in text.splitlines() if line.startswith(("model name", "flags", "Features", "CPU part"))})
    variables = sorted(f"{name}={value}" for name, value in os.environ.items() if name.endswith(CHOOSING))
    parts = facts or [platform.machine(), platform.processor()]
    return hashlib.sha256("\n".join((*parts, *variables)).encode()).hexdigest()[:16]


def allowed_cores(machine: Machine) -> int | None:
    """How many CPUs this process may run on; None if unknown."""
    return min((count for text in _cpu_lists(machine) if (count := count_of_list(text)) is not None), default=None)


def allowed_cpus(machine: Machine) -> list[int] | None:
    """The numbers of the CPUs that this process may run on, at most MAX_CPUS; None if unknown."""
    lists = (numbers_of_list(text) for text in _cpu_lists(machine))
    return min((numbers for numbers in lists if numbers is not None), key=len, default=None)


def _cpu_lists(machine: Machine) -> list[str | None]:
    """By affinity and by cpuset, as lists of the kernel."""
    lines = (machine.read("/proc/self/status") or "").splitlines()
    lists = [next((line.partition(":")[2] for line in lines if line.startswith("Cpus_allowed_list:")), None)]
    lists += [machine.read(f"{folder}/cpuset.cpus.effective") for folder in _unified(machine)]
    return lists + [machine.read(f"{folder}/cpuset.cpus") for folder in _legacy(machine, "cpuset")]


def cpu_quota(machine: Machine) -> float | None:
    """The CPU quota in cores: the least of this process's group and all ancestor groups; None: no limit."""
    quotas = [_quota(*_two((machine.read(f"{folder}/cpu.max") or "").split())) for folder in _unified(machine)]
    quotas += [
        _quota(machine.read(f"{folder}/cpu.cfs_quota_us"), machine.read(f"{folder}/cpu.cfs_period_us"))
        for folder in _legacy(machine, "cpu")
    ]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota(quota: str | None, period: str | None) -> float | None:
    microseconds, of = whole(quota), whole(period)
    return microseconds / of if microseconds and of else None


def _two(words: list[str]) -> tuple[str | None, str | None]:
    return (words[0], words[1]) if len(words) == 2 else (None, None)


# ---- groups -------------------------------------------------------------------------------------------------------------


def _unified(machine: Machine) -> Iterator[str]:
    """The folders of version 2, from this process's own up to the root."""
    own = next((path for number, names, path in _groups(machine) if number == "0" and not names), "/")
    for root in UNIFIED_ROOTS:
        yield from _upwards(root, own)


def _legacy(machine: Machine, controller: str) -> Iterator[str]:
    """The folders of one controller of version 1, from this process's own up to the root.

    Controllers may share a hierarchy, which is then mounted under all their names ("cpu,cpuacct"). In a container the path may
    not begin at the mounted root; then only the root is found.
    """
    found = ((names, path) for _, names, path in _groups(machine) if controller in names.split(","))
    names, own = next(found, (controller, "/"))
    for name in dict.fromkeys((controller, names)):
        yield from _upwards(f"{GROUPS}/{name}", own)


def _upwards(root: str, path: str) -> Iterator[str]:
    """
    >>> list(_upwards("/r", "/a/b")), list(_upwards("/r", "/"))
    (['/r/a/b', '/r/a', '/r'], ['/r'])
    """
    names = [name for name in path.split("/") if name not in ("", ".", "..")][:MAX_DEPTH]
    yield from ("/".join([root, *names[:depth]]) for depth in range(len(names), -1, -1))


def _groups(machine: Machine) -> list[tuple[str, str, str]]:
    """(number, controllers, path) of each hierarchy, as /proc/self/cgroup lists them."""
    rows = (line.split(":", 2) for line in (machine.read("/proc/self/cgroup") or "").splitlines())
    return [(row[0], row[1], row[2]) for row in rows if len(row) == 3]


# ---- texts of the kernel --------------------------------------------------------------------------------------------------


def whole(text: str | None) -> int | None:
    """
    >>> whole(" 42\\n"), whole("max"), whole(None), whole("-1"), whole("9" * 5000)
    (42, None, None, None, None)
    """
    text = (text or "").strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS else None


def count_of_list(text: str | None) -> int | None:
    """How many numbers are in a list of the kernel; None if the text is not a list.

    >>> count_of_list("0-3,8"), count_of_list("0"), count_of_list("x"), count_of_list("3-1"), count_of_list("")
    (5, 1, None, None, None)
    """
    ranges = _ranges(text)
    return None if ranges is None else sum(high - low + 1 for low, high in ranges)


def numbers_of_list(text: str | None) -> list[int] | None:
    """The first MAX_CPUS numbers of a list of the kernel; None if the text is not a list.

    >>> numbers_of_list("0-3,8"), numbers_of_list("")
    ([0, 1, 2, 3, 8], None)
    """
    ranges = _ranges(text)
    if ranges is None:
        return None
    return [number for low, high in ranges for number in range(low, min(high, low + MAX_CPUS) + 1)][:MAX_CPUS]


def _ranges(text: str | None) -> list[tuple[int, int]] | None:
    found = []
    for part in (text or "").strip().split(","):
        first, _, last = part.partition("-")
        low, high = whole(first), whole(last or first)
        if low is None or high is None or high < low:
            return None
        found.append((low, high))
    return found


def _pairs(text: str | None) -> dict[str, int]:
    """Lines of a name and a number, as in memory.stat and memory.events."""
    lines = (line.split() for line in (text or "").splitlines())
    return {words[0]: number for words in lines if len(words) == 2 and (number := whole(words[1])) is not None}


def _sizes(text: str | None) -> dict[str, int]:
    """Lines of a name, a colon and KiB, as in /proc/meminfo; the values in bytes.

    >>> _sizes("MemTotal:        8 kB\\nName: puna\\n")
    {'MemTotal': 8192}
    """
    lines = (line.partition(":") for line in (text or "").splitlines())
    found = ((name.strip(), whole(value.removesuffix("kB"))) for name, _, value in lines if value.endswith("kB"))
    return {name: number << 10 for name, number in found if number is not None}
