"""What the page shows of each served model before it is chosen: whether it fits, its memory, its context and its speed.

The bytes are those of `puna.plan`: of the plan in use, or of the one that loading would make. The speed is that of
`puna plan`, where this machine was measured.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal, NamedTuple

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from puna import formats, hub
from puna.config import EngineConfig
from puna.errors import PunaError
from puna.llm import LLM
from puna.loading import suggestions_in
from puna.machine.host import ThisHost
from puna.machine.planning.devices import PlannedDevice, device_for
from puna.machine.planning.fit import fit
from puna.machine.planning.speed import decode_per_s
from puna.machine.rooflines import remembered
from puna.request import SamplingParams
from puna.server.models import ServedModel
from puna.server.service import Endpoint, Service
from puna.server.wires.openai_shapes import error_body
from puna.thinking import tags_of

log = logging.getLogger("puna.server")

Problem = Literal["", "memory", "unreadable"]


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """A served model. Of one that is not readable only the name is known."""

    name: str
    state: Literal["loaded", "loading", "unloaded"]
    problem: Problem = ""  # why it could not be loaded now
    needed_bytes: int = 0  # of weights, K and V, and scratch
    max_context: int = 0  # tokens
    tokens_per_s: float | None = None  # that one answer would get; None: not known
    thinks: bool = False
    temperature: float = 0.0  # where a request gives none; at 0 an answer is always the same


class ModelPlans(NamedTuple):
    """The plans of all served models, and the bytes that are free for one that is not loaded."""

    models: list[ModelPlan]
    free_bytes: int


def plans_of(models: Sequence[ServedModel], config: EngineConfig, idle_bytes: int) -> ModelPlans:
    """Takes its time: call it in a thread. `idle_bytes`: of models that would make room (`models.py`); they count as free."""
    device = device_for(config, ThisHost(), remembered("cpu"), None, None)
    device = replace(device, free_bytes=device.free_bytes + idle_bytes)
    return ModelPlans([_plan_of(model, config, device) for model in models], device.free_bytes)


def _plan_of(model: ServedModel, config: EngineConfig, device: PlannedDevice) -> ModelPlan:
    if (llm := model.llm) is not None:
        speed = _speed_of(llm, device)
        thinks = tags_of(llm.chat_template) is not None
        temperature = llm.default_params.temperature
        return ModelPlan(model.name, "loaded", "", llm.plan.total_bytes, llm.plan.max_context, speed, thinks, temperature)
    state: Literal["loading", "unloaded"] = "loading" if model.is_loading else "unloaded"
    try:
        checkpoint = formats.open_checkpoint(hub.resolve(model.source))
        found = fit(checkpoint, config, device)
    except PunaError as error:
        log.error("%s cannot be planned: %s", model.name, error.line)
        return ModelPlan(model.name, state, "unreadable")
    return ModelPlan(
        model.name,
        state,
        problem="" if found.fits or model.is_loading else "memory",
        needed_bytes=found.needed_bytes,
        max_context=found.plan.max_context,
        tokens_per_s=None if found.speed is None else found.speed.decode_per_s,
        thinks=tags_of(checkpoint.chat_template) is not None,
        temperature=SamplingParams(**suggestions_in(checkpoint, found.plan, config).settings).temperature,
    )


def _speed_of(llm: LLM, device: PlannedDevice) -> float | None:
    kind = llm.config.device.partition(":")[0]
    if device.roofline is None or device.kind != kind:
        return None
    return decode_per_s(llm.model, llm.plan, device.roofline, kind)


def endpoint(service: Service) -> Endpoint:
    """The answer to the page's `GET /page/models`."""

    async def answer(request: Request) -> ASGIApp:
        models = service.models
        plans = await asyncio.to_thread(plans_of, models.all, models.config, models.idle_bytes)
        return JSONResponse({"models": list(map(asdict, plans.models)), "free_bytes": plans.free_bytes})

    return service.answered(answer, error_body)
