"""Which system this is, because the repair commands differ."""

from __future__ import annotations

from typing import Literal

from puna.machine.host import Host

Distribution = Literal["ubuntu", "debian", "fedora", "arch", "wsl", "windows", "macos", "other"]

# ID or ID_LIKE of /etc/os-release -> the system whose commands it uses.
FAMILIES: dict[str, Distribution] = {
    "ubuntu": "ubuntu",
    "debian": "debian",
    "fedora": "fedora",
    "rhel": "fedora",
    "centos": "fedora",
    "arch": "arch",
}


def distribution_of(host: Host) -> Distribution:
    """The system's family. WSL counts as a system of its own: its driver is Windows's."""
    if host.system in ("Windows", "Darwin"):
        return "windows" if host.system == "Windows" else "macos"
    if "microsoft" in (host.read("/proc/sys/kernel/osrelease") or "").lower():
        return "wsl"
    release = os_release(host)
    names = [release.get("ID", ""), *release.get("ID_LIKE", "").split()]
    return next((FAMILIES[name] for name in names if name in FAMILIES), "other")


def os_release(host: Host) -> dict[str, str]:
    """/etc/os-release, unquoted."""
    lines = (host.read("/etc/os-release") or "").splitlines()
    pairs = (line.partition("=") for line in lines if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip().strip("\"'") for name, _, value in pairs}
