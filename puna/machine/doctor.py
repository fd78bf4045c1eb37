"""Runs all probes of a machine at once, within a time limit, and judges the requested device.

No state of a machine raises an error here. If a probe raises (a bug) or does not end, that becomes a finding. If memory is too
short for threads, the probes run one after the other. Code that needs torch or numba runs in child processes; this module imports
neither.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from puna.machine.finding import Finding
from puna.machine.probes import LONGER_S, MEASURING, PROBES
from puna.machine.probes.base import Patient, Probe
from puna.machine.script import fix_script
from puna.progress import SILENT, Reporter
from puna.resources import THIS, memory_limits

__all__ = ["MachineDiagnosis", "Verdict", "diagnose", "examine", "fix_script", "judge"]

LIMIT_S = 8.0
HEAD_START_S = 1.5  # for probes that measure; enough if the kernels are cached
CRAMPED_BYTES = 4 << 30  # glibc reserves 64 to 128 MiB of address space for each thread that allocates
STAGE = "looking at this machine"
TRIALS = {"cpu": "cpu.trial", "cuda": "gpu.trial"}  # device -> the finding that proves that it computes


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether models run on the requested device. `devices` run models; `hindrances` are the errors."""

    wanted: str
    runs: bool
    devices: tuple[str, ...]
    hindrances: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MachineDiagnosis:
    """What `puna doctor` says."""

    findings: tuple[Finding, ...]
    verdict: Verdict
    facts: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """As JSON types."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


def diagnose(patient: Patient, report: Reporter = SILENT) -> MachineDiagnosis:
    """Examine the machine and judge it."""
    findings = examine(patient, report=report)
    facts = {"system": patient.host.system, "distribution": patient.distribution} | dict(patient.facts)
    return MachineDiagnosis(tuple(findings), judge(findings, patient.device), facts)


def examine(
    patient: Patient, probes: Iterable[Probe] = PROBES, limit_s: float = LIMIT_S, report: Reporter = SILENT
) -> list[Finding]:
    """Run each probe in its own thread; return the findings in the order of the table. Each probe has `limit_s` seconds, or the
    longer time in `LONGER_S`.
    """
    runs = [_Run(probe, LONGER_S.get(probe, limit_s)) for probe in probes]
    started = time.monotonic()
    measuring = [run for run in runs if run.probe in MEASURING]
    for run in measuring:
        run.start(patient)
    for run in measuring:
        run.wait(started + min(HEAD_START_S, run.limit_s))
    for run in runs:
        if run not in measuring:
            run.start(patient)
    for done, run in enumerate(runs):
        report.progress(STAGE, done, len(runs))
        run.wait(started + run.limit_s)
    report.progress(STAGE, len(runs), len(runs))
    return [finding for run in runs for finding in run.result()]


@dataclass(eq=False)
class _Run:
    """A probe in a daemon thread: a hung system call must not keep puna from exiting."""

    probe: Probe
    limit_s: float
    found: list[Finding] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def start(self, patient: Patient) -> None:
        if _is_cramped() or not self._starts_in_thread(patient):
            self._work(patient)

    def _starts_in_thread(self, patient: Patient) -> bool:
        try:
            threading.Thread(target=self._work, args=(patient,), name=self._name, daemon=True).start()
        except RuntimeError:  # a limit on threads or memory
            return False
        return True

    def wait(self, until: float) -> None:
        self.ended.wait(max(0.0, until - time.monotonic()))

    def result(self) -> list[Finding]:
        """Its findings; one more if it has not ended."""
        if self.ended.is_set():
            return self.found
        effect = "a program or system call hangs, or the machine is very busy"
        return [
            *self.found,
            Finding(f"{self._name}.probe", "note", f"not done after {self.limit_s:g} s", effect),
        ]

    @property
    def _name(self) -> str:
        return getattr(self.probe, "__name__", "a")

    def _work(self, patient: Patient) -> None:
        try:
            self.found.extend(self.probe(patient))
        except Exception as error:  # noqa: BLE001 - the other probes' findings are needed after any error
            self.found.append(_failed(self._name, error))
        finally:
            self.ended.set()


def _failed(name: str, error: Exception) -> Finding:
    words = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if isinstance(error, MemoryError | ImportError):
        return Finding(
            f"{name}.probe", "note", f"this part was not checked: {words}", "memory is short, or a package is incomplete"
        )
    return Finding(
        f"{name}.probe",
        "note",
        f"a bug in puna: this probe raised {words}",
        "please report it; it does not affect the other checks",
    )


def _is_cramped() -> bool:
    """Whether the address-space limit (`ulimit -v`) is too small for threads, each of which reserves much of it."""
    return any(limit.name == "ulimit -v" and limit.bytes < CRAMPED_BYTES for limit in memory_limits(THIS))


def judge(findings: Iterable[Finding], wanted: str) -> Verdict:
    """The verdict on "auto", "cpu", "torch", "cuda" or "cuda:1".

    A CPU, and PyTorch on it, counts as able unless an error says otherwise; a GPU only after a successful self test.

    >>> judge([Finding("memory.free", "ok", "")], "auto").devices, judge([], "cuda").runs
    (('cpu',), False)
    """
    findings = list(findings)
    runs = {device: not _hindrances(findings, device) for device in TRIALS}
    runs["cuda"] = runs["cuda"] and any(f.check == TRIALS["cuda"] and f.state == "ok" for f in findings)
    kind = wanted.partition(":")[0]
    if kind == "torch":
        runs["torch"] = not _hindrances(findings, "torch")
    devices = tuple(device for device, does in runs.items() if does)
    hindrances = _hindrances(findings, "cpu" if kind == "auto" else kind)
    return Verdict(wanted, bool(devices) if kind == "auto" else runs[kind], devices, tuple(hindrances))


def _hindrances(findings: Iterable[Finding], device: str) -> list[str]:
    return [finding.check for finding in findings if finding.state == "error" and finding.device in (device, "any")]


def _plain(value: Any) -> Any:
    """A value as JSON types; inf and nan become null."""
    match value:
        case dict():
            return {str(name): _plain(part) for name, part in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(part) for part in value]
        case float():
            return value if math.isfinite(value) else None
        case None | bool() | int() | str():
            return value
        case _:
            return str(value)
