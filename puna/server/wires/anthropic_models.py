"""Anthropic's `/v1/models` (https://platform.claude.com/docs/en/api/models-list). OpenAI's API has the same path: requests of
Anthropic's clients are those with the header `anthropic-version`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from puna.server.models import ServedModel
from puna.server.refusals import invalid
from puna.server.service import Endpoint, Service
from puna.server.times import rfc3339
from puna.server.wires.anthropic_events import error_body
from puna.server.wires.base import WireRoute

HEADER = "anthropic-version"
LIMIT, MAX_LIMIT = 20, 1000  # models on a page, unless a client asks for another number


def model_body(model: ServedModel) -> dict[str, Any]:
    length = None if model.llm is None else model.llm.plan.max_context
    return {
        "type": "model",
        "id": model.name,
        "display_name": model.name,
        "created_at": rfc3339(model.created_at),
        "lifecycle": "active",
        "max_input_tokens": length,
        "max_tokens": length,
    }


def page_of(models: Sequence[ServedModel], query: Mapping[str, str]) -> dict[str, Any]:
    """The models behind `after_id`, or before `before_id`: at most `limit`. Refusal for a model that is not listed."""
    names, limit = [model.name for model in models], _limit_of(query.get("limit", str(LIMIT)))
    if "before_id" in query:
        end = _position(names, "before_id", query["before_id"])
        begin = max(0, end - limit)
        has_more = begin > 0
    else:
        begin = _position(names, "after_id", query["after_id"]) + 1 if "after_id" in query else 0
        end = min(begin + limit, len(names))
        has_more = end < len(names)
    shown = names[begin:end]
    return {
        "data": list(map(model_body, models[begin:end])),
        "has_more": has_more,
        "first_id": shown[0] if shown else None,
        "last_id": shown[-1] if shown else None,
    }


def _limit_of(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text[:9]) <= MAX_LIMIT:
        raise invalid("limit", f"limit is {text[:40]!r}; a number from 1 to {MAX_LIMIT} is needed")
    return int(text[:9])


def _position(names: Sequence[str], field: str, name: str) -> int:
    if name not in names:
        raise invalid(field, f"{field} is {name[:80]!r}; the models are: {', '.join(names)}")
    return names.index(name)


def all_models(service: Service) -> Endpoint:
    async def answer(request: Request) -> ASGIApp:
        return JSONResponse(page_of(service.models.all, request.query_params))

    return service.answered(answer, error_body)


def one_model(service: Service) -> Endpoint:
    async def answer(request: Request) -> ASGIApp:
        return JSONResponse(model_body(service.models.named(request.path_params["name"])))

    return service.answered(answer, error_body)


ROUTES = (
    WireRoute("/v1/models", all_models, "GET", header=HEADER),
    WireRoute("/v1/models/{name:path}", one_model, "GET", header=HEADER),
)
