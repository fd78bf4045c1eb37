"""The table of probes, in the order in which a machine comes up: each later one stands on the earlier."""

from __future__ import annotations

from puna.machine.probes.bandwidth import bandwidth
from puna.machine.probes.base import Probe
from puna.machine.probes.container import container
from puna.machine.probes.cpu import cpu
from puna.machine.probes.disk import disk
from puna.machine.probes.memory import memory
from puna.machine.probes.network import network
from puna.machine.probes.power import power
from puna.machine.probes.python import python
from puna.machine.probes.wsl import wsl

PROBES: tuple[Probe, ...] = (
    wsl,
    container,
    cpu,
    power,
    memory,
    disk,
    python,
    bandwidth,
    network,
)

# These measure: they begin a little before the others, which would slow them.
MEASURING: tuple[Probe, ...] = (bandwidth,)

# Probe -> seconds that it may take, where the usual limit is too short for what it loads.
LONGER_S: dict[Probe, float] = {}
