"""Whether this is a container, its CPU quota and its shared memory. The memory probe checks its memory."""

from __future__ import annotations

import re
from collections.abc import Iterator

from puna.cores import choose_threads
from puna.machine.environment import container_kind
from puna.machine.finding import Finding
from puna.machine.host import Host
from puna.machine.probes.base import Patient
from puna.machine.processor import processor
from puna.resources import allowed_cores, cpu_quota
from puna.units import MIB, counted, foreign_bytes, rough_gib

LEAST_SHM_BYTES = 256 * MIB  # Docker gives 64 MiB, which can be too little for NCCL with several GPUs


def container(patient: Patient) -> Iterator[Finding]:
    """The container's kind, CPU quota and /dev/shm."""
    yield from _quota(patient)
    kind = container_kind(patient.host)
    if not kind:
        return
    patient.facts["container"] = kind
    yield Finding("container.kind", "ok", f"this is a container ({kind})")
    shm = shared_memory(patient.host)
    if shm is not None and shm < LEAST_SHM_BYTES:
        effect = "enough for the CPU or one GPU; NCCL with several GPUs may need more"
        yield Finding(
            "container.shm", "note", f"/dev/shm holds {rough_gib(shm)}", effect, patient.remedy("raise-shm"), device="cuda"
        )


def shared_memory(host: Host) -> int | None:
    """The size of /dev/shm in bytes; None if unknown."""
    for line in (host.read("/proc/mounts") or "").splitlines():
        words = line.split(" ")
        if len(words) >= 4 and words[1] == "/dev/shm" and (found := re.search(r"\bsize=(\d{1,15}[kmg]?)\b", words[3])):
            return foreign_bytes(found[1])
    return None


def _quota(patient: Patient) -> Iterator[Finding]:
    quota = cpu_quota(patient.host)
    found = patient.once(processor)
    allowed = allowed_cores(patient.host) or (found.threads if found else 1)
    if quota is None or quota >= allowed:
        return
    threads = choose_threads(0, patient.host, allowed).start
    yield Finding(
        "container.cpu-quota",
        "warning" if quota < 1 else "note",
        f"the quota is {quota:g} cores' time, but {allowed} CPUs are visible",
        f"puna starts {counted(threads, 'thread')}; the system keeps pausing a program with {counted(allowed, 'thread')}",
        patient.remedy("raise-cpu-quota", wanted=min(allowed, 8)),
        device="cpu",
    )
