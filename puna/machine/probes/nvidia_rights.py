"""May this user, container or WSL open the card? Checks its device files, groups, and libcuda."""

from __future__ import annotations

import os
from collections.abc import Iterator

from puna.machine import nvidia_smi
from puna.machine.environment import environment
from puna.machine.finding import Finding, Remedy
from puna.machine.kernel_module import kernel_module
from puna.machine.probes.base import Patient
from puna.machine.probes.nvidia_card import is_expected
from puna.units import counted

CHECK = "nvidia.devices"
NO_GPU = "no program can use the card: models run on the CPU"
NEEDED = ("/dev/nvidiactl", "/dev/nvidia-uvm")
WSL_LIBRARY = "/usr/lib/wsl/lib/libcuda.so.1"
LINUX_LIBRARIES = ("/usr/lib/x86_64-linux-gnu/libcuda.so.1", "/usr/lib64/libcuda.so.1", "/usr/lib/libcuda.so.1")


def nvidia_rights(patient: Patient) -> Iterator[Finding]:
    """What keeps this process from using an existing card."""
    where = patient.once(environment)
    if where == "wsl-2":  # the probe `wsl` reports WSL 1, which has no GPU
        yield from _wsl(patient)
    elif where in ("windows", "macos"):
        yield from _no_linux(patient)
    elif is_expected(patient) and patient.once(kernel_module).is_loaded:
        yield from _devices(patient)


# ---- Linux


def _devices(patient: Patient) -> Iterator[Finding]:
    host = patient.host
    cards = [f"/dev/{name}" for name in host.listing("/dev") if name.removeprefix("nvidia").isdigit()]
    absent = [path for path in NEEDED if not host.exists(path)] + ([] if cards else ["/dev/nvidia0"])
    if patient.once(environment) == "container" and (not cards or "/dev/nvidiactl" in absent):
        found = f"this container was started without the GPU: it has no {', '.join(absent)}"
        yield _error(found, patient.remedy("container-toolkit"))
    elif absent:
        found = f"the driver is loaded, but its device files are missing: {', '.join(absent)}"
        yield _error(found, patient.remedy("make-device-files"))
    elif closed := [path for path in (*NEEDED, *cards) if not (host.may(path, os.R_OK) and host.may(path, os.W_OK))]:
        found = f"this user may not open {', '.join(closed)}"
        yield _error(found, patient.remedy("join-device-group", group=_group(patient)))
    else:
        yield Finding(CHECK, "ok", f"this user may open the device files of {counted(len(cards), 'card')}", device="cuda")


def _group(patient: Patient) -> str:
    """The group for graphics on Debian and Ubuntu, or for computing elsewhere."""
    groups = patient.host.read("/etc/group") or ""
    return next((name for name in ("video", "render") if f"\n{name}:" in f"\n{groups}"), "video")


def _error(found: str, remedy: Remedy) -> Finding:
    return Finding(CHECK, "error", found, NO_GPU, remedy, "cuda")


# ---- WSL, Windows, macOS


def _wsl(patient: Patient) -> Iterator[Finding]:
    host = patient.host
    if not host.exists("/dev/dxg"):
        yield _wsl_error("WSL does not pass the GPU through: there is no /dev/dxg", patient.remedy("update-wsl"), patient)
    elif not host.exists(WSL_LIBRARY):
        found = f"Windows has no NVIDIA driver for WSL: there is no {WSL_LIBRARY}"
        yield _wsl_error(found, patient.remedy("install-nvidia-driver"), patient)
    elif inside := [path for path in LINUX_LIBRARIES if host.exists(path)]:
        found = f"a Linux driver is installed inside WSL: {inside[0]} hides Windows's {WSL_LIBRARY}"
        works = bool(patient.once(nvidia_smi.query).gpus)
        effect = "programs may load the wrong one" if works else NO_GPU
        yield Finding("nvidia.wsl", "warning" if works else "error", found, effect, patient.remedy("remove-linux-driver"), "cuda")
    else:
        yield Finding("nvidia.wsl", "ok", "WSL passes the GPU through, with the Windows driver", device="cuda")


def _wsl_error(found: str, remedy: Remedy, patient: Patient) -> Finding:
    """WSL does not show whether Windows has a card: an error only if one is requested."""
    return Finding("nvidia.wsl", "error" if patient.device.startswith("cuda") else "note", found, NO_GPU, remedy, "cuda")


def _no_linux(patient: Patient) -> Iterator[Finding]:
    is_wanted = patient.device.startswith("cuda")
    if patient.once(environment) == "macos":
        found, remedy = "macOS has no driver for NVIDIA cards", None
    elif patient.once(nvidia_smi.query).gpus:
        return
    else:
        found, remedy = "there is no NVIDIA driver, or no card", patient.remedy("install-nvidia-driver")
    yield Finding("nvidia.driver", "error" if is_wanted else "note", found, NO_GPU, remedy if is_wanted else None, "cuda")
