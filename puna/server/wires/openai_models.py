"""OpenAI's `/v1/models`. `max_model_len` is vLLM's field, which Continue reads."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from puna.server.models import ServedModel
from puna.server.service import Endpoint, Service
from puna.server.wires.base import WireRoute
from puna.server.wires.openai_shapes import error_body


def model_body(model: ServedModel) -> dict[str, Any]:
    length = {} if model.llm is None else {"max_model_len": model.llm.plan.max_context}
    return {"id": model.name, "object": "model", "created": model.created_at, "owned_by": "puna", **length}


def all_models(service: Service) -> Endpoint:
    async def answer(request: Request) -> ASGIApp:
        return JSONResponse({"object": "list", "data": list(map(model_body, service.models.all))})

    return service.answered(answer, error_body)


def one_model(service: Service) -> Endpoint:
    async def answer(request: Request) -> ASGIApp:
        return JSONResponse(model_body(service.models.named(request.path_params["name"])))

    return service.answered(answer, error_body)


ROUTES = (WireRoute("/v1/models", all_models, "GET"), WireRoute("/v1/models/{name:path}", one_model, "GET"))
