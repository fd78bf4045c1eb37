"""The OpenAPI document of the server (`/openapi.json`), made from the tables of the wires."""

from __future__ import annotations

import re
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from puna import __version__
from puna.server.service import Endpoint
from puna.server.wires import WIRES
from puna.server.wires.base import WireRoute

ANSWERS = {
    "200": "The answer, or a stream of it.",
    "400": "A field is wrong; the error names it.",
    "401": "The API key is missing or wrong.",
    "403": "The host or the origin is not allowed.",
    "404": "The model is not served.",
    "408": "The request was too slow.",
    "413": "The body is too large.",
    "415": "The body is not JSON.",
    "429": "Too many requests wait.",
    "503": "The server has no memory for the model, or is ending.",
    "529": "Too many requests wait (Anthropic's status).",
}


# What an answer of a route (its operation's id) can be asked about later.
STORED = {"id": "$response.body#/id"}
LINKS = {
    "post_v1_responses": {
        "read": {"operationId": "get_v1_responses_id", "parameters": STORED},
        "delete": {"operationId": "delete_v1_responses_id", "parameters": STORED},
    }
}


def document() -> dict[str, Any]:
    """OpenAPI 3.1 of every route of every wire."""
    schemas: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    for wire in WIRES:
        for route in (one for one in wire.routes if not one.header):  # a path has one operation for each method
            path = paths.setdefault(route.path.replace(":path}", "}"), {})
            path[route.method.lower()] = _operation(wire.name, route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "puna", "version": __version__},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _operation(wire: str, route: WireRoute, schemas: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "operationId": _id_of(route),
        "tags": [wire],
        "responses": {status: {"description": text} for status, text in ANSWERS.items()},
    }
    made["responses"]["200"] |= {"links": LINKS[_id_of(route)]} if _id_of(route) in LINKS else {}
    names = [part.strip("{}").removesuffix(":path") for part in route.path.split("/") if part.startswith("{")]
    if names:
        made["parameters"] = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
    if route.fields is not None:
        schema = route.fields.schema_of_body()
        schemas |= schema.pop("$defs", {})
        schemas[route.fields.__name__] = schema
        reference = {"$ref": f"#/components/schemas/{route.fields.__name__}"}
        made["requestBody"] = {"required": True, "content": {"application/json": {"schema": reference}}}
    return made


def _id_of(route: WireRoute) -> str:
    """The name of a route in the document: "get_v1_models_name"."""
    words = re.findall(r"[a-z0-9_]+", route.path.replace(":path}", "}"))
    return "_".join([route.method.lower(), *words])


def endpoint() -> Endpoint:
    async def answer(request: Request) -> Response:
        return JSONResponse(document())

    return answer
