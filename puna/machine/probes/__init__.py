"""The table of probes, in boot order: each one depends on the earlier ones."""

from __future__ import annotations

from puna.machine.probes.bandwidth import bandwidth
from puna.machine.probes.base import Probe
from puna.machine.probes.container import container
from puna.machine.probes.cpu import cpu
from puna.machine.probes.cuda_wheel import cuda_wheel
from puna.machine.probes.disk import disk
from puna.machine.probes.gpu_self_test import gpu_self_test
from puna.machine.probes.memory import memory
from puna.machine.probes.nccl import nccl
from puna.machine.probes.network import network
from puna.machine.probes.nvidia_card import nvidia_card
from puna.machine.probes.nvidia_log import nvidia_log
from puna.machine.probes.nvidia_module import nvidia_module
from puna.machine.probes.nvidia_rights import nvidia_rights
from puna.machine.probes.nvidia_smi import nvidia_smi
from puna.machine.probes.power import power
from puna.machine.probes.python import python
from puna.machine.probes.torch_on_cpu import torch_on_cpu
from puna.machine.probes.torch_start import torch_start
from puna.machine.probes.wsl import wsl
from puna.machine.self_test import ALL_REDUCE_LIMIT_S, LIMIT_S

PROBES: tuple[Probe, ...] = (
    wsl,
    container,
    cpu,
    power,
    memory,
    disk,
    python,
    torch_on_cpu,
    bandwidth,
    nvidia_card,
    nvidia_module,
    nvidia_log,
    nvidia_rights,
    nvidia_smi,
    cuda_wheel,
    torch_start,
    gpu_self_test,
    nccl,
    network,
)

# Probes that measure: they start a little earlier, because the others would slow them.
MEASURING: tuple[Probe, ...] = (bandwidth,)

# Probe -> its time limit in seconds, if what it loads needs more than the usual limit.
LONGER_S: dict[Probe, float] = {
    torch_start: 2 * LIMIT_S + 30,
    gpu_self_test: 2 * LIMIT_S + 30,
    nccl: LIMIT_S + ALL_REDUCE_LIMIT_S + 30,
}
