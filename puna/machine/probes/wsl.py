"""Windows Subsystem for Linux: its version, and the memory that Windows lets it have."""

from __future__ import annotations

from collections.abc import Iterator

from puna.machine.finding import Finding
from puna.machine.probes.base import Patient
from puna.machine.probes.memory import read_memory
from puna.machine.remedies import quoted
from puna.units import GIB, rough_gib

ROOMY_BYTES = 28 * GIB  # a 13B model of 16 bits


def wsl(patient: Patient) -> Iterator[Finding]:
    """No findings outside WSL."""
    if patient.distribution != "wsl":
        return
    if is_version_1(patient):
        name = quoted(patient.host.environ.get("WSL_DISTRO_NAME", "Ubuntu")[:80], "ubuntu")
        effect = "models run on the CPU only: it has no GPU access"
        yield Finding(
            "wsl.version", "error", "this is WSL 1", effect, patient.remedy("wsl-version-2", system_name=name), device="cuda"
        )
        return
    yield Finding("wsl.version", "ok", "this is WSL 2")
    found = patient.once(read_memory)
    if found is not None and found.total < ROOMY_BYTES:
        wanted = f"{max(4, round(1.6 * found.total / GIB))}GB"  # four fifths of Windows's memory, which is about twice this
        yield Finding(
            "wsl.memory",
            "note",
            f"WSL may use {rough_gib(found.total)}, by default half of Windows's memory",
            "the kernel ends a model that needs more (Killed, exit code 137)",
            patient.remedy("wsl-memory", wanted=wanted),
        )


def is_version_1(patient: Patient) -> bool:
    """WSL 1 has no kernel of its own: its release ends in "-Microsoft", WSL 2's says "microsoft-standard" or "WSL2"."""
    release = patient.host.read("/proc/sys/kernel/osrelease") or ""
    return "Microsoft" in release and "WSL2" not in release and not patient.host.exists("/dev/dxg")
