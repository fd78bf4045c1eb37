"""A folder that simulates a machine: the machine's files, and its commands' output in `commands.json`.

    host = build(tmp_path, NO_SWAP, {"files": {"/proc/modules": "nouveau 1 0 - Live 0x0\\n"}, "environ": {"RANK": "0"}})

`build` lays overlays over the base machine, a healthy Ubuntu 24.04 desktop without an NVIDIA card; later ones win. Of an overlay:

files       path -> text or bytes; None takes the file, or the folder, away; a path that ends with "/" is an empty folder
commands    list of {"command": [...], "code": 0, "stdout": "", "stderr": "", "hangs": false, "prefix": false, "absent": false};
            "{python}" stands for this Python; "prefix": the command begins so, and may go on
unreadable  paths, with all below them, that this user may neither read nor list (they are there all the same)
unwritable  paths, with all below them, that this user may not write
environ     variables; None takes one away
system      "Linux", "Windows", "Darwin"
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from puna.machine.child import command_of
from puna.machine.facts import NEEDED
from puna.machine.host import COMMAND_LIMIT_S, Host, Output
from puna.resources import MAX_FILE_BYTES

COMMANDS = "commands.json"


class Overlay(TypedDict, total=False):
    files: Mapping[str, str | bytes | None]
    commands: Iterable[Mapping[str, Any]]
    unreadable: Iterable[str]
    unwritable: Iterable[str]
    environ: Mapping[str, str | None]
    system: str


@dataclass(frozen=True)
class FakeHost:
    """The machine in `folder`. `asked` holds the commands that were run, in order."""

    folder: Path
    system: str = "Linux"
    environ: Mapping[str, str] = field(default_factory=dict)
    unreadable: frozenset[str] = frozenset()
    unwritable: frozenset[str] = frozenset()
    asked: list[tuple[str, ...]] = field(default_factory=list)

    def read(self, path: str) -> str | None:
        if _within(path, self.unreadable):
            return None
        try:
            with self._real(path).open("rb") as file:
                return file.read(MAX_FILE_BYTES).decode("utf-8", "replace")
        except (OSError, ValueError):
            return None

    def exists(self, path: str) -> bool:
        return os.path.lexists(self._real(path))

    def may(self, path: str, mode: int) -> bool:
        refused = _within(path, self.unreadable) or (mode & os.W_OK and _within(path, self.unwritable))
        return self.exists(path) and not refused

    def listing(self, path: str) -> list[str]:
        try:
            return [] if _within(path, self.unreadable) else sorted(entry.name for entry in self._real(path).iterdir())
        except OSError:
            return []

    def run(self, *command: str, limit_s: float = COMMAND_LIMIT_S) -> Output | None:
        self.asked.append(command)
        absent: dict[str, Any] = {"absent": True}
        answer = next((known for known in _commands(self.folder) if _is_meant(known, command)), absent)
        if answer.get("absent"):
            return None
        if answer.get("hangs"):
            return Output(-1, timed_out=True)
        return Output(answer.get("code", 0), answer.get("stdout", ""), answer.get("stderr", ""))

    def _real(self, path: str) -> Path:
        return self.folder / path.lstrip("/")


def build(folder: Path, *overlays: Overlay) -> FakeHost:
    """Write the base machine with `overlays` into `folder`: the machine."""
    environ: dict[str, str | None] = {}
    commands: list[Mapping[str, Any]] = []
    unreadable: set[str] = set()
    unwritable: set[str] = set()
    system = "Linux"
    for overlay in (BASE, *overlays):
        _write(folder, overlay.get("files", {}))
        commands = [*overlay.get("commands", ()), *commands]  # the first that fits answers
        environ |= overlay.get("environ", {})
        unreadable |= set(overlay.get("unreadable", ()))
        unwritable |= set(overlay.get("unwritable", ()))
        system = overlay.get("system", system)
    (folder / COMMANDS).write_text(json.dumps(commands), "utf-8")
    variables = {name: value for name, value in environ.items() if value is not None}
    return FakeHost(folder, system, variables, frozenset(unreadable), frozenset(unwritable))


def _write(folder: Path, files: Mapping[str, str | bytes | None]) -> None:
    for name, content in files.items():
        path = folder / name.lstrip("/")
        if content is None:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        elif name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())


def _commands(folder: Path) -> list[dict[str, Any]]:
    try:
        commands: list[dict[str, Any]] = json.loads((folder / COMMANDS).read_text("utf-8"))
    except FileNotFoundError:
        return []
    return commands


def _is_meant(known: Mapping[str, Any], command: tuple[str, ...]) -> bool:
    words = tuple(sys.executable if word == "{python}" else word for word in known["command"])
    return command[: len(words)] == words if known.get("prefix") else command == words


def _within(path: str, folders: frozenset[str]) -> bool:
    return any(path == folder or path.startswith(folder.rstrip("/") + "/") for folder in folders)


def _as_host(host: FakeHost) -> Host:
    """For the type checker: a FakeHost is a Host."""
    return host


def cpuinfo(name: str, flags: str, threads: int, cores: int, vendor: str = "AuthenticAMD") -> str:
    """/proc/cpuinfo of a PC with one socket."""
    return "".join(
        f"processor\t: {i}\nvendor_id\t: {vendor}\nmodel name\t: {name}\nphysical id\t: 0\nsiblings\t: {threads}\n"
        f"core id\t\t: {i % cores}\ncpu cores\t: {cores}\nflags\t\t: {flags}\n\n"
        for i in range(threads)
    )


def meminfo(total_gib: float, available_gib: float, swap_gib: float = 2.0, swap_free_gib: float | None = None) -> str:
    """The lines of /proc/meminfo that matter."""
    swap_free = swap_gib if swap_free_gib is None else swap_free_gib
    sizes = {"MemTotal": total_gib, "MemFree": available_gib / 2, "MemAvailable": available_gib}
    sizes |= {"SwapTotal": swap_gib, "SwapFree": swap_free}
    return "".join(f"{name + ':':<15}{int(gib * (1 << 20)):>10} kB\n" for name, gib in sizes.items())


FLAGS_ZEN_4 = (
    "fpu sse sse2 ht syscall nx lm constant_tsc ssse3 fma cx16 sse4_1 sse4_2 movbe popcnt aes xsave avx f16c rdrand bmi1 avx2 "
    "bmi2 avx512f avx512dq avx512ifma avx512cd avx512bw avx512vl avx512_bf16 avx512vbmi avx512_vbmi2 avx512_vnni"
)

OS_RELEASES: dict[str, str] = {
    "ubuntu-24.04": 'PRETTY_NAME="Ubuntu 24.04.3 LTS"\nNAME="Ubuntu"\nVERSION_ID="24.04"\nVERSION_CODENAME=noble\nID=ubuntu\n'
    "ID_LIKE=debian\n",
    "ubuntu-22.04": 'PRETTY_NAME="Ubuntu 22.04.5 LTS"\nNAME="Ubuntu"\nVERSION_ID="22.04"\nVERSION_CODENAME=jammy\nID=ubuntu\n'
    "ID_LIKE=debian\n",
    "debian-12": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nNAME="Debian GNU/Linux"\nVERSION_ID="12"\n'
    "VERSION_CODENAME=bookworm\nID=debian\n",
    "debian-13": 'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nNAME="Debian GNU/Linux"\nVERSION_ID="13"\n'
    "VERSION_CODENAME=trixie\nID=debian\n",
    "fedora-42": 'NAME="Fedora Linux"\nVERSION="42 (Workstation Edition)"\nID=fedora\nVERSION_ID=42\n',
    "rocky-9": 'NAME="Rocky Linux"\nVERSION="9.6 (Blue Onyx)"\nID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.6"\n',
    "arch": 'NAME="Arch Linux"\nPRETTY_NAME="Arch Linux"\nID=arch\nBUILD_ID=rolling\n',
    "alpine": 'NAME="Alpine Linux"\nID=alpine\nVERSION_ID=3.22.1\nPRETTY_NAME="Alpine Linux v3.22"\n',
}


def distribution(name: str) -> Overlay:
    """An overlay: another distribution."""
    return {"files": {"/etc/os-release": OS_RELEASES[name]}}


# WSL 2: its kernel says so; the distribution inside is still Ubuntu.
WSL2: Overlay = {
    "files": {
        "/proc/sys/kernel/osrelease": "6.6.87.2-microsoft-standard-WSL2\n",
        "/proc/version": "Linux version 6.6.87.2-microsoft-standard-WSL2 (root@439a258ad544) #1 SMP PREEMPT_DYNAMIC\n",
        "/proc/sys/fs/binfmt_misc/WSLInterop": "enabled\ninterpreter /init\n",
        "/dev/dxg": "",
        "/usr/lib/wsl/lib/": "",
    },
    "environ": {"WSL_DISTRO_NAME": "Ubuntu", "WSL_INTEROP": "/run/WSL/1_interop"},
}

# Inside Docker, cgroup v2, no limits.
DOCKER: Overlay = {
    "files": {
        "/.dockerenv": "",
        "/proc/1/cgroup": "0::/\n",
        "/proc/mounts": "overlay / overlay rw,relatime 0 0\nproc /proc proc rw 0 0\nshm /dev/shm tmpfs rw,size=65536k 0 0\n",
    },
}

CACHE = "/home/user/.cache/puna"
LIMITS = {"read_bytes_per_s": 58.1e9, "int8_ops_per_s": 2.4e12, "f32_ops_per_s": 0.61e12}


def fact(name: str, /, **facts: Any) -> dict[str, Any]:
    """A command: what `puna.machine.facts NAME` prints on this machine."""
    return {"command": command_line("puna.machine.facts", name), "stdout": json.dumps(facts) + "\n"}


def trial(**facts: Any) -> dict[str, Any]:
    """A command: what the trial of the CPU prints."""
    return {"command": command_line("puna.backends.cpu.self_test"), "stdout": json.dumps(facts) + "\n"}


def command_line(*words: str) -> list[str]:
    """How a module is run in a child."""
    return ["{python}", *command_of(*words)[1:]]


BASE: Overlay = {
    "system": "Linux",
    "environ": {"HOME": "/home/user", "LANG": "en_US.UTF-8", "PATH": "/usr/local/bin:/usr/bin:/bin"},
    "files": {
        "/etc/os-release": OS_RELEASES["ubuntu-24.04"],
        "/etc/hostname": "desktop\n",
        "/etc/hosts": "127.0.0.1 localhost\n127.0.1.1 desktop\n",
        "/proc/version": "Linux version 6.8.0-85-generic (buildd@lcy02-amd64-057) #85-Ubuntu SMP PREEMPT_DYNAMIC\n",
        "/proc/sys/kernel/osrelease": "6.8.0-85-generic\n",
        "/proc/sys/kernel/hostname": "desktop\n",
        "/proc/cmdline": "BOOT_IMAGE=/boot/vmlinuz-6.8.0-85-generic root=UUID=0 ro quiet splash\n",
        "/proc/cpuinfo": cpuinfo("AMD Ryzen 7 7700 8-Core Processor", FLAGS_ZEN_4, threads=16, cores=8),
        "/proc/meminfo": meminfo(31.1, 26.0, 8.0),
        "/proc/modules": "nvme 61440 2 - Live 0x0000000000000000\nsnd_hda_intel 61440 1 - Live 0x0000000000000000\n",
        "/proc/mounts": "/dev/nvme0n1p2 / ext4 rw,relatime 0 0\n"
        "proc /proc proc rw 0 0\ntmpfs /dev/shm tmpfs rw,nosuid,nodev 0 0\n",
        "/proc/self/status": "Name:\tpuna\nCpus_allowed:\tffff\nCpus_allowed_list:\t0-15\n",
        "/proc/self/cgroup": "0::/user.slice/user-1000.slice/session-2.scope\n",
        "/proc/1/cgroup": "0::/init.scope\n",
        "/proc/net/tcp": "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
        "   0: 0100007F:0277 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 9001 1 0 100 0 0 10 0\n",
        "/proc/net/tcp6": "  sl  local_address remote_address st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n",
        "/sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory hugetlb pids rdma misc\n",
        "/sys/devices/system/cpu/online": "0-15\n",
        "/sys/devices/system/cpu/present": "0-15\n",
        "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
        "/sys/devices/system/cpu/cpu0/cpufreq/scaling_driver": "amd-pstate\n",
        "/sys/class/net/lo/operstate": "unknown\n",
        "/sys/class/net/lo/flags": "0x9\n",
        "/sys/class/net/enp5s0/operstate": "up\n",
        "/sys/class/net/enp5s0/flags": "0x1003\n",
        "/sys/class/power_supply/": "",
        "/dev/shm/": "",
    },
    "commands": [
        fact(
            "python",
            version="3.12.3",
            implementation="CPython",
            bits=64,
            machine="x86_64",
            in_venv=True,
            externally_managed=False,
            musl=False,
            free_threaded=False,
            packages={package: f"{least}.1" for package, (least, _) in NEEDED.items()},
            has_socks=False,
        ),
        fact("storage", folder=CACHE, looked_at=CACHE, problem="", total=982 << 30, free=611 << 30),
        fact("name", name="desktop", addresses=["127.0.1.1"], problem=""),
        trial(cpu="znver4", threads=16, is_right=True, ready_s=0.09, limits=LIMITS),
    ],
}
