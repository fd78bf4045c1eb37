"""Errors of the card in the kernel's log: hardware errors ("Xid"), and a module that does not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from puna.machine import nvidia_smi
from puna.machine.environment import environment
from puna.machine.finding import Finding, Remedy, State
from puna.machine.kernel_module import LogLine, kernel_log
from puna.machine.probes.base import Patient
from puna.machine.probes.nvidia_card import is_expected


class Xid(NamedTuple):
    """An entry of NVIDIA's table of errors."""

    meaning: str
    state: State
    effect: str
    remedy: str = ""  # a key of REMEDIES


_PROGRAM = "the driver ended that program; others continue"
_RESET = "the card needs a reset before it computes again"

XIDS: dict[int, Xid] = {
    13: Xid("a program caused an error in the graphics engine", "note", _PROGRAM),
    31: Xid("a program accessed memory that it does not own", "note", _PROGRAM),
    43: Xid("the GPU stopped a program's work", "note", _PROGRAM),
    45: Xid("the driver removed a program's work, after another error or because the program ended", "note", _PROGRAM),
    48: Xid("memory had a two-bit error, which ECC cannot correct", "error", _RESET, "replace-card"),
    61: Xid("an internal controller of the GPU reports a fault", "warning", _RESET, "reset-card"),
    62: Xid("an internal controller of the GPU stopped", "error", _RESET, "reset-card"),
    63: Xid("the next reset retires a faulty part of memory", "warning", "the card still works", "reset-card"),
    64: Xid("the driver could not retire a faulty part of memory", "error", "results may be wrong", "replace-card"),
    74: Xid("a link between cards (NVLink) failed", "error", "several cards cannot share a model", "reset-card"),
    79: Xid("the GPU has fallen off the bus", "error", "the card is lost until you restart the machine", "check-card"),
    94: Xid("a memory error was contained", "warning", _PROGRAM, "reset-card"),
    95: Xid("a memory error was not contained", "error", _RESET, "reset-card"),
    109: Xid("the GPU did not switch between programs in time", "warning", _PROGRAM, "reset-card"),
    119: Xid(
        "the GPU's own processor (GSP) does not answer the driver", "error", "the card hangs until it is reset", "reset-card"
    ),
}


class Saying(NamedTuple):
    """Words of the log, lower case, and their meaning."""

    words: str
    check: str
    found: str
    effect: str
    remedy: Callable[[Patient], Remedy]


SAYINGS: tuple[Saying, ...] = (
    Saying(
        "api mismatch",
        "nvidia.version",
        "the kernel's log: the loaded module and the driver's libraries are of different versions",
        "no program can use the card",
        lambda patient: patient.remedy("restart", why="this loads the installed module"),
    ),
    Saying(
        "requires use of the nvidia open kernel modules",
        "nvidia.module-kind",
        "the kernel's log: this card requires the open kernel module, and the proprietary one is installed",
        "the driver does not support the card",
        lambda patient: patient.remedy("open-kernel-module", generation="Blackwell", package="580-open"),
    ),
    Saying(
        "gpu system processor (gsp)",
        "nvidia.module-kind",
        "the kernel's log: this card has no processor of its own (GSP), which the open kernel module needs",
        "the driver does not support the card",
        lambda patient: patient.remedy("proprietary-kernel-module", generation="Pascal and older"),
    ),
    Saying(
        "legacy drivers",
        "nvidia.module-kind",
        "the kernel's log: this card is supported by older drivers only",
        "the driver does not support the card",
        lambda patient: patient.remedy("proprietary-kernel-module", generation="Pascal and older"),
    ),
)


def nvidia_log(patient: Patient) -> Iterator[Finding]:
    """One finding per kind of error since the machine's start."""
    if patient.once(environment) not in ("bare", "container") or not is_expected(patient):
        return
    log = patient.once(kernel_log)
    if log is None:
        yield from _unreadable(patient)
        return
    yield from (_xid(patient, number, log) for number in sorted({line.xid for line in log} - {0}))
    for saying in () if _answers(patient) else SAYINGS:
        if any(saying.words in line.text.lower() for line in log):
            yield Finding(saying.check, "error", saying.found, saying.effect, saying.remedy(patient), "cuda")


def _unreadable(patient: Patient) -> Iterator[Finding]:
    if not _answers(patient):
        found = "this user may not read the kernel's log, which may say why: sudo dmesg | grep -i -e nvrm -e nvidia"
        yield Finding("nvidia.log", "note", found, device="cuda")


def _xid(patient: Patient, number: int, log: tuple[LogLine, ...]) -> Finding:
    lines = [line for line in log if line.xid == number]
    xid = XIDS.get(number, Xid("see NVIDIA's table of Xid errors", "warning", "puna does not know its effect on this card"))
    times = f"{len(lines)} times" if len(lines) > 1 else "once"
    found = f"Xid {number}, {times} since the start, card at {lines[-1].bus_id}: {xid.meaning}"
    remedy = patient.remedy(xid.remedy, number=_card_number(patient, lines[-1].bus_id)) if xid.remedy else None
    state: State = "warning" if xid.state == "error" and _answers(patient) else xid.state
    return Finding(f"nvidia.xid-{number}", state, found, xid.effect, remedy, "cuda")


def _answers(patient: Patient) -> bool:
    """Whether the driver has its cards now; the log's errors are then past."""
    told = patient.once(nvidia_smi.query)
    return bool(told.gpus) and told.trouble is None


def _card_number(patient: Patient, bus_id: str) -> int:
    """nvidia-smi's number of the card; the log writes 0000:01:00, nvidia-smi 00000000:01:00.0."""
    gpus = patient.once(nvidia_smi.query).gpus
    return next((gpu.number for gpu in gpus if bus_id[-5:] in gpu.bus_id), 0)
