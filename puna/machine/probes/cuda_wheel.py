"""Does the installed PyTorch fit the driver? Checked without importing it; `gpu_self_test` checks whether it runs."""

from __future__ import annotations

import re
from collections.abc import Iterator

from puna.machine import nvidia_smi
from puna.machine.cuda_versions import Version, branch, index_of, newest_cuda, oldest_driver, recommended, version, written
from puna.machine.environment import environment
from puna.machine.finding import Finding, Remedy
from puna.machine.installed_torch import InstalledTorch, installed_torch
from puna.machine.kernel_module import kernel_module
from puna.machine.probes.base import Patient
from puna.machine.probes.nvidia_card import capability, is_expected
from puna.machine.probes.nvidia_module import driver_remedy

CHECK = "torch.build"
NO_GPU = "models run on the CPU"
CUDA_LIBRARIES = re.compile(r"cuda|cudnn|nccl|tensorrt", re.IGNORECASE)


def cuda_wheel(patient: Patient) -> Iterator[Finding]:
    """PyTorch against the driver, Triton, and variables that hide cards or libraries. No findings without a card."""
    if not is_expected(patient):
        return
    torch = patient.once(installed_torch)
    if torch is None:
        yield Finding(CHECK, "note", "this Python does not say which PyTorch is installed", device="cuda")
    else:
        yield _build(patient, torch)
        yield from _triton(patient, torch)
        yield from _several(patient, torch)
    yield from _hidden(patient)
    yield from _libraries(patient)


def driver_version(patient: Patient) -> str:
    """The driver's version, from nvidia-smi or the loaded module; "" if unknown."""
    told = next((gpu.driver for gpu in patient.once(nvidia_smi.query).gpus if branch(gpu.driver)), "")
    return told or patient.once(kernel_module).version


def torch_remedy(patient: Patient, name: str) -> Remedy:
    """The PyTorch for this card and this driver."""
    cuda = recommended(capability(patient), driver_version(patient))
    if cuda is None:
        return patient.remedy("no-gpu-torch")
    return patient.remedy(name, cuda=written(cuda), index=index_of(cuda))


# ---- PyTorch


def _build(patient: Patient, torch: InstalledTorch) -> Finding:
    if not torch.torch:
        return _error(torch.absence, torch_remedy(patient, "install-gpu-torch"))
    if torch.hip:
        found = f"PyTorch {torch.torch} was built for AMD's cards (ROCm {torch.hip})"
        return _error(found, torch_remedy(patient, "replace-torch"))
    cuda = version(torch.cuda)
    if cuda is None:
        return _error(f"PyTorch {torch.torch} was built without CUDA, for the CPU only", torch_remedy(patient, "replace-torch"))
    return _against_driver(patient, torch, cuda)


def _against_driver(patient: Patient, torch: InstalledTorch, cuda: Version) -> Finding:
    driver = driver_version(patient)
    built = f"PyTorch {torch.torch} was built for CUDA {written(cuda)}"
    known = newest_cuda(driver)
    if known is None:
        return Finding(CHECK, "ok", f"{built}; the driver's version is unknown", device="cuda")
    if branch(driver) < oldest_driver(cuda):
        found = f"{built}, which needs driver {oldest_driver(cuda)} or later; this one is {driver} (CUDA {written(known)})"
        return Finding("torch.driver", "error", found, NO_GPU, _older_torch_or_newer_driver(patient, cuda), "cuda")
    if cuda > known:
        found = f"{built}; the driver {driver} knows CUDA up to {written(known)}, which runs it by minor version compatibility"
        return Finding("torch.driver", "note", found, "most programs run; a newer driver runs all", device="cuda")
    return Finding(CHECK, "ok", f"{built}; the driver {driver} knows CUDA up to {written(known)}", device="cuda")


def _older_torch_or_newer_driver(patient: Patient, cuda: Version) -> Remedy:
    """A PyTorch for an older CUDA if one supports this card: pip needs no root rights and no restart."""
    if recommended(capability(patient), driver_version(patient)) is not None:
        return torch_remedy(patient, "replace-torch")
    return driver_remedy(patient, "update-nvidia-driver", wanted=oldest_driver(cuda), package="580-open")


def _error(found: str, remedy: Remedy) -> Finding:
    return Finding(CHECK, "error", found, NO_GPU, remedy, "cuda")


def _triton(patient: Patient, torch: InstalledTorch) -> Iterator[Finding]:
    if torch.needs_triton:
        effect = "the GPU computes with plain PyTorch, many times slower"
        yield Finding("torch.triton", "warning", "Triton is not installed", effect, patient.remedy("install-triton"), "cuda")


def _several(patient: Patient, torch: InstalledTorch) -> Iterator[Finding]:
    if len(torch.folders) > 1:
        found = f"there are {len(torch.folders)} PyTorches: {', '.join(torch.folders)}"
        yield Finding(
            "torch.several", "warning", found, "Python may mix their libraries", patient.remedy("remove-second-torch"), "cuda"
        )


# ---- the environment


def visible_cards(patient: Patient) -> int | None:
    """The number of cards that CUDA_VISIBLE_DEVICES shows; None if it is not set."""
    shown = patient.host.environ.get("CUDA_VISIBLE_DEVICES")
    names = [entry.strip() for entry in (shown or "").split(",")]
    return None if shown is None else _visible(names, [gpu.uuid for gpu in patient.once(nvidia_smi.query).gpus])


def _hidden(patient: Patient) -> Iterator[Finding]:
    visible = visible_cards(patient)
    if visible is None:
        return
    gpus = patient.once(nvidia_smi.query).gpus
    said = f"CUDA_VISIBLE_DEVICES is {patient.host.environ['CUDA_VISIBLE_DEVICES'][:80]!r}"
    if not visible:
        found = f"{said}: it hides {'all cards' if len(gpus) != 1 else 'the card'}"
        yield Finding("cuda.visible", "error", found, NO_GPU, patient.remedy("show-all-cards"), "cuda")
    elif gpus and visible < len(gpus):
        yield Finding("cuda.visible", "note", f"{said}: programs can use {visible} of {len(gpus)} cards", device="cuda")


def _visible(names: list[str], uuids: list[str]) -> int:
    """CUDA reads a list up to the first unknown entry; "" and "-1" are empty lists.

    >>> two = ["GPU-a", "GPU-b"]
    >>> _visible(["1", "0"], two), _visible(["-1"], two), _visible([""], two), _visible(["GPU-b"], two), _visible(["0", "7"], two)
    (2, 0, 0, 1, 1)
    """
    for count, name in enumerate(names):
        is_number = name.isdecimal() and (not uuids or int(name) < len(uuids))
        is_uuid = name.startswith("GPU-") and (not any(uuids) or any(uuid.startswith(name) for uuid in uuids))
        if not (is_number or is_uuid or name.startswith("MIG-")):
            return count
    return len(names)


def _libraries(patient: Patient) -> Iterator[Finding]:
    if patient.once(environment) == "windows":
        return
    paths = (patient.host.environ.get("LD_LIBRARY_PATH") or "").split(":")
    others = [path for path in paths if CUDA_LIBRARIES.search(path) and "/wsl/" not in path]
    if others:
        found = f"LD_LIBRARY_PATH puts {', '.join(others)[:200]} before the CUDA libraries that PyTorch brings"
        effect = "PyTorch may load libraries of another version: undefined symbols, cuDNN errors"
        yield Finding("cuda.libraries", "note", found, effect, patient.remedy("unset-library-path"), "cuda")
