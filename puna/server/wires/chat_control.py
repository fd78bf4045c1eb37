"""llama-server's `/v1/chat/completions/control`: ends the thinking of a chat completion that runs, so that its answer comes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from puna.server.fields import Fields
from puna.server.refusals import invalid
from puna.server.service import Endpoint, Service
from puna.server.wires.base import WireRoute
from puna.server.wires.openai_shapes import error_body
from puna.thinking import tags_of


class ControlFields(Fields):
    """The body: which completion, and what to do with it."""

    id: str = Field(min_length=1, max_length=200)
    action: Literal["reasoning_end"]


def endpoint(service: Service) -> Endpoint:
    """Only the client whose key began a completion can end its thinking; its id comes with the first chunk of its stream."""

    async def control(request: Request) -> ASGIApp:
        fields = ControlFields.read(await service.read_json(request))
        run = service.run_of(fields.id)
        if tags_of(run.llm.chat_template) is None:
            raise invalid("action", f"this model does not think, so {fields.action} ends nothing")
        run.handle.end_thinking()
        return JSONResponse({"id": fields.id, "success": True})

    return service.answered(control, error_body)


ROUTES = (WireRoute("/v1/chat/completions/control", endpoint, fields=ControlFields),)
