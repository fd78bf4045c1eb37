"""NVIDIA's kernel module on Linux: whether it is loaded, the kernels it is built for, its signature, its log lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from puna.machine.environment import kernel_release
from puna.machine.host import Host

MODULES = "/lib/modules"
MODULE_FILE = re.compile(r"nvidia(-current)?(-open)?\.ko(\.(xz|zst|gz))?")  # Debian's is nvidia-current.ko
FOLDERS = ("updates/dkms", "updates", "extra/nvidia", "extra", "weak-updates/nvidia", "extramodules", "kernel/drivers/video")
HEADERS = (
    f"{MODULES}/{{release}}/build/Makefile",
    "/usr/src/linux-headers-{release}/Makefile",
    "/usr/src/kernels/{release}/Makefile",
)
DKMS_LINE = re.compile(r"^(nvidia[\w-]*)[/,] ?([\w.~+-]+)(?:, ([^,:]+), [^,:]+)?(?:\([^)]*\))?: (\w+)", re.MULTILINE)
SECURE_BOOT = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
# Keys that sign modules built on the machine: Ubuntu's, DKMS's own, Fedora's akmods.
KEYS = ("/var/lib/shim-signed/mok/MOK.der", "/var/lib/dkms/mok.pub", "/etc/pki/akmods/certs/public_key.der")


@dataclass(frozen=True, slots=True)
class KernelModule:
    """The module's state now."""

    release: str  # of the running kernel
    is_loaded: bool
    version: str  # of the loaded one, "" for none
    is_open: bool | None  # None if unknown
    is_nouveau_loaded: bool
    is_built: bool  # a file for the running kernel exists
    signer: str | None  # owner of the key that signs that file; "" unsigned, None unknown
    built_for: tuple[str, ...]  # kernels that have a module
    has_headers: bool
    has_own_folder: bool  # the running kernel's module folder still exists


class DkmsBuild(NamedTuple):
    """A line of `dkms status`."""

    module: str
    version: str
    kernel: str  # "" if it is only added
    state: str  # "added", "built", "installed"


class LogLine(NamedTuple):
    """A line of the driver or the kernel. `xid` is NVIDIA's error number, or 0."""

    text: str
    xid: int = 0
    bus_id: str = ""


def kernel_module(host: Host) -> KernelModule:
    release = kernel_release(host)
    loaded = set(re.findall(r"^(\w+) ", host.read("/proc/modules") or "", re.MULTILINE))
    driver = host.read("/proc/driver/nvidia/version") or ""
    version = loaded_version(driver) or (host.read("/sys/module/nvidia/version") or "").strip()
    kernels = host.listing(MODULES)
    about = _modinfo(host) if host.exists(f"{MODULES}/{release}") else ""
    return KernelModule(
        release=release,
        is_loaded="nvidia" in loaded or bool(driver),
        version=version,
        is_open=_is_open(driver, about),
        is_nouveau_loaded=bool(loaded & {"nouveau", "nova_core"}),
        is_built=bool(about) or _has_module(host, release),
        signer=_signer(about),
        built_for=tuple(kernel for kernel in kernels if _has_module(host, kernel)),
        has_headers=any(host.exists(path.format(release=release)) for path in HEADERS),
        has_own_folder=release in kernels or not kernels,
    )


def loaded_version(text: str) -> str:
    """The version in /proc/driver/nvidia/version.

    >>> loaded_version("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.82.07  Release Build")
    '580.82.07'
    """
    found = re.search(r"NVRM version:.*?\s(\d{3,4}\.\d[\d.]*)", text)
    return found[1] if found else ""


def dkms_builds(host: Host) -> tuple[DkmsBuild, ...]:
    answer = host.run("dkms", "status")
    return parsed_dkms(answer.text) if answer else ()


def parsed_dkms(text: str) -> tuple[DkmsBuild, ...]:
    """
    >>> builds = parsed_dkms("nvidia/580.82.07, 6.8.0-79-generic, x86_64: installed\\nnvidia/580.95.05: added")
    >>> [(build.kernel, build.state) for build in builds]
    [('6.8.0-79-generic', 'installed'), ('', 'added')]
    """
    return tuple(DkmsBuild(*(part or "" for part in found)) for found in DKMS_LINE.findall(text))


# ---- Secure Boot


def secure_boot(host: Host) -> bool | None:
    """Whether Secure Boot is on; None if unknown."""
    variable = host.read(SECURE_BOOT)
    if variable:
        return variable[-1] == "\x01"  # four bytes of attributes, and one of value
    answer = host.run("mokutil", "--sb-state")
    found = re.search(r"SecureBoot (enabled|disabled)", answer.text if answer else "")
    return found[1] == "enabled" if found else None


class Key(NamedTuple):
    """This machine's key for signing modules."""

    path: str  # "" where there is none
    state: str  # "enrolled", "waiting" for the next start, "unknown" to the firmware; "": not known here


def signing_key(host: Host) -> Key:
    path = next((path for path in KEYS if host.exists(path)), "")
    answer = host.run("mokutil", "--test-key", path) if path else None
    said = f"{answer.text} {answer.errors}".lower() if answer else ""
    states = (("enrollment request", "waiting"), ("not enrolled", "unknown"), ("already", "enrolled"))
    state = next((state for words, state in states if words in said), "")
    return Key(path, "waiting" if state != "enrolled" and _has_waiting_key(host) else state)


def _has_waiting_key(host: Host) -> bool:
    """Whether the next start will ask to confirm a key."""
    answer = host.run("mokutil", "--list-new")
    return answer is not None and "[key " in answer.text


# ---- the kernel's log


def kernel_log(host: Host) -> tuple[LogLine, ...] | None:
    """Its lines about the card since the start; None if this user may not read the log."""
    for command in (("dmesg",), ("journalctl", "-k", "-b", "-q", "--no-pager", "-n", "5000")):
        answer = host.run(*command)
        if answer and not answer.timed_out and answer.code == 0 and answer.text.strip():
            return tuple(_lines(answer.text))
    return None


XID = re.compile(r"NVRM: Xid \((?:PCI:)?([0-9a-f:.]+)[^)]*\): (\d{1,3})\b", re.IGNORECASE)
TOLD = re.compile(
    r"nvidia|nvrm|nouveau|unsigned module|unavailable key|trusted key|rejected by service|required key", re.IGNORECASE
)


def _lines(text: str) -> Iterator[LogLine]:
    for line in filter(TOLD.search, text.splitlines()):
        xid = XID.search(line)
        yield LogLine(line.strip()[:300], int(xid[2]) if xid else 0, xid[1].lower() if xid else "")


# ---- files


def _has_module(host: Host, release: str) -> bool:
    signed = (f"kernel/{name}" for name in host.listing(f"{MODULES}/{release}/kernel") if name.startswith("nvidia"))
    folders = [*FOLDERS, *signed]  # Ubuntu's signed modules are in kernel/nvidia-580
    return any(MODULE_FILE.fullmatch(name) for folder in folders for name in host.listing(f"{MODULES}/{release}/{folder}"))


def _modinfo(host: Host) -> str:
    for name in ("nvidia", "nvidia-current", "nvidia-current-open"):
        answer = host.run("modinfo", name)
        if answer is None:
            return ""
        if answer.code == 0 and "filename:" in answer.text:
            return answer.text
    return ""


def _signer(about: str) -> str | None:
    found = re.search(r"^signer:[ \t]*(.*)$", about, re.MULTILINE)
    return (found[1].strip() if found else "") if about else None


def _is_open(driver: str, about: str) -> bool | None:
    if driver:
        return "Open Kernel Module" in driver
    licence = re.search(r"^license:\s*(.+)$", about, re.MULTILINE)
    return "GPL" in licence[1] if licence else None
