"""What nvidia-smi reports: the driver, memory and its users, heat, power, errors, the link, MIG."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from puna.machine import nvidia_smi as smi
from puna.machine.cuda_versions import branch, newest_cuda, written
from puna.machine.environment import environment
from puna.machine.finding import Finding, Remedy
from puna.machine.kernel_module import kernel_module
from puna.machine.nvidia_smi import Gpu, MemoryUser, Trouble, TroubleKind
from puna.machine.probes.base import Patient
from puna.machine.probes.nvidia_card import is_expected
from puna.machine.probes.nvidia_module import driver_remedy
from puna.units import GIB

CHECK = "nvidia.smi"
NO_GPU = "no program can use the card: models run on the CPU"
MUCH, SOME = 0.5, 0.1  # shares of a card's memory that others use: few models fit; worth a note
THERMAL, POWER_BRAKE, HARDWARE, POWER_CAP = 0x60, 0x80, 0x08, 0x04  # bits of the clock reasons
LESS_POWER = 0.7  # share of the power limit, for a card that is too hot


def nvidia_smi(patient: Patient) -> Iterator[Finding]:
    """The driver's answer, and its report on each card."""
    if not is_expected(patient):
        return
    answer = patient.once(smi.query)
    if answer.trouble is not None:
        yield from _trouble(patient, answer.trouble)
    users = patient.once(smi.memory_users) if answer.gpus else ()
    for gpu in answer.gpus:
        yield _told(gpu)
        for look in (_memory, _heat, _power, _errors, _link, _mig, _persistence):
            yield from look(patient, gpu, users)


def _told(gpu: Gpu) -> Finding:
    cuda = newest_cuda(gpu.driver)
    up_to = f", CUDA up to {written(cuda)}" if cuda else ""
    memory = f"{gpu.free_bytes / GIB:.1f} of {gpu.total_bytes / GIB:.1f} GiB free" if gpu.total_bytes else "memory unknown"
    return Finding(CHECK, "ok", f"GPU {gpu.number}: {gpu.name}, {memory}, driver {gpu.driver}{up_to}", device="cuda")


# ---- no answer


def _trouble(patient: Patient, trouble: Trouble) -> Iterator[Finding]:
    module = patient.once(kernel_module)
    is_linux = patient.once(environment) in ("bare", "container")
    if is_linux and not module.is_loaded and trouble.kind in ("absent", "no-driver", "unknown"):
        return  # nvidia.module reports the cause
    if patient.once(environment) == "wsl-2" and trouble.kind in ("absent", "no-driver", "no-devices", "unknown"):
        return  # nvidia.rights reports what WSL lacks
    if patient.once(environment) == "container" and trouble.kind in ("absent", "no-driver") and not _has_devices(patient):
        return  # nvidia.rights, too
    found, remedy = TROUBLES[trouble.kind](patient, trouble)
    yield Finding(CHECK, "error", found, NO_GPU, remedy, "cuda")


def _has_devices(patient: Patient) -> bool:
    return patient.host.exists("/dev/nvidiactl")


def _absent(patient: Patient, trouble: Trouble) -> tuple[str, Remedy]:
    version = patient.once(kernel_module).version
    found = f"the module nvidia {version} is loaded, but nvidia-smi is missing: the driver's computing package is not installed"
    return found, patient.remedy("install-cuda-library", version=version, branch=branch(version) or 580)


def _hung(patient: Patient, trouble: Trouble) -> tuple[str, Remedy]:
    return f"{trouble.words}: the card or its driver hangs", patient.remedy("restart", why="only a restart ends a hung driver")


def _mismatch(patient: Patient, trouble: Trouble) -> tuple[str, Remedy]:
    loaded = patient.once(kernel_module).version
    found = f"the driver was updated and the old module {loaded} is still loaded: {trouble.words}".replace("  ", " ")
    return found, patient.remedy("restart", why="this loads the new module")


def _no_driver(patient: Patient, trouble: Trouble) -> tuple[str, Remedy]:
    return f"nvidia-smi reaches no driver: {trouble.words}", driver_remedy(patient, "install-nvidia-driver")


def _no_devices(patient: Patient, trouble: Trouble) -> tuple[str, Remedy]:
    found = 'nvidia-smi says "No devices were found": the module is loaded, but cannot use the card'
    return found, patient.remedy("check-card")


def _no_rights(patient: Patient, trouble: Trouble) -> tuple[str, Remedy]:
    return f"this user may not use the card: {trouble.words}", patient.remedy("join-device-group", group="video")


def _needs_reset(patient: Patient, trouble: Trouble) -> tuple[str, Remedy]:
    return f"a card needs a reset: {trouble.words}", patient.remedy("reset-card", number=0)


def _unknown(patient: Patient, trouble: Trouble) -> tuple[str, Remedy]:
    if patient.once(environment) == "container" and "unknown error" in trouble.words.lower():
        found = f"the container has lost its right to the card: {trouble.words}"
        return found, patient.remedy("restart-container", container=_container(patient))
    return f"nvidia-smi fails: {trouble.words}", patient.remedy("restart", why="then run nvidia-smi again")


def _container(patient: Patient) -> str:
    """Docker uses the container's id as its host name."""
    name = patient.host.environ.get("HOSTNAME", "")
    return name if re.fullmatch(r"[\w.-]{1,64}", name, re.ASCII) else "NAME"


TROUBLES: dict[TroubleKind, Callable[[Patient, Trouble], tuple[str, Remedy]]] = {
    "absent": _absent,
    "hung": _hung,
    "mismatch": _mismatch,
    "no-driver": _no_driver,
    "no-devices": _no_devices,
    "no-rights": _no_rights,
    "needs-reset": _needs_reset,
    "unknown": _unknown,
}


# ---- findings about one card


def _memory(patient: Patient, gpu: Gpu, users: tuple[MemoryUser, ...]) -> Iterator[Finding]:
    mine = [user for user in users if not gpu.uuid or user.uuid == gpu.uuid]
    share = 1 - gpu.free_bytes / gpu.total_bytes if gpu.total_bytes else 0.0
    if share < SOME and not mine:
        return
    who = ", ".join(f"{user.program} ({_size(user.used_bytes)}pid {user.pid})" for user in mine[:6])
    found = f"GPU {gpu.number}: {(gpu.total_bytes - gpu.free_bytes) / GIB:.1f} of {gpu.total_bytes / GIB:.1f} GiB are in use"
    found += f": {who}" if who else " by the screen or by programs that are not visible here"
    effect = f"{gpu.free_bytes / GIB:.1f} GiB remain for weights and context"
    remedy = patient.remedy("free-gpu-memory", programs=who, pid=mine[0].pid) if mine else None
    yield Finding("nvidia.memory", "warning" if share >= MUCH else "note", found, effect, remedy, "cuda")


def _size(used_bytes: int | None) -> str:
    return "" if used_bytes is None else f"{used_bytes / GIB:.1f} GiB, "


def _heat(patient: Patient, gpu: Gpu, users: tuple[MemoryUser, ...]) -> Iterator[Finding]:
    reasons = gpu.clock_reasons or 0
    if not reasons & THERMAL:
        return
    degrees = f" at {gpu.temperature_c:.0f} C" if gpu.temperature_c is not None else ""
    watts = round((gpu.power_limit_w or 0) * LESS_POWER) or 100
    found = f"GPU {gpu.number} slows down because it is too hot{degrees}"
    yield Finding(
        "nvidia.heat",
        "warning",
        found,
        "fewer tokens a second",
        patient.remedy("cool-card", number=gpu.number, watts=watts),
        "cuda",
    )


def _power(patient: Patient, gpu: Gpu, users: tuple[MemoryUser, ...]) -> Iterator[Finding]:
    reasons, limit, default = gpu.clock_reasons or 0, gpu.power_limit_w, gpu.default_power_limit_w
    if reasons & POWER_BRAKE or (reasons & HARDWARE and not reasons & THERMAL):
        found = f"the power supply or its cable makes GPU {gpu.number} slow down"
        yield Finding("nvidia.power", "warning", found, "it runs at half its clock or less", patient.remedy("check-card"), "cuda")
    elif limit and default and limit < default - 1:
        found = f"GPU {gpu.number}'s power is limited to {limit:.0f} W; its own limit is {default:.0f} W"
        remedy = patient.remedy("default-power-limit", number=gpu.number, watts=round(default))
        yield Finding("nvidia.power", "note", found, "long prompts take longer", remedy, "cuda")
    elif reasons & POWER_CAP:
        at = f" of {limit:.0f} W" if limit else ""
        yield Finding(
            "nvidia.power",
            "note",
            f"GPU {gpu.number} works at its power limit{at}, which is normal for a busy card",
            device="cuda",
        )


def _errors(patient: Patient, gpu: Gpu, users: tuple[MemoryUser, ...]) -> Iterator[Finding]:
    if gpu.ecc_errors:
        found = f"GPU {gpu.number}: {gpu.ecc_errors} memory errors since the driver was loaded that ECC could not correct"
        yield Finding("nvidia.ecc", "warning", found, "programs on the card fail", patient.remedy("replace-card"), "cuda")


def _link(patient: Patient, gpu: Gpu, users: tuple[MemoryUser, ...]) -> Iterator[Finding]:
    """The PCIe generation drops while a card idles; the width does not."""
    width, most = gpu.link_width, gpu.max_link_width
    if width and most and width < most:
        found = f"GPU {gpu.number} uses {width} of {most} PCI Express lanes"
        effect = "loading takes longer, and each token too if weights stay in main memory"
        yield Finding("nvidia.link", "note", found, effect, device="cuda")
    is_busy = gpu.performance_state in ("P0", "P1")
    if is_busy and gpu.link_generation and gpu.max_link_generation and gpu.link_generation < gpu.max_link_generation:
        found = f"GPU {gpu.number} uses PCI Express {gpu.link_generation}.0; {gpu.max_link_generation}.0 is possible"
        yield Finding("nvidia.link", "note", found, "loading takes longer", device="cuda")


def _mig(patient: Patient, gpu: Gpu, users: tuple[MemoryUser, ...]) -> Iterator[Finding]:
    if not gpu.is_mig:
        return
    parts = patient.once(smi.mig_instances)
    if parts:
        found = f"GPU {gpu.number} is divided (MIG) into {parts} parts"
        effect = "a program sees one part, with that part's memory"
        yield Finding("nvidia.mig", "note", found, effect, patient.remedy("turn-mig-off", number=gpu.number), "cuda")
    else:
        found = f"GPU {gpu.number} is in MIG mode but has no parts"
        yield Finding("nvidia.mig", "error", found, NO_GPU, patient.remedy("make-mig-instance", number=gpu.number), "cuda")


def _persistence(patient: Patient, gpu: Gpu, users: tuple[MemoryUser, ...]) -> Iterator[Finding]:
    if gpu.is_persistent is False and gpu.has_display is False and patient.once(environment) == "bare":
        found = f"GPU {gpu.number} has no screen and no persistence mode: the driver unloads it between programs"
        yield Finding(
            "nvidia.persistence", "note", found, "each start takes seconds longer", patient.remedy("keep-driver-loaded"), "cuda"
        )
