"""The table of probes, in the order in which a machine comes up: each later one stands on the earlier."""

from __future__ import annotations

from puna.machine.probes.base import Probe

PROBES: tuple[Probe, ...] = ()
