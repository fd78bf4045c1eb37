"""The roofline of this machine's CPU: measured once in a child, then read from the cache."""

from __future__ import annotations

from typing import Any

from puna.backends.base import Roofline
from puna.machine.child import ask
from puna.machine.host import ThisHost
from puna.machine.rooflines import remember, remembered, roofline_of
from puna.progress import Reporter

LIMIT_S = 20.0  # half a second; some seconds more if kernels are compiled
STAGE = "measuring this machine, once"


def cpu_roofline(report: Reporter) -> Roofline | None:
    """None if the measurement fails; `puna doctor` says why."""
    known = remembered("cpu")
    if known is None:
        report.progress(STAGE, 0, 1)
        answer: Any = ask(ThisHost(), "puna.backends.cpu.self_test", limit_s=LIMIT_S).facts.get("limits")
        report.progress(STAGE, 1, 1)
        known = roofline_of(answer)
        if known is not None:
            remember("cpu", known)
    return known
