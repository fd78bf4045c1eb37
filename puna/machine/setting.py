"""What is between a program and the card: nothing, a container, or Windows."""

from __future__ import annotations

import re
from typing import Literal

from puna.machine.host import Host

Setting = Literal["bare", "container", "wsl-1", "wsl-2", "windows", "macos"]

CONTAINER_FILES = ("/.dockerenv", "/run/.containerenv")
CONTAINER_WORDS = re.compile(r"docker|kubepods|containerd|libpod|/lxc")


def setting(host: Host) -> Setting:
    """Where puna runs. A container on WSL counts as WSL."""
    if host.system in ("Windows", "Darwin"):
        return "windows" if host.system == "Windows" else "macos"
    release = (host.read("/proc/sys/kernel/osrelease") or "").lower()
    if "microsoft" in release:
        return "wsl-2" if "microsoft-standard" in release or "wsl2" in release else "wsl-1"
    return "container" if is_container(host) else "bare"


def is_container(host: Host) -> bool:
    return any(map(host.exists, CONTAINER_FILES)) or bool(CONTAINER_WORDS.search(host.read("/proc/1/cgroup") or ""))


def kernel_release(host: Host) -> str:
    """As `uname -r` says: "6.8.0-85-generic"; "" if there is none, or if it is not a valid folder name."""
    found = re.fullmatch(r"\s*([\w.+~-]{1,128})\s*", host.read("/proc/sys/kernel/osrelease") or "", re.ASCII)
    return found[1] if found else ""
