"""This Python: its version and kind, its environment, and the packages that puna needs."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

from puna.machine.child import Answer, ask
from puna.machine.facts import NEEDED
from puna.machine.finding import Finding
from puna.machine.host import Host
from puna.machine.probes.base import Patient
from puna.machine.remedies import quoted

LEAST_PYTHON = (3, 11)
MACHINES = ("x86_64", "amd64", "aarch64", "arm64")  # for which Numba publishes wheels
NEEDED_BY_CPU = ("numba",)  # not needed on a GPU


def python(patient: Patient) -> Iterator[Finding]:
    """Whether this Python can run puna and has its packages."""
    answer = patient.once(this_python)
    if answer.problem:
        yield Finding("python.version", "note", f"this Python did not answer: {answer.problem}")
        return
    facts = answer.facts
    patient.facts["python"] = facts
    yield _version(patient, facts)
    yield from _platform(patient, facts)
    if facts.get("externally_managed") and not facts.get("in_venv"):
        yield Finding(
            "python.environment",
            "note",
            "this Python belongs to the system's package manager, which forbids pip to install into it",
            "pip cannot add missing packages here",
            patient.remedy("make-venv"),
        )
    yield from _packages(patient, facts.get("packages"))


def this_python(host: Host) -> Answer:
    """What a child of this Python reports."""
    return ask(host, "puna.machine.facts", "python")


def _version(patient: Patient, facts: dict[str, Any]) -> Finding:
    version, kind, bits = (str(facts.get(name, "?"))[:40] for name in ("version", "implementation", "bits"))
    found = f"{kind} {version}, {bits} bits" + (", in an environment of its own" if facts.get("in_venv") else "")
    if version_of(version) >= LEAST_PYTHON and (kind, bits) == ("CPython", "64"):
        return Finding("python.version", "ok", found)
    effect = "puna needs 64-bit CPython 3.11 or newer: Numba and PyTorch have no wheels for others"
    return Finding("python.version", "error", found, effect, patient.remedy("newer-python"))


def _platform(patient: Patient, facts: dict[str, Any]) -> Iterator[Finding]:
    machine = str(facts.get("machine", ""))[:40]
    if facts.get("musl"):
        effect = "Numba and PyTorch publish no wheels for musl: pip tries to build them, and fails"
        yield Finding("python.libc", "warning", "this system's C library is musl", effect, patient.remedy("system-with-glibc"))
    if machine and machine.lower() not in MACHINES:
        effect = "Numba publishes no wheels for it; you would have to build Numba"
        yield Finding("python.machine", "warning", f"the architecture is {machine}", effect)
    if patient.host.system == "Darwin" and machine == "x86_64" and _is_translated(patient):
        effect = "models run several times slower than with Python for Apple silicon"
        found = "this Python is built for Intel and runs translated (Rosetta)"
        yield Finding("python.machine", "warning", found, effect, patient.remedy("native-python"))
    if facts.get("free_threaded"):
        effect = "puna is tested with the usual build only"
        yield Finding("python.threads", "note", "this Python is built without the global lock", effect)


def _is_translated(patient: Patient) -> bool:
    output = patient.host.run("sysctl", "-n", "sysctl.proc_translated")
    return output is not None and output.text.strip() == "1"


def _packages(patient: Patient, versions: Any) -> Iterator[Finding]:
    if not isinstance(versions, dict):
        return
    bad = {
        package: f"{package} {'is missing' if versions.get(package) is None else str(versions[package])[:40]}"
        for package, (least, _) in NEEDED.items()
        if version_of(str(versions.get(package) or "")) < version_of(least)
    }
    if not bad:
        yield Finding("python.packages", "ok", f"all {len(NEEDED)} packages that puna needs are installed and new enough")
        return
    wanted = " ".join(quoted(f"{package}>={NEEDED[package][0]}", patient.distribution) for package in bad)
    yield Finding(
        "python.packages",
        "error",
        ", ".join(f"{said} (needed: {NEEDED[package][0]})" for package, said in bad.items()),
        "puna cannot compile its CPU kernels" if set(bad) <= set(NEEDED_BY_CPU) else "puna cannot run models",
        patient.remedy("install-packages", packages=wanted, python=quoted(sys.executable, patient.distribution)),
        device="cpu" if set(bad) <= set(NEEDED_BY_CPU) else "any",
    )


def version_of(text: str) -> tuple[int, ...]:
    """The leading numbers of a version; empty if the text is not a version.

    >>> version_of("2.11.0+cu128"), version_of("3.14.0rc1") >= (3, 11), version_of("")
    ((2, 11, 0), True, ())
    """
    found = re.match(r"\d{1,9}(\.\d{1,9})*", text)
    return tuple(map(int, found[0].split("."))) if found else ()
