"""What the page shows of this machine and of errors: the doctor's findings, and the cause of an error text (`puna why`).

Both run on demand, in a thread, one at a time. Clients beyond this machine see no path of it (`private.py`). The probes that
measure or compute on a GPU are left out: they would slow the models that are served, and fail on a card that these fill.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from puna.causes import CAUSES
from puna.causes.advice import advice
from puna.causes.reading import read
from puna.errors import QueueFullError
from puna.machine.doctor import examine
from puna.machine.host import Host, ThisHost
from puna.machine.probes import MEASURING, PROBES
from puna.machine.probes.base import Patient, Probe
from puna.machine.probes.gpu_self_test import gpu_self_test
from puna.machine.probes.nccl import nccl
from puna.machine.why import why
from puna.server.failures import FAILURES
from puna.server.fields import Fields
from puna.server.private import is_of_another, own_folders, without_paths
from puna.server.service import Endpoint, Service
from puna.server.wires.openai_shapes import error_body

BESIDE_MODELS: tuple[Probe, ...] = tuple(probe for probe in PROBES if probe not in (*MEASURING, gpu_self_test, nccl))
OF_THIS_MACHINE_ALONE = "network."  # how the names of such checks begin
KEPT_S = 60.0  # findings are shown again for so long: a client can make the doctor look once in that time
MAX_TEXT = 1 << 20  # characters
MAX_WAITING = 8  # texts


class Doctor:
    """The findings of this machine, looked up when they are asked for, and kept for KEPT_S."""

    def __init__(self, device: str, host: Host | None = None) -> None:
        self._device, self._host = device, host
        self._lock = asyncio.Lock()
        self._findings: list[dict[str, Any]] = []
        self._looked_at = float("-inf")

    async def findings(self, hides: bool) -> dict[str, Any]:
        """The findings as JSON, and how many seconds ago they were made. Who asks while the doctor looks gets the same.

        `hides`: without paths, and without those of the network, whose names and addresses are nobody else's business.
        """
        async with self._lock:
            if time.monotonic() - self._looked_at > KEPT_S:
                self._findings = await asyncio.to_thread(self._look)
                self._looked_at = time.monotonic()
            found, age_s = self._findings, time.monotonic() - self._looked_at
        if hides:
            found = without_paths([one for one in found if not one["check"].startswith(OF_THIS_MACHINE_ALONE)], own_folders())
        return {"findings": found, "age_s": age_s, "hides_paths": hides}

    def _look(self) -> list[dict[str, Any]]:
        return list(map(asdict, examine(Patient(self._host or ThisHost(), self._device), BESIDE_MODELS)))


class WhyFields(Fields):
    """The body: an error text, or what the page was told of a request that failed."""

    text: str = Field(min_length=1, max_length=MAX_TEXT)


def explained(told: str, hides: bool, host: Host | None = None) -> dict[str, Any]:
    """What `puna why --json` says of a text, but for a guess. Takes its time: call it in a thread.

    If the text names a request of this server that failed, its logged error is explained: to others than the person at this
    machine by its cause and cure only, since its lines are not theirs to read. `advice` and `line`: of a text that is not known.
    """
    logged = FAILURES.text_of(told)
    text = logged or told
    diagnosis = why(text, host or ThisHost())
    if diagnosis is None:
        reading = read(told)
        unknown = {"line": reading.error, "advice": advice(reading, reading.error_at, ""), "num_causes": len(CAUSES)}
        return {"known": False, "diagnosis": None, **unknown}
    found = asdict(diagnosis)
    if hides and logged:
        others = [other._replace(line="") for other in diagnosis.others]
        found = without_paths(found | {"others": others}, own_folders()) | {"line": "", "unexplained": "", "advice": []}
    elif hides:  # the text is the client's own; what this machine adds is not
        found |= without_paths({name: found[name] for name in ("here", "remedy", "findings")}, own_folders())
    return {"known": True, "diagnosis": found}


def doctor_endpoint(service: Service) -> Endpoint:
    """The answer to the page's `GET /page/doctor`."""
    doctor = Doctor(service.models.config.device)

    async def answer(request: Request) -> ASGIApp:
        return JSONResponse(await doctor.findings(is_of_another(request, service.settings)))

    return service.answered(answer, error_body)


def why_endpoint(service: Service) -> Endpoint:
    """The answer to the page's `POST /page/why`."""
    line = OneAtATime(MAX_WAITING)

    async def answer(request: Request) -> ASGIApp:
        fields = WhyFields.read(await service.read_json(request))
        async with line.turn():
            return JSONResponse(await asyncio.to_thread(explained, fields.text, is_of_another(request, service.settings)))

    return service.answered(answer, error_body)


class OneAtATime:
    """One after the other; QueueFullError (429) for one who would wait behind `max_waiting` others."""

    def __init__(self, max_waiting: int) -> None:
        self._lock = asyncio.Lock()
        self._max_waiting, self._num_waiting = max_waiting, 0

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        if self._num_waiting > self._max_waiting:
            raise QueueFullError.of(self._max_waiting)
        self._num_waiting += 1
        try:
            async with self._lock:
                yield
        finally:
            self._num_waiting -= 1
