"""The rates of this machine's CPU: remembered, or measured where that takes no compiling."""

from __future__ import annotations

from puna.backends.base import DeviceLimits
from puna.machine.limits import remembered
from puna.report import Reporter


def cpu_limits(report: Reporter) -> DeviceLimits | None:
    """None where nobody has measured this machine yet."""
    return remembered("cpu")
