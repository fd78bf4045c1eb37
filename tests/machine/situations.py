"""Machines with one thing wrong each, and what the doctor must say of it: the finding, how grave it is, and what to type."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from puna.machine.facts import NEEDED
from tests.machine.fake_host import (
    BASE,
    CACHE,
    DOCKER,
    FLAGS_ZEN_4,
    LIMITS,
    WSL2,
    Overlay,
    command_line,
    cpuinfo,
    distribution,
    fact,
    meminfo,
    trial,
)

GIB = 1 << 30
CPUFREQ = "/sys/devices/system/cpu/cpu0/cpufreq"
THROTTLE = "/sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count"


def python_facts(**changed: Any) -> Overlay:
    """The base machine's Python with some facts changed."""
    command = next(c for c in BASE["commands"] if c["command"][-1] == "python")
    return {"commands": [fact("python", **(json.loads(command["stdout"]) | changed))]}


def packages(**changed: str | None) -> dict[str, str | None]:
    return dict.fromkeys(NEEDED, "99") | changed


def storage(
    folder: str = CACHE, looked_at: str = "", problem: str = "", total: int = 982 * GIB, free: int = 611 * GIB
) -> Overlay:
    return {"commands": [fact("storage", folder=folder, looked_at=looked_at or folder, problem=problem, total=total, free=free)]}


def host_name(*addresses: str) -> Overlay:
    return {"commands": [fact("name", name="desktop", addresses=list(addresses), problem="")]}


def trial_ends(**command: Any) -> Overlay:
    return {"commands": [{"command": command_line("puna.backends.cpu.self_test")} | command]}


def several(**more: str) -> Overlay:
    """Variables of four processes on two machines, as torchrun sets them."""
    variables = {"WORLD_SIZE": "4", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    return {"environ": variables | {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "none"} | more}


V1_LIMIT: Overlay = {
    "files": {
        "/sys/fs/cgroup/cgroup.controllers": None,
        "/proc/self/cgroup": "9:memory:/docker/4f1c\n4:cpu,cpuacct:/docker/4f1c\n0::/\n",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes": f"{4 * GIB}\n",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes": f"{GIB}\n",
        "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "150000\n",
        "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    }
}
WINDOWS: Overlay = {
    "system": "Windows",
    "files": {"/proc": None, "/sys": None, "/etc": None},
    "environ": {"HOME": None, "USERPROFILE": "C:\\Users\\user"},
    "commands": [
        fact("cpu", name="AMD64 Family 25 Model 97 Stepping 2, AuthenticAMD", threads=16, avx2=True),
        fact("memory", total=32 * GIB, free=20 * GIB, swap_total=8 * GIB, swap_free=8 * GIB),
        {"command": ["powercfg", "/getactivescheme"], "stdout": "GUID: a1841308-3541-4fab-bc81-f71556f20b4a  (Energiesparmodus)"},
    ],
}
MACOS: Overlay = {
    "system": "Darwin",
    "files": {"/proc": None, "/sys": None, "/etc": None},
    "commands": [
        {
            "command": ["sysctl", "machdep.cpu.brand_string"],
            "prefix": True,
            "stdout": "machdep.cpu.brand_string: Apple M2\nhw.logicalcpu: 8\nhw.physicalcpu: 8\n",
        },
        {"command": ["sysctl", "-n", "sysctl.proc_translated"], "stdout": "1\n"},
        {
            "command": ["pmset", "-g", "batt"],
            "stdout": "Now drawing from 'Battery Power'\n -InternalBattery-0 (id=1)\t84%; discharging\n",
        },
        fact("memory", total=16 * GIB, free=9 * GIB, swap_total=0, swap_free=0),
    ],
}
BATTERY: Overlay = {
    "files": {
        "/sys/class/power_supply/AC/type": "Mains\n",
        "/sys/class/power_supply/AC/online": "0\n",
        "/sys/class/power_supply/BAT0/type": "Battery\n",
        "/sys/class/power_supply/BAT0/status": "Discharging\n",
    }
}
MOUSE: Overlay = {
    "files": {
        "/sys/class/power_supply/hid-1/type": "Battery\n",
        "/sys/class/power_supply/hid-1/status": "Discharging\n",
        "/sys/class/power_supply/hid-1/scope": "Device\n",
    }
}
MANY_INTERFACES: Overlay = {
    "files": {
        "/sys/class/net/docker0/flags": "0x1003\n",
        "/sys/class/net/wlp3s0/flags": "0x1003\n",
        "/sys/class/net/tun0/flags": "0x10d0\n",
    }
}
NO_AVX = FLAGS_ZEN_4.replace("avx2 ", "").replace("fma ", "") + " hypervisor"


class Situation(NamedTuple):
    """Name of the fault, machine, finding, its state, words in it, and its command."""

    name: str
    overlays: tuple[Overlay, ...]
    check: str
    state: str
    words: str
    typed: str = ""


SITUATIONS: tuple[Situation, ...] = (
    Situation(
        "an old cpu",
        ({"files": {"/proc/cpuinfo": cpuinfo("AMD FX", NO_AVX, 8, 4)}},),
        "cpu.instructions",
        "error",
        "lacks AVX2, FMA, or the",
    ),
    Situation(
        "taskset", ({"files": {"/proc/self/status": "Cpus_allowed_list:\t0,2-3\n"}},), "cpu.cores", "note", "may use only 3"
    ),
    Situation("no instruction", (trial_ends(code=-4),), "cpu.trial", "error", "SIGILL"),
    Situation("oom in trial", (trial_ends(code=-9),), "cpu.trial", "error", "memory is short"),
    Situation("slow compiler", (trial_ends(hangs=True),), "cpu.trial", "note", "did not end within 7 s"),
    Situation(
        "no llvmlite",
        ({"commands": [trial(problem="llvmlite cannot be imported: No module", module="llvmlite")]},),
        "cpu.trial",
        "error",
        "llvmlite",
    ),
    Situation("wrong sums", ({"commands": [trial(is_right=False, limits=LIMITS)]},), "cpu.trial", "error", "wrong sum"),
    Situation(
        "one slow module",
        ({"commands": [trial(is_right=True, limits=LIMITS | {"read_bytes_per_s": 5e9})]},),
        "cpu.bandwidth",
        "note",
        "5.0 GB/s",
    ),
    Situation(
        "full memory",
        ({"files": {"/proc/meminfo": meminfo(15.5, 0.1)}},),
        "memory.free",
        "error",
        "102 MiB free of 15.5 GiB",
        "ps -eo pid,rss,comm",
    ),
    Situation(
        "short memory",
        (distribution("arch"), {"files": {"/proc/meminfo": meminfo(7.7, 1.2)}}),
        "memory.free",
        "warning",
        "1.2 GiB free",
        "ps -eo",
    ),
    Situation(
        "no swap",
        (distribution("debian-13"), {"files": {"/proc/meminfo": meminfo(7.7, 6, 0)}}),
        "memory.swap",
        "note",
        "no swap",
        "sudo fallocate -l 8G /swapfile",
    ),
    Situation(
        "no swap, fedora",
        (distribution("fedora-42"), {"files": {"/proc/meminfo": meminfo(7.7, 6, 0)}}),
        "memory.swap",
        "note",
        "no swap",
        "sudo chattr +C /swapfile",
    ),
    Situation(
        "full swap",
        ({"files": {"/proc/meminfo": meminfo(15, 3, 8, 1)}},),
        "memory.swap",
        "warning",
        "7.0 GiB of 8.0 GiB",
        "ps -eo",
    ),
    Situation(
        "docker -m",
        (DOCKER, {"files": {"/sys/fs/cgroup/memory.max": f"{GIB}\n", "/proc/self/cgroup": "0::/\n"}}),
        "memory.limit",
        "warning",
        "1.0 GiB of the machine's 31.1",
    ),
    Situation(
        "a slice's limit",
        ({"files": {"/sys/fs/cgroup/user.slice/memory.max": f"{8 * GIB}\n"}},),
        "memory.limit",
        "note",
        "8.0 GiB of",
    ),
    Situation("cgroup v1", (DOCKER, V1_LIMIT), "memory.limit", "note", "4.0 GiB of"),
    Situation("cgroup v1 free", (DOCKER, V1_LIMIT), "memory.free", "ok", "3.0 GiB free of 4.0 GiB"),
    Situation("cgroup v1 quota", (DOCKER, V1_LIMIT), "container.cpu-quota", "note", "1.5 cores' time, but 16 CPUs"),
    Situation(
        "half a core",
        (DOCKER, {"files": {"/sys/fs/cgroup/cpu.max": "50000 100000\n"}}),
        "container.cpu-quota",
        "warning",
        "0.5 cores",
    ),
    Situation(
        "killed here",
        ({"files": {"/sys/fs/cgroup/user.slice/memory.events": "low 0\noom 3\noom_kill 2\n"}},),
        "memory.oom-kills",
        "warning",
        "full: 2",
        "ps -eo",
    ),
    Situation(
        "killed before",
        ({"files": {"/proc/vmstat": "nr_free 1\noom_kill 4\n"}},),
        "memory.oom-kills",
        "note",
        "full: 4",
        "ps -eo",
    ),
    Situation("docker", (DOCKER,), "container.kind", "ok", "Docker"),
    Situation("podman", ({"files": {"/run/.containerenv": ""}},), "container.kind", "ok", "Podman"),
    Situation("kubernetes", ({"environ": {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}},), "container.kind", "ok", "Kubernetes"),
    Situation("lxc", ({"environ": {"container": "lxc"}},), "container.kind", "ok", "lxc"),
    Situation("small shm", (DOCKER,), "container.shm", "note", "64 MiB"),
    Situation(
        "read-only cache",
        (storage(problem="Read-only file system"),),
        "disk.cache",
        "warning",
        "Read-only",
        'export PUNA_CACHE="$(mktemp -d /var/tmp/puna-XXXXXXXX)"',
    ),
    Situation(
        "root's cache",
        (distribution("fedora-42"), storage(problem="Permission denied")),
        "disk.cache",
        "warning",
        "denied",
        f'chown -R "$(id -un)" {CACHE}',
    ),
    Situation(
        "cache at the root",
        (storage("/puna", "/", "Permission denied"),),
        "disk.cache",
        "warning",
        "denied",
        'export PUNA_CACHE="$(mktemp -d /var/tmp/puna-XXXXXXXX)"',
    ),
    Situation(
        "a hostile name",
        (storage(f"{CACHE}/$(touch x)", problem="Permission denied"),),
        "disk.cache",
        "warning",
        "touch",
        f"'{CACHE}/$(touch x)'",
    ),
    Situation("full disk", (storage(free=50 << 20),), "disk.cache", "warning", "50 MiB free of 982 GiB", f"du -a -h {CACHE}"),
    Situation("little room", (storage(free=3 * GIB),), "disk.cache", "note", "3.0 GiB free", "du -a -h"),
    Situation(
        "nfs",
        ({"files": {"/proc/mounts": "/dev/sda1 / ext4 rw 0 0\nnas:/home /home nfs4 rw 0 0\n"}},),
        "disk.file-system",
        "note",
        "nfs4",
    ),
    Situation(
        "python 3.10",
        (python_facts(version="3.10.12"),),
        "python.version",
        "error",
        "3.10.12",
        "sudo apt install -y python3 python3-venv",
    ),
    Situation(
        "32 bits",
        (distribution("arch"), python_facts(bits=32)),
        "python.version",
        "error",
        "32 bits",
        "sudo pacman -S --needed python",
    ),
    Situation(
        "pypy",
        (distribution("rocky-9"), python_facts(implementation="PyPy")),
        "python.version",
        "error",
        "PyPy",
        "sudo dnf install -y python3",
    ),
    Situation(
        "system python",
        (distribution("debian-12"), python_facts(in_venv=False, externally_managed=True)),
        "python.environment",
        "note",
        "package manager",
        "python3 -m venv ~/puna-env",
    ),
    Situation("alpine", (distribution("alpine"), python_facts(musl=True)), "python.libc", "warning", "musl"),
    Situation("riscv", (python_facts(machine="riscv64"),), "python.machine", "warning", "riscv64"),
    Situation(
        "no numba",
        (python_facts(packages=packages(numba=None)),),
        "python.packages",
        "error",
        "numba is missing (needed: 0.68)",
        "-m pip install --upgrade 'numba>=0.68'",
    ),
    Situation(
        "old numpy",
        (python_facts(packages=packages(numpy="1.26.4")),),
        "python.packages",
        "error",
        "numpy 1.26.4 (needed: 2.0)",
        "'numpy>=2.0'",
    ),
    Situation(
        "wsl", (WSL2, {"files": {"/proc/meminfo": meminfo(15.5, 14)}}), "wsl.memory", "note", "15.5 GiB", "wsl.exe --shutdown"
    ),
    Situation(
        "wsl 1",
        (WSL2, {"files": {"/proc/sys/kernel/osrelease": "4.4.0-19041-Microsoft\n", "/dev/dxg": None}}),
        "wsl.version",
        "error",
        "WSL 1",
        "wsl.exe --set-version Ubuntu 2",
    ),
    Situation(
        "wsl on c:",
        (WSL2, storage("/mnt/c/puna"), {"files": {"/proc/mounts": "/dev/sdc / ext4 rw 0 0\nC:\\134 /mnt/c 9p rw 0 0\n"}}),
        "disk.file-system",
        "warning",
        "9p",
        "export PUNA_CACHE",
    ),
    Situation(
        "stale rank",
        ({"environ": {"WORLD_SIZE": "2", "RANK": "1"}},),
        "network.torchrun",
        "error",
        "no MASTER_ADDR and MASTER_PORT",
        "unset WORLD_SIZE RANK",
    ),
    Situation(
        "no number", ({"environ": {"WORLD_SIZE": "two"}},), "network.torchrun", "error", "WORLD_SIZE='two'", "unset WORLD_SIZE"
    ),
    Situation("no size", ({"environ": {"WORLD_SIZE": "0"}},), "network.torchrun", "error", "WORLD_SIZE='0'", "unset WORLD_SIZE"),
    Situation(
        "rank too high",
        ({"environ": {"WORLD_SIZE": "2", "RANK": "2"}},),
        "network.torchrun",
        "error",
        "RANK is 2",
        "unset WORLD_SIZE RANK",
    ),
    Situation("a cluster's rank", ({"environ": {"RANK": "7"}},), "network.torchrun", "ok", "one process"),
    Situation(
        "by hand",
        (several(TORCHELASTIC_RUN_ID=""), {"environ": {"TORCHELASTIC_RUN_ID": None}}),
        "network.torchrun",
        "warning",
        "not started by torchrun",
        "unset WORLD_SIZE",
    ),
    Situation(
        "port held",
        (several(MASTER_PORT="631"), {"environ": {"TORCHELASTIC_RUN_ID": None}}),
        "network.port",
        "error",
        "631 (MASTER_PORT) is in use",
        "ss -ltnp 'sport = :631'",
    ),
    Situation(
        "no port",
        (several(MASTER_PORT="http"), {"environ": {"TORCHELASTIC_RUN_ID": None}}),
        "network.port",
        "error",
        "'http'",
        "export MASTER_ADDR",
    ),
    Situation(
        "nameless", (host_name(),), "network.name", "note", "no address", "echo 127.0.1.1 desktop | sudo tee -a /etc/hosts"
    ),
    Situation(
        "own loopback",
        (several(), host_name("127.0.1.1")),
        "network.name",
        "warning",
        "only the loopback address 127.0.1.1",
        "sudoedit /etc/hosts",
    ),
    Situation(
        "slow name server",
        ({"commands": [{"command": command_line("puna.machine.facts", "name"), "hangs": True}]},),
        "network.name",
        "note",
        "did not resolve this machine's name within 2 s",
    ),
    Situation(
        "which interface",
        (several(), MANY_INTERFACES),
        "network.interfaces",
        "note",
        "3 interfaces are up",
        "export NCCL_SOCKET_IFNAME=enp5s0",
    ),
    Situation(
        "no such interface",
        (several(NCCL_SOCKET_IFNAME="=eth0"),),
        "network.interfaces",
        "warning",
        "'=eth0'",
        "GLOO_SOCKET_IFNAME=enp5s0",
    ),
    Situation(
        "ufw",
        (several(), {"files": {"/etc/ufw/ufw.conf": "# on\nENABLED=yes\n"}}),
        "network.firewall",
        "warning",
        "ufw",
        "sudo ufw allow in on enp5s0",
    ),
    Situation(
        "firewalld",
        (distribution("fedora-42"), several(), {"commands": [{"command": ["firewall-cmd", "--state"], "stdout": "running\n"}]}),
        "network.firewall",
        "warning",
        "firewalld",
        "sudo firewall-cmd --permanent --zone=trusted --add-interface=enp5s0",
    ),
    Situation(
        "offline", ({"environ": {"HF_HUB_OFFLINE": "1"}},), "network.offline", "note", "HF_HUB_OFFLINE", "unset HF_HUB_OFFLINE"
    ),
    Situation(
        "proxy", ({"environ": {"HTTPS_PROXY": "http://me:secret@proxy:3128"}},), "network.proxy", "note", "http://proxy:3128"
    ),
    Situation(
        "socks",
        ({"environ": {"ALL_PROXY": "socks5://proxy:1080"}},),
        "network.proxy",
        "warning",
        "SOCKS",
        "-m pip install socksio",
    ),
    Situation(
        "no network",
        ({"files": {"/proc/net/route": "Iface\tDestination\n", "/proc/net/ipv6_route": ""}},),
        "network.route",
        "note",
        "no default route",
    ),
    Situation(
        "powersave",
        ({"files": {f"{CPUFREQ}/scaling_governor": "powersave\n", f"{CPUFREQ}/scaling_driver": "acpi-cpufreq\n"}},),
        "power.governor",
        "warning",
        "acpi-cpufreq",
        "echo performance | sudo tee",
    ),
    Situation("hot", ({"files": {"/sys/class/thermal/thermal_zone0/temp": "97000\n"}},), "power.heat", "warning", "97 °C"),
    Situation("was hot", ({"files": {THROTTLE: "12\n"}},), "power.heat", "note", "12 times"),
    Situation("battery", (BATTERY,), "power.battery", "note", "battery"),
    Situation(
        "windows saves power", (WINDOWS,), "power.governor", "warning", "Power saver", "powercfg /setactive SCHEME_BALANCED"
    ),
    Situation(
        "windows without numba", (WINDOWS, python_facts(packages=packages(numba=None))), "python.packages", "error", "numba", "& "
    ),
    Situation(
        "rosetta", (MACOS, python_facts(machine="x86_64")), "python.machine", "warning", "Rosetta", "brew install python@3.12"
    ),
    Situation("a mac's battery", (MACOS,), "power.battery", "note", "battery"),
)
