"""Puts the server together: the guard, then the routes of all wires, and the page."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Scope

from puna.server import diagnoses, model_plans, openapi, page, request_log
from puna.server.guard import OPEN, Guard
from puna.server.ids import Identified
from puna.server.metrics import Metrics
from puna.server.refusals import Refusal
from puna.server.service import Endpoint, Service
from puna.server.wires import WIRES, wire_of
from puna.server.wires.base import WireRoute

UNTRUSTED = (400, 431)  # of a head: what follows it on the connection may be no request


def create_app(service: Service) -> ASGIApp:
    """The ASGI application of a service."""
    routes = [_route(route, service) for wire in WIRES for route in wire.routes]
    routes.sort(key=lambda route: not isinstance(route, HeaderRoute))  # the first one that matches is taken
    routes.append(Route("/health", _health(service), methods=["GET"]))
    routes.append(Route("/openapi.json", openapi.endpoint(), methods=["GET"]))
    routes.append(Route("/metrics", Metrics(service).endpoint(), methods=["GET"]))
    assets = page.assets()
    routes += page.routes(assets)
    routes.append(Route("/page/models", model_plans.endpoint(service), methods=["GET"]))
    routes.append(Route("/page/doctor", diagnoses.doctor_endpoint(service), methods=["GET"]))
    routes.append(Route("/page/why", diagnoses.why_endpoint(service), methods=["POST"]))
    service.listeners.append(request_log.write)
    if service.settings.log_prompts:
        service.listeners.append(request_log.write_texts)
    app = Starlette(routes=routes, exception_handlers={HTTPException: _no_route})
    app.router.redirect_slashes = False
    guarded = Guard(app, service.settings, _refused, OPEN | assets.keys())  # the page itself asks for the key
    return Identified(guarded)


class HeaderRoute(Route):
    """A route that takes only requests with a header."""

    def __init__(self, path: str, endpoint: Endpoint, method: str, header: str) -> None:
        super().__init__(path, endpoint, methods=[method])
        self._header = header.encode()

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        has_header = any(name == self._header for name, _ in scope.get("headers", ()))
        return super().matches(scope) if has_header else (Match.NONE, {})


def _route(route: WireRoute, service: Service) -> Route:
    endpoint = route.make(service)
    if route.header:
        return HeaderRoute(route.path, endpoint, route.method, route.header)
    return Route(route.path, endpoint, methods=[route.method])


def _health(service: Service) -> Endpoint:
    async def answer(request: Request) -> Response:
        if service.is_draining:
            return JSONResponse({"status": "ending"}, 503)
        return JSONResponse({"status": "ok"})

    return answer


def _refused(scope: Scope, refusal: Refusal) -> ASGIApp:
    headers = {"connection": "close"} if refusal.status in UNTRUSTED else {}
    return JSONResponse(wire_of(scope["path"], scope["headers"]).error_body(refusal), refusal.status, headers)


async def _no_route(request: Request, error: Exception) -> Response:
    """404 and 405, in the shape of the wire that the path belongs to."""
    status = getattr(error, "status_code", 500)
    problem = {404: "there is no such route", 405: f"{request.method} is not allowed here"}.get(status, "the request failed")
    refusal = Refusal(status, f"{problem}: {request.url.path[:200]}", code="not_found" if status == 404 else "method_not_allowed")
    headers = {"allow": _allowed_at(request)} if status == 405 else {}
    return JSONResponse(wire_of(request.url.path, request.scope["headers"]).error_body(refusal), status, headers)


def _allowed_at(request: Request) -> str:
    """The methods of all routes of a path; Starlette names those of the first one only."""
    matching = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
    return ", ".join(sorted({method for route in matching if route.path == matching[0].path for method in route.methods}))
