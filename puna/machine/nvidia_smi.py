"""Parses nvidia-smi's output: the GPUs, their memory and processes, or why there is no answer.

No other module parses it. Old drivers lack columns, some cards answer "[N/A]", and a broken driver prints a message, garbage or
nothing. The next query omits an unknown column, a cell that is not a number becomes None, and an incomplete row is not a GPU.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from puna.machine.host import Host, Output

PROGRAMS = ("nvidia-smi", "/usr/lib/wsl/lib/nvidia-smi")  # the second for WSL, if its folder is not in PATH
LIMIT_S = 5.0  # a sleeping card needs 2 to 4 s to wake; a lost one never answers
FORMAT = "--format=csv,noheader,nounits"
NEEDED = ("index", "name", "memory.total", "memory.used", "memory.free", "driver_version")
WISHED = (
    "uuid",
    "pci.bus_id",
    "compute_cap",
    "pstate",
    "temperature.gpu",
    "power.limit",
    "power.default_limit",
    "clocks_event_reasons.active",
    "ecc.errors.uncorrected.volatile.total",
    "pcie.link.gen.current",
    "pcie.link.gen.max",
    "pcie.link.width.current",
    "pcie.link.width.max",
    "mig.mode.current",
    "persistence_mode",
    "display_active",
)
OLDER_NAMES = {"clocks_event_reasons.active": "clocks_throttle_reasons.active"}  # before driver 535
UNKNOWN_COLUMN = re.compile(r'Field "([\w.]+)" is not a valid field')
MAX_QUESTIONS = len(WISHED) + len(OLDER_NAMES) + 1

TroubleKind = Literal["absent", "hung", "mismatch", "no-driver", "no-devices", "no-rights", "needs-reset", "unknown"]

# Words of nvidia-smi, lower case -> the fault; the first match counts.
TROUBLES: tuple[tuple[str, TroubleKind], ...] = (
    ("driver/library version mismatch", "mismatch"),
    ("couldn't communicate with the nvidia driver", "no-driver"),
    ("driver not loaded", "no-driver"),
    ("driver is not loaded", "no-driver"),
    ("insufficient permissions", "no-rights"),
    ("requires reset", "needs-reset"),
    ("gpu is lost", "needs-reset"),
    ("no devices were found", "no-devices"),
    ("no devices found", "no-devices"),
)


@dataclass(frozen=True, slots=True)
class Gpu:
    """A card as nvidia-smi reports it. A value that it does not report is None; its memory then is 0 bytes."""

    number: int
    name: str
    total_bytes: int
    used_bytes: int
    free_bytes: int
    driver: str
    uuid: str = ""
    bus_id: str = ""
    capability: tuple[int, int] | None = None
    performance_state: str = ""  # "P0" is the fastest, "P8" idle
    temperature_c: float | None = None
    power_limit_w: float | None = None
    default_power_limit_w: float | None = None
    clock_reasons: int | None = None  # a bit mask
    ecc_errors: int | None = None  # uncorrected errors since the driver was loaded
    link_generation: int | None = None
    max_link_generation: int | None = None
    link_width: int | None = None
    max_link_width: int | None = None
    is_mig: bool = False
    is_persistent: bool | None = None
    has_display: bool | None = None


class Trouble(NamedTuple):
    """Why nvidia-smi reports no GPUs."""

    kind: TroubleKind
    words: str


class Smi(NamedTuple):
    """An answer: GPUs, or trouble, or both (one of two cards may be lost)."""

    gpus: tuple[Gpu, ...] = ()
    trouble: Trouble | None = None


class MemoryUser(NamedTuple):
    """A process that computes on a GPU."""

    uuid: str
    pid: int
    program: str
    used_bytes: int | None


def gpus(host: Host) -> tuple[Gpu, ...]:
    """The usable GPUs, in nvidia-smi's order; empty if it reports none."""
    return query(host).gpus


def query(host: Host) -> Smi:
    """Query the GPUs with all columns that this driver knows."""
    columns = [*NEEDED, *WISHED]
    for _ in range(MAX_QUESTIONS):
        answer = _run(host, f"--query-gpu={','.join(columns)}", FORMAT)
        unknown = UNKNOWN_COLUMN.search(answer.text + answer.errors) if answer else None
        if answer is None or answer.too_long or unknown is None or unknown[1] not in columns or unknown[1] in NEEDED:
            return _understood(answer, columns)
        index = columns.index(unknown[1])
        columns[index : index + 1] = [OLDER_NAMES[unknown[1]]] if unknown[1] in OLDER_NAMES else []
    return Smi((), Trouble("unknown", "it knows none of the columns"))


def memory_users(host: Host) -> tuple[MemoryUser, ...]:
    """The computing processes; nvidia-smi hides those of other containers, and their bytes on Windows."""
    answer = _run(host, "--query-compute-apps=gpu_uuid,pid,process_name,used_memory", FORMAT)
    return tuple(user for line in answer.text.splitlines() if (user := _user(line))) if answer and not answer.code else ()


def mig_instances(host: Host) -> int:
    """The number of MIG parts of the cards."""
    answer = _run(host, "-L")
    return len(re.findall(r"^\s+MIG ", answer.text, re.MULTILINE)) if answer else 0


def _run(host: Host, *arguments: str) -> Output | None:
    return next((output for program in PROGRAMS if (output := host.run(program, *arguments, limit_s=LIMIT_S))), None)


def _understood(answer: Output | None, columns: list[str]) -> Smi:
    if answer is None:
        return Smi((), Trouble("absent", "there is no nvidia-smi"))
    if answer.timed_out:
        return Smi((), Trouble("hung", f"nvidia-smi did not answer within {LIMIT_S:.0f} s"))
    if answer.too_long:
        return Smi((), Trouble("unknown", f"it prints without end: {_words(answer)[:80]}"))
    found = tuple(gpu for line in answer.text.splitlines() if (gpu := _gpu(line, columns)))
    said = _words(answer)
    kind = next((kind for words, kind in TROUBLES if words in said.lower()), None)
    if kind is None and found:
        return Smi(found)
    return Smi(found, Trouble(kind or "unknown", said[:200] or "nvidia-smi said nothing"))


def _words(answer: Output) -> str:
    return " ".join((answer.text + "\n" + answer.errors).split())


def _gpu(line: str, columns: list[str]) -> Gpu | None:
    """
    >>> gpu = _gpu("0, NVIDIA GeForce RTX 4070, 12282, 523, 11422, 580.82.07", list(NEEDED))
    >>> gpu.name, gpu.free_bytes >> 20
    ('NVIDIA GeForce RTX 4070', 11422)
    """
    cells = [cell.strip() for cell in line.split(",")]
    if len(cells) != len(columns):
        return None
    row = dict(zip(columns, cells))
    number = _whole(row["index"])
    if number is None or not row["name"] or row["name"].startswith("["):
        return None
    return Gpu(
        number=number,
        name=row["name"],
        total_bytes=_mebibytes(row["memory.total"]) or 0,
        used_bytes=_mebibytes(row["memory.used"]) or 0,
        free_bytes=_mebibytes(row["memory.free"]) or 0,
        driver=row["driver_version"],
        uuid=row.get("uuid", ""),
        bus_id=row.get("pci.bus_id", "").lower(),
        capability=_capability(row.get("compute_cap", "")),
        performance_state=row.get("pstate", ""),
        temperature_c=_number(row.get("temperature.gpu", "")),
        power_limit_w=_number(row.get("power.limit", "")),
        default_power_limit_w=_number(row.get("power.default_limit", "")),
        clock_reasons=_clock_reasons(row),
        ecc_errors=_whole(row.get("ecc.errors.uncorrected.volatile.total", "")),
        link_generation=_whole(row.get("pcie.link.gen.current", "")),
        max_link_generation=_whole(row.get("pcie.link.gen.max", "")),
        link_width=_whole(row.get("pcie.link.width.current", "")),
        max_link_width=_whole(row.get("pcie.link.width.max", "")),
        is_mig=row.get("mig.mode.current", "") == "Enabled",
        is_persistent=_switch(row.get("persistence_mode", "")),
        has_display=_switch(row.get("display_active", "")),
    )


def _clock_reasons(row: Mapping[str, str]) -> int | None:
    """A bit mask: "0x0000000000000004"."""
    cells = (row.get(name, "") for pair in OLDER_NAMES.items() for name in pair)
    return next((int(cell, 16) for cell in cells if re.fullmatch(r"0x[0-9a-fA-F]{1,16}", cell)), None)


def _user(line: str) -> MemoryUser | None:
    """A line with a pid in its second cell; the name may hold commas.

    >>> _user("GPU-1, 4242, /usr/bin/python3, 7250").used_bytes >> 20
    7250
    """
    cells = [cell.strip() for cell in line.split(",")]
    if len(cells) < 4 or (pid := _whole(cells[1])) is None:
        return None
    path = ", ".join(cells[2:-1])
    return MemoryUser(cells[0], pid, re.split(r"[\\/]", path)[-1] or path, _mebibytes(cells[-1]))


def _number(cell: str) -> float | None:
    """
    >>> _number("33.51"), _number("[N/A]"), _number("nan")
    (33.51, None, None)
    """
    return float(cell) if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", cell, re.ASCII) else None


def _whole(cell: str) -> int | None:
    return int(cell) if re.fullmatch(r"\d{1,9}", cell, re.ASCII) else None


def _mebibytes(cell: str) -> int | None:
    number = _number(cell.removesuffix(" MiB"))
    return None if number is None else int(number * (1 << 20))


def _capability(cell: str) -> tuple[int, int] | None:
    found = re.fullmatch(r"(\d{1,2})\.(\d)", cell, re.ASCII)
    return (int(found[1]), int(found[2])) if found else None


def _switch(cell: str) -> bool | None:
    return {"Enabled": True, "Disabled": False}.get(cell)
