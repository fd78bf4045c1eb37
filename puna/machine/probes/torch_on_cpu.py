"""PyTorch on the CPU, for --device torch: is it installed and new enough?"""

from __future__ import annotations

from collections.abc import Iterator

from puna.machine.finding import Finding
from puna.machine.installed_torch import installed_torch
from puna.machine.probes.base import Patient
from puna.machine.probes.python import version_of

CHECK = "torch.installed"
LEAST_TORCH = "2.11"  # a test compares it with pyproject.toml


def torch_on_cpu(patient: Patient) -> Iterator[Finding]:
    """No findings for other devices: `cuda_wheel` checks PyTorch for a card."""
    if patient.device != "torch":
        return
    torch = patient.once(installed_torch)
    if torch is None:
        found = "this Python does not say which PyTorch is installed"
        yield Finding(CHECK, "note", found, "puna does not know whether --device torch runs", device="torch")
    elif version_of(torch.torch) < version_of(LEAST_TORCH):
        found = f"PyTorch {torch.torch} is older than {LEAST_TORCH}" if torch.torch else torch.absence
        remedy = patient.remedy("install-torch", least=LEAST_TORCH)
        yield Finding(CHECK, "error", found, "--device torch cannot run; --device cpu needs no PyTorch", remedy, "torch")
    else:
        yield Finding(CHECK, "ok", f"PyTorch {torch.torch} is installed", device="torch")
