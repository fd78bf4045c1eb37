"""The table of probes, in the order in which a machine comes up: each later one stands on the earlier."""

from __future__ import annotations

from puna.machine.probes.base import Probe
from puna.machine.probes.cuda_wheel import cuda_wheel
from puna.machine.probes.gpu_trial import gpu_trial
from puna.machine.probes.nccl import nccl
from puna.machine.probes.nvidia_card import nvidia_card
from puna.machine.probes.nvidia_log import nvidia_log
from puna.machine.probes.nvidia_module import nvidia_module
from puna.machine.probes.nvidia_rights import nvidia_rights
from puna.machine.probes.nvidia_smi import nvidia_smi

PROBES: tuple[Probe, ...] = (
    nvidia_card,
    nvidia_module,
    nvidia_log,
    nvidia_rights,
    nvidia_smi,
    cuda_wheel,
    gpu_trial,
    nccl,
)
