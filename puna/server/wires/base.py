"""The contract of a wire: an API that clients speak, as routes that translate it to jobs and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from puna.server.fields import Fields
from puna.server.service import Endpoint, ErrorBody, Service


@dataclass(frozen=True, slots=True)
class WireRoute:
    """A path, its method, and the endpoint that a service makes for it. `fields`: what its body holds, for the docs."""

    path: str
    make: Callable[[Service], Endpoint]
    method: str = "POST"
    fields: type[Fields] | None = None


@dataclass(frozen=True, slots=True)
class Wire:
    """`prefixes`: paths whose errors have this wire's shape, even where no route is."""

    name: str
    routes: Sequence[WireRoute]
    error_body: ErrorBody
    prefixes: Sequence[str] = ()
