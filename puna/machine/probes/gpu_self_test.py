"""Does the GPU compute correctly? A child with a time limit tests memory, a product, a kernel of puna, and rates."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from puna.machine import nvidia_smi
from puna.machine.cuda_versions import index_of, recommended, written
from puna.machine.finding import Finding, Remedy
from puna.machine.installed_torch import InstalledTorch, installed_torch
from puna.machine.planning.cards import find_card
from puna.machine.probes.base import Patient
from puna.machine.probes.cuda_wheel import driver_version, torch_remedy, visible_cards
from puna.machine.probes.nvidia_card import is_expected
from puna.machine.probes.nvidia_module import driver_remedy
from puna.machine.self_test import CheckedGpu, SelfTest, self_test
from puna.machine.started_torch import torch_problem

CHECK = "gpu.trial"
NO_GPU = "models run on the CPU"
SLOW = 0.6  # of the data sheet's bandwidth; a copy reaches about nine tenths


def gpu_self_test(patient: Patient) -> Iterator[Finding]:
    """Runs only if a card, a driver and a PyTorch with CUDA seem to exist, or if CUDA is requested."""
    if not is_worth_it(patient):
        return
    told = patient.once(self_test)
    if told.problem or (told.failure and not patient.once(torch_problem)):  # else `torch_start` says why
        yield _failed(patient, told)
    for gpu in told.gpus:
        yield from _gpu(patient, told, gpu)
    if told.gpus:
        patient.facts["gpus"] = [_fact(gpu) for gpu in told.gpus]


def is_worth_it(patient: Patient) -> bool:
    torch = patient.once(installed_torch) or InstalledTorch()
    if patient.device in ("cpu", "torch") or not torch.torch or visible_cards(patient) == 0:
        return False
    has_driver = is_expected(patient) and bool(patient.once(nvidia_smi.query).gpus)
    return bool(torch.cuda) and (has_driver or patient.device.startswith("cuda"))


# ---- CUDA does not start

# Words of `backends/torch/device.py` -> the remedy.
CURES: tuple[tuple[str, Callable[[Patient], Remedy]], ...] = (
    ("older than the installed PyTorch needs", lambda patient: torch_remedy(patient, "replace-torch")),
    ("no NVIDIA driver", lambda patient: driver_remedy(patient, "install-nvidia-driver")),
    ("finds no card", lambda patient: patient.remedy("show-all-cards")),
    ("lost while the machine slept", lambda patient: patient.remedy("reload-uvm")),
    ("did not end within", lambda patient: patient.remedy("restart", why="the card or its driver hangs")),
    (".so", lambda patient: torch_remedy(patient, "replace-torch")),
    ("symbol", lambda patient: torch_remedy(patient, "replace-torch")),
)


def _failed(patient: Patient, told: SelfTest) -> Finding:
    words = told.problem or told.failure
    remedy = next((cure(patient) for said, cure in CURES if said in words), None)
    return Finding(CHECK, "error", f"the GPU test failed: {words}", NO_GPU, remedy, "cuda")


# ---- one GPU


def _gpu(patient: Patient, told: SelfTest, gpu: CheckedGpu) -> Iterator[Finding]:
    who = f"GPU {gpu.number}, {gpu.name}"
    failed = [words for name, words in gpu.checks if words != "ok" and (told.triton or name != "kernel")]
    if not gpu.has_code:
        yield _no_code(patient, told, gpu)
    elif failed:
        yield from (_wrong(patient, who, words) for words in failed)
    else:
        checked = (
            "memory, a product and one of puna's kernels passed the test"
            if told.triton
            else "memory and a product passed the test"
        )
        yield Finding(CHECK, "ok", f"{who}: {checked}{_rates(gpu)}", device="cuda")
        yield from _slow(patient, gpu)


def _no_code(patient: Patient, told: SelfTest, gpu: CheckedGpu) -> Finding:
    cuda = recommended(gpu.capability, driver_version(patient))
    remedy = patient.remedy("no-gpu-torch")
    if cuda is not None:
        remedy = patient.remedy("replace-torch", cuda=written(cuda), index=index_of(cuda))
    found = gpu.problem or f"PyTorch {told.torch} has no code for {gpu.name}"
    return Finding("torch.capability", "error", found, "the first kernel would end the program: " + NO_GPU, remedy, "cuda")


# Error words of CUDA and Triton that end a check -> the remedy.
FAULTS: tuple[tuple[str, Callable[[Patient], Remedy]], ...] = (
    ("c compiler", lambda patient: patient.remedy("install-compiler")),
    ("gcc", lambda patient: patient.remedy("install-compiler")),
    ("out of memory", lambda patient: patient.remedy("see-gpu-memory")),
    ("unknown error", lambda patient: patient.remedy("reload-uvm")),
)


def _wrong(patient: Patient, who: str, words: str) -> Finding:
    remedy = next((cure(patient) for said, cure in FAULTS if said in words.lower()), None) or patient.remedy("check-card")
    return Finding(CHECK, "error", f"{who}: {words}", f"its results may be wrong: {NO_GPU}", remedy, "cuda")


def _rates(gpu: CheckedGpu) -> str:
    card = find_card(gpu.name)
    of = f" (its data sheet: {card.gb_per_s})" if card else ""
    memory = f"; its memory is copied at {gpu.memory_gb_per_s:.0f} GB/s{of}" if gpu.memory_gb_per_s else ""
    return memory + (f", from main memory at {gpu.host_gb_per_s:.0f} GB/s" if gpu.host_gb_per_s else "")


def _slow(patient: Patient, gpu: CheckedGpu) -> Iterator[Finding]:
    card = find_card(gpu.name)
    if card and 0 < gpu.memory_gb_per_s < SLOW * card.gb_per_s:
        share = gpu.memory_gb_per_s / card.gb_per_s
        found = (
            f"GPU {gpu.number}'s memory reaches {gpu.memory_gb_per_s:.0f} GB/s, {share:.0%} of its data sheet's {card.gb_per_s}"
        )
        yield Finding("gpu.bandwidth", "warning", found, f"about {share:.0%} of the tokens a second that it could", device="cuda")


def _fact(gpu: CheckedGpu) -> dict[str, object]:
    """For `--json` and the plan."""
    return {
        "number": gpu.number,
        "name": gpu.name,
        "free_bytes": gpu.free_bytes,
        "total_bytes": gpu.total_bytes,
        "memory_gb_per_s": gpu.memory_gb_per_s,
        "host_gb_per_s": gpu.host_gb_per_s,
    }
