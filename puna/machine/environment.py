"""What is between a program and the card: nothing, a container, or Windows."""

from __future__ import annotations

import re
from itertools import chain
from typing import Literal

from puna.machine.host import Host

Environment = Literal["bare", "container", "wsl-1", "wsl-2", "windows", "macos"]

CONTAINER_FILES = {"/.dockerenv": "Docker", "/run/.containerenv": "Podman"}
# A word in /proc/1/cgroup -> the program that made the container.
CONTAINER_GROUPS = {"kubepods": "Kubernetes", "docker": "Docker", "libpod": "Podman", "/lxc": "LXC", "containerd": "containerd"}


def environment(host: Host) -> Environment:
    """Where puna runs. A container on WSL counts as WSL."""
    if host.system in ("Windows", "Darwin"):
        return "windows" if host.system == "Windows" else "macos"
    release = (host.read("/proc/sys/kernel/osrelease") or "").lower()
    if "microsoft" in release:
        return "wsl-2" if "microsoft-standard" in release or "wsl2" in release else "wsl-1"
    return "container" if container_kind(host) else "bare"


def container_kind(host: Host) -> str:
    """What made the container: "Docker", "Podman", "Kubernetes", "LXC", ...; "" outside a container."""
    if "KUBERNETES_SERVICE_HOST" in host.environ:
        return "Kubernetes"
    groups = host.read("/proc/1/cgroup") or ""
    by_group = (kind for word, kind in CONTAINER_GROUPS.items() if word in groups)
    by_file = (kind for path, kind in CONTAINER_FILES.items() if host.exists(path))
    named = host.environ.get("container", "")[:20]  # systemd-nspawn, LXC and Podman set it
    return next(chain(by_group, by_file), named)


def kernel_release(host: Host) -> str:
    """As `uname -r` says: "6.8.0-85-generic"; "" if there is none, or if it is not a valid folder name."""
    found = re.fullmatch(r"\s*([\w.+~-]{1,128})\s*", host.read("/proc/sys/kernel/osrelease") or "", re.ASCII)
    return found[1] if found else ""
