"""Does the installed PyTorch start? A download that broke off, or a library that is missing, shows only when it is imported."""

from __future__ import annotations

from collections.abc import Iterator

from puna.machine.cuda_versions import index_of, version
from puna.machine.finding import Device, Finding, Remedy, State
from puna.machine.installed_torch import InstalledTorch, installed_torch
from puna.machine.probes.base import Patient
from puna.machine.probes.gpu_self_test import is_worth_it
from puna.machine.probes.nvidia_card import is_expected
from puna.machine.probes.torch_on_cpu import LEAST_TORCH
from puna.machine.self_test import self_test
from puna.machine.started_torch import early_torch_problem, torch_problem

CHECK = "torch.start"
EFFECT = "GPUs and --device torch cannot run; --device cpu needs no PyTorch"


def torch_start(patient: Patient) -> Iterator[Finding]:
    """No finding without PyTorch, for the CPU, and where the GPU's self test has started it."""
    torch, in_self_test = patient.once(installed_torch), is_worth_it(patient)
    if torch is None or patient.device == "cpu" or (in_self_test and not patient.once(self_test).failure):
        return
    if not torch.torch:
        yield from _remains(patient, torch)
        return
    is_wanted = in_self_test or patient.device != "auto"
    problem = patient.once(torch_problem if is_wanted else early_torch_problem)
    device: Device = "torch" if patient.device == "torch" else "cuda"
    if problem:
        found = f"PyTorch {torch.torch} is installed but does not start: {problem}"
        yield Finding(CHECK, "error" if is_wanted else "warning", found, EFFECT, _again(patient, torch), device)
    elif is_wanted and problem is not None:
        yield Finding(CHECK, "ok", f"PyTorch {torch.torch} starts", device=device)
    elif not is_wanted and not is_expected(patient):  # with a card, `cuda_wheel` names it
        yield Finding(CHECK, "ok", f"PyTorch {torch.torch} is installed", device=device)


def _remains(patient: Patient, torch: InstalledTorch) -> Iterator[Finding]:
    """A part of PyTorch, unless another probe names it: `torch_on_cpu`, or with a card `cuda_wheel`."""
    if torch.remains and patient.device != "torch" and not is_expected(patient):
        state: State = "warning" if patient.device == "auto" else "error"
        yield Finding(CHECK, state, torch.absence, EFFECT, _again(patient, torch), "cuda")


def _again(patient: Patient, torch: InstalledTorch) -> Remedy:
    """The same build once more."""
    cuda = version(torch.cuda)
    if cuda is None:
        return patient.remedy("reinstall-torch-for-cpu", least=LEAST_TORCH)
    return patient.remedy("reinstall-torch", index=index_of(cuda))
