"""The cache folder: can it be written, has it room, what kind of file system is it."""

from __future__ import annotations

from collections.abc import Iterator

from puna.machine.child import Answer, ask
from puna.machine.finding import Finding, State
from puna.machine.host import Host
from puna.machine.probes.base import Patient
from puna.machine.remedies import quoted
from puna.machine.sizes import GIB, MIB, shown

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
WINDOWS_DRIVES = ("9p", "drvfs", "virtiofs")  # C: and the like, seen from WSL
IN_MEMORY = ("tmpfs", "ramfs")


def disk(patient: Patient) -> Iterator[Finding]:
    """Room and rights where models and kernels are kept."""
    answer = ask(patient.host, "puna.machine.facts", "storage")
    folder = answer.text("folder")
    if not folder:
        yield Finding("disk.cache", "note", f"the cache folder could not be looked at: {answer.problem or 'no answer'}")
        return
    patient.facts["cache"] = {"folder": folder, "free_bytes": answer.number("free")}
    yield _cache(patient, answer, folder)
    yield from _file_system(patient, answer.text("looked_at") or folder)


def _cache(patient: Patient, answer: Answer, folder: str) -> Finding:
    free, total = answer.number("free"), answer.number("total")
    room = f"{shown(free)} free of {shown(total)}" if free is not None and total is not None else "its room is not told"
    effect = "models cannot be kept there, and every start compiles the kernels anew (up to a minute)"
    words = quoted(folder, patient.distribution)
    if problem := answer.text("problem"):
        is_forbidden = "denied" in problem or "not permitted" in problem
        may_be_taken = answer.text("looked_at") == folder and _is_in_home(patient.host, folder)
        remedy = patient.remedy("own-cache" if is_forbidden and may_be_taken else "cache-elsewhere", folder=words)
        return Finding("disk.cache", "warning", f"{folder} cannot be written ({problem}); {room}", effect, remedy)
    if free is None or free >= LITTLE_BYTES:
        return Finding("disk.cache", "ok", f"{folder}: {room}")
    state: State = "warning" if free < FULL_BYTES else "note"
    effect = effect if state == "warning" else "a 7B model does not fit: it needs about 4 GB in 4 bits, 13.5 GB in 16"
    return Finding("disk.cache", state, f"{folder}: {room}", effect, patient.remedy("free-disk", folder=words))


def _is_in_home(host: Host, folder: str) -> bool:
    """Whether it is safe to give a folder to the user with all that is in it."""
    home = host.environ.get("HOME") or host.environ.get("USERPROFILE") or ""
    return len(home) > 1 and folder.startswith((f"{home}/", f"{home}\\"))


def _file_system(patient: Patient, folder: str) -> Iterator[Finding]:
    kind = kind_of(patient.host, folder)
    if kind in WINDOWS_DRIVES and patient.distribution == "wsl":
        effect = "models load slowly: every read goes through Windows"
        yield Finding(
            "disk.file-system",
            "warning",
            f"{folder} lies on a drive of Windows ({kind})",
            effect,
            patient.remedy("cache-at-home"),
        )
    elif kind in NETWORK:
        effect = "models load as fast as the network; locks and memory mapping may not work on it"
        yield Finding("disk.file-system", "note", f"{folder} lies on a network file system ({kind})", effect)
    elif kind in IN_MEMORY:
        effect = "models there take main memory, and are gone after a restart"
        yield Finding("disk.file-system", "note", f"{folder} lies in memory ({kind})", effect)


def kind_of(host: Host, folder: str) -> str:
    """The kind of the file system that a folder lies on; "" where it is not told."""
    found, longest = "", -1
    for line in (host.read("/proc/mounts") or "").splitlines():
        words = line.split(" ")
        if len(words) >= 3:
            place = words[1].replace("\\040", " ").rstrip("/")
            if len(place) >= longest and (folder == place or folder.startswith(place + "/")):
                found, longest = words[2], len(place)
    return found
