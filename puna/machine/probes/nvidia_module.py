"""Is the driver loaded? If not, why: not installed, not built for this kernel, blocked by Secure Boot, or nouveau."""

from __future__ import annotations

from collections.abc import Iterator

from puna.machine import cuda_versions, pci
from puna.machine.environment import environment
from puna.machine.finding import Finding, Remedy
from puna.machine.kernel_module import DkmsBuild, KernelModule, dkms_builds, kernel_log, kernel_module, secure_boot, signing_key
from puna.machine.probes.base import Patient
from puna.machine.probes.nvidia_card import is_expected

CHECK = "nvidia.module"
NOT_LOADED = "the driver is not loaded: models run on the CPU"
REFUSED = (
    "key was rejected",
    "required key not available",
    "unsigned module",
    "unavailable key",
    "not signed with a trusted key",
)
LOADED_ALL_THE_SAME = "tainting kernel"
TRUSTED_SIGNERS = ("Canonical", "Debian")  # systems whose kernels trust the modules that they ship


def nvidia_module(patient: Patient) -> Iterator[Finding]:
    """The state of the module, and of Secure Boot, which may block it. WSL and Windows have no module."""
    if patient.once(environment) not in ("bare", "container") or not is_expected(patient):
        return
    module = patient.once(kernel_module)
    if module.is_loaded:
        yield _fit(patient, module)
    elif patient.once(environment) == "container":
        found = "the host's kernel has not loaded the module nvidia"
        yield Finding(CHECK, "error", found, NOT_LOADED, patient.remedy("load-nvidia-module"), "cuda")
    else:
        yield _missing(patient, module)
    yield from _mok(patient, module)


# ---- loaded


def _fit(patient: Patient, module: KernelModule) -> Finding:
    """A loaded module must be the open or proprietary one, as the card needs."""
    kind = {True: "open ", False: "proprietary ", None: ""}[module.is_open]
    found = f"the {kind}module nvidia {module.version} is loaded"
    for card in patient.once(pci.nvidia_cards):
        if (remedy := _other_kind(patient, module, card)) is not None:
            found += f"; {card.words} is a {card.generation.name} card, which needs the {_needed(card)}"
            return Finding("nvidia.module-kind", "error", found, "the driver does not support the card", remedy, "cuda")
    return Finding(CHECK, "ok", found, device="cuda")


def _needed(card: pci.PciCard) -> str:
    return "open one" if card.generation.capability >= cuda_versions.OPEN_FROM else "proprietary one, branch 580 or before"


def _other_kind(patient: Patient, module: KernelModule, card: pci.PciCard) -> Remedy | None:
    capability = card.generation.capability
    branch = cuda_versions.branch(module.version)
    if capability >= cuda_versions.OPEN_ONLY_FROM and module.is_open is False:
        return patient.remedy("open-kernel-module", generation=card.generation.name, package="580-open")
    if capability < cuda_versions.OPEN_FROM and (module.is_open or branch > cuda_versions.NEWEST_PROPRIETARY):
        return patient.remedy("proprietary-kernel-module", generation=card.generation.name)
    return None


# ---- not loaded


def _missing(patient: Patient, module: KernelModule) -> Finding:
    """The first reason that applies, from the outermost inwards."""
    builds = patient.once(dkms_builds)
    for reason in (_uninstalled, _restart_pending, _unbuilt, _rejected, _displaced):
        if (finding := reason(patient, module, builds)) is not None:
            return finding
    found = f"the module nvidia for kernel {module.release} is built but not loaded"
    return _error(found, patient.remedy("load-nvidia-module"))


def _uninstalled(patient: Patient, module: KernelModule, builds: tuple[DkmsBuild, ...]) -> Finding | None:
    if module.is_built or module.built_for or builds:
        return None
    instead = "; the free driver nouveau uses the card, and cannot compute" if module.is_nouveau_loaded else ""
    return _error(f"NVIDIA's driver is not installed{instead}", driver_remedy(patient, "install-nvidia-driver"))


def _restart_pending(patient: Patient, module: KernelModule, builds: tuple[DkmsBuild, ...]) -> Finding | None:
    if module.has_own_folder or not module.built_for:
        return None
    installed = module.built_for[-1]
    found = f"the kernel was updated to {installed}: {module.release} still runs, but its modules are gone"
    return _error(found, patient.remedy("restart-into-kernel", installed=installed))


def _unbuilt(patient: Patient, module: KernelModule, builds: tuple[DkmsBuild, ...]) -> Finding | None:
    if module.is_built:
        return None
    kernels = list(dict.fromkeys([*module.built_for, *(build.kernel for build in builds if build.kernel)]))
    for_others = f"; there is one for {', '.join(kernels[-3:])}" if kernels else ""
    found = f"there is no module nvidia for the running kernel, {module.release}{for_others}"
    if module.has_headers:
        return _error(found, patient.remedy("rebuild-nvidia-module", release=module.release))
    flavour = module.release.rsplit("-", 1)[-1]
    found += f", nor its headers to build one: /lib/modules/{module.release}/build is missing"
    return _error(found, patient.remedy("install-kernel-headers", release=module.release, flavour=flavour), "nvidia.headers")


def _rejected(patient: Patient, module: KernelModule, builds: tuple[DkmsBuild, ...]) -> Finding | None:
    """Secure Boot loads modules signed with a key in the firmware or in the owner's list (MOK)."""
    if not patient.once(secure_boot):
        return None
    key = patient.once(signing_key)
    is_refused = _is_refused(patient)
    if key.state == "waiting":
        found = "Secure Boot is on; confirm the key of the module nvidia at the next start"
        return _error(found, patient.remedy("confirm-mok-key"), "nvidia.secure-boot")
    if module.signer == "" or (is_refused and (not key.path or key.state == "enrolled")):
        found = (
            f"Secure Boot is on, and the module nvidia is not signed{'' if module.signer == '' else ' by a key that it trusts'}"
        )
        return _error(found, patient.remedy("sign-nvidia-module", key=key.path or _new_key(patient)), "nvidia.secure-boot")
    is_shipped = (module.signer or "").startswith(TRUSTED_SIGNERS)
    if is_refused or (key.state == "unknown" and not is_shipped):
        found = f"Secure Boot is on, and the module nvidia is not signed by a key that it trusts: {key.path} is not enrolled"
        return _error(found, patient.remedy("enroll-mok-key", key=key.path), "nvidia.secure-boot")
    return None


def _is_refused(patient: Patient) -> bool:
    lines = (line.text.lower() for line in patient.once(kernel_log) or ())
    return any(words in line for line in lines if LOADED_ALL_THE_SAME not in line for words in REFUSED)


def _new_key(patient: Patient) -> str:
    """The path of the key that the system's tool makes."""
    keys = {"ubuntu": "/var/lib/shim-signed/mok/MOK.der", "fedora": "/etc/pki/akmods/certs/public_key.der"}
    return keys.get(patient.distribution, "/var/lib/dkms/mok.pub")


def _displaced(patient: Patient, module: KernelModule, builds: tuple[DkmsBuild, ...]) -> Finding | None:
    if not module.is_nouveau_loaded:
        return None
    found = "the free driver nouveau uses the card, so NVIDIA's installed driver cannot"
    return _error(found, patient.remedy("blacklist-nouveau"), "nvidia.nouveau")


def _error(found: str, remedy: Remedy, check: str = CHECK) -> Finding:
    return Finding(check, "error", found, NOT_LOADED, remedy, "cuda")


def driver_remedy(patient: Patient, name: str, **values: object) -> Remedy:
    """The remedy, with the driver that a card before Turing needs."""
    old = [card for card in patient.once(pci.nvidia_cards) if card.generation.capability < cuda_versions.OPEN_FROM]
    if old and patient.once(environment) in ("bare", "container"):
        return patient.remedy("proprietary-kernel-module", generation=old[0].generation.name)
    return patient.remedy(name, **values)


# ---- Secure Boot with a trusted module


def _mok(patient: Patient, module: KernelModule) -> Iterator[Finding]:
    if not module.is_loaded or patient.once(environment) != "bare":
        return
    is_on = patient.once(secure_boot)
    if is_on is not None:
        found = "Secure Boot is on and trusts the module's key" if is_on else "Secure Boot is off"
        yield Finding("nvidia.secure-boot", "ok", found, device="cuda")
