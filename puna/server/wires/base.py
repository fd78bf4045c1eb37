"""The contract of a wire: an API that clients speak, as routes that translate it to jobs and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from puna.server.fields import Fields
from puna.server.replies import ErrorBody
from puna.server.service import Endpoint, Service


@dataclass(frozen=True, slots=True)
class WireRoute:
    """A path, its method, and the endpoint that a service makes for it. `fields`: what its body holds, for the docs.

    `header`: only requests with this header are meant; the others go to the wire that has the path without one.
    """

    path: str
    make: Callable[[Service], Endpoint]
    method: str = "POST"
    fields: type[Fields] | None = None
    header: str = ""


@dataclass(frozen=True, slots=True)
class Wire:
    """`prefixes`: paths whose errors have this wire's shape, even where no route is. `header`: one that only its clients send."""

    name: str
    routes: Sequence[WireRoute]
    error_body: ErrorBody
    prefixes: Sequence[str] = ()
    header: str = ""
