"""The cache folder: whether it is writable, its free space, and its file system."""

from __future__ import annotations

import os
from collections.abc import Iterator

from puna.machine.child import Answer, ask
from puna.machine.finding import Finding, State
from puna.machine.host import Host
from puna.machine.probes.base import Patient
from puna.machine.remedies import quoted
from puna.units import GIB, MIB, rough_gib

FULL_BYTES = 256 * MIB  # less than the default model and its kernels need
LITTLE_BYTES = 5 * GIB  # less than a 7B model of 4 bits needs
NETWORK = (
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "ceph",
    "lustre",
    "beegfs",
    "gpfs",
    "glusterfs",
    "afs",
    "fuse.sshfs",
    "fuse.s3fs",
)
WINDOWS_DRIVES = ("9p", "drvfs", "virtiofs")  # C: and other Windows drives, seen from WSL
NOTHING_KEPT = "puna cannot store models, and compiles the kernels at every start (some seconds)"
IN_MEMORY = ("tmpfs", "ramfs")


def disk(patient: Patient) -> Iterator[Finding]:
    """Free space and write access where puna stores models and kernels."""
    answer = ask(patient.host, "puna.machine.facts", "storage")
    folder = answer.text("folder")
    if not folder and (problem := answer.text("problem")):
        remedy = patient.remedy("cache-elsewhere")
        yield Finding("disk.cache", "warning", f"there is no cache folder: {problem[:300]}", NOTHING_KEPT, remedy)
        return
    if not folder:
        yield Finding("disk.cache", "note", f"the cache folder could not be checked: {answer.problem or 'no answer'}")
        return
    patient.facts["cache"] = {"folder": folder, "free_bytes": answer.number("free")}
    yield _cache(patient, answer, folder)
    yield from _file_system(patient, answer.text("looked_at") or folder)


def _cache(patient: Patient, answer: Answer, folder: str) -> Finding:
    free, total = answer.number("free"), answer.number("total")
    room = (
        f"{rough_gib(free)} free of {rough_gib(total)}" if free is not None and total is not None else "its free space is unknown"
    )
    words = quoted(folder, patient.distribution)
    if problem := answer.text("problem"):
        remedy = patient.remedy(_another_folder(patient.host, answer, problem), folder=words)
        return Finding("disk.cache", "warning", f"{folder} cannot be written ({problem}); {room}", NOTHING_KEPT, remedy)
    if free is None or free >= LITTLE_BYTES:
        return Finding("disk.cache", "ok", f"{folder}: {room}")
    state: State = "warning" if free < FULL_BYTES else "note"
    effect = NOTHING_KEPT if state == "warning" else "a 7B model does not fit: it needs about 4 GB in 4 bits, 13.5 GB in 16"
    return Finding("disk.cache", state, f"{folder}: {room}", effect, patient.remedy("free-disk", folder=words))


def _another_folder(host: Host, answer: Answer, problem: str) -> str:
    """The remedy. Nobody else can create a folder in the home folder first; if its disk is full, it does not help."""
    folder, home = answer.text("folder"), _home(host)
    is_in_home = _is_in_home(host, folder)
    is_forbidden = "denied" in problem or "not permitted" in problem
    if is_in_home and is_forbidden and answer.text("looked_at") == folder:
        return "own-cache"
    is_home_of_use = bool(home) and host.may(home, os.W_OK) and (is_forbidden or not is_in_home)
    return "cache-elsewhere" if is_home_of_use else "cache-beside-home"


def _home(host: Host) -> str:
    return host.environ.get("HOME") or host.environ.get("USERPROFILE") or ""


def _is_in_home(host: Host, folder: str) -> bool:
    """Whether it is safe to give the user a folder with its contents."""
    home = _home(host)
    return len(home) > 1 and folder.startswith((f"{home}/", f"{home}\\"))


def _file_system(patient: Patient, folder: str) -> Iterator[Finding]:
    kind = kind_of(patient.host, folder)
    if kind in WINDOWS_DRIVES and patient.distribution == "wsl":
        effect = "models load slowly: every read goes through Windows"
        yield Finding(
            "disk.file-system",
            "warning",
            f"{folder} is on a Windows drive ({kind})",
            effect,
            patient.remedy("cache-at-home"),
        )
    elif kind in NETWORK:
        effect = "models load at network speed; locks and memory mapping may not work"
        yield Finding("disk.file-system", "note", f"{folder} is on a network file system ({kind})", effect)
    elif kind in IN_MEMORY:
        effect = "models there use main memory, and a restart deletes them"
        yield Finding("disk.file-system", "note", f"{folder} is in memory ({kind})", effect)


def kind_of(host: Host, folder: str) -> str:
    """The type of a folder's file system; "" if unknown."""
    found, longest = "", -1
    for line in (host.read("/proc/mounts") or "").splitlines():
        words = line.split(" ")
        if len(words) >= 3:
            mount_point = words[1].replace("\\040", " ").rstrip("/")
            if len(mount_point) >= longest and (folder == mount_point or folder.startswith(mount_point + "/")):
                found, longest = words[2], len(mount_point)
    return found
