"""docs/wires.md, made from the tables of the wires: what becomes of each field of each route (`fields.py` has the classes)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from puna.server.wires import WIRES
from puna.server.wires.base import Wire, WireRoute

OPENING = """\
# The fields of requests
What `puna serve` makes of each field of each route. `python -m scripts.wires` writes this file from the tables in
`puna/server`; the types and ranges of fields are in `/openapi.json` of a running server.

- **used**: the field means what its API says, or the request is refused (400) with the field, the given and the allowed value.
  "used as `max_tokens`" names the field of `SamplingParams` that it sets, if that has another name.
- **hint**: the field is accepted and changes no answer here. The header `x-puna-ignored` and the log name it.
- **skipped**: only this part of the field is left out. It is named in the same way.
- **refused**: 400, with what to send in its place.

An empty cell is a field that the route does not know. Such a field is a hint, unless its name is nearly that of a known one: a
misspelled field is refused. `null` is the same as leaving a field out.
"""


def markdown() -> str:
    """The whole file."""
    return "\n".join([OPENING, *(_section(wire) for wire in WIRES)])


def _section(wire: Wire) -> str:
    columns = _columns(wire.routes)
    classes = {paths: route.fields.classes() for paths, route in columns.items() if route.fields is not None}
    bodiless = [_bodiless(route) for route in wire.routes if route.fields is None]
    rows = sorted({name for column in classes.values() for name in column})
    table = [
        _row(["field", *classes]),
        _row(["---"] * (1 + len(classes))),
        *(_row([_cell_of(name), *(column.get(name, "") for column in classes.values())]) for name in rows),
    ]
    without = [f"Without a body: {', '.join(bodiless)}.\n"] if bodiless else []
    return "\n".join([f"## {wire.name}", *without, *table, ""])


def _columns(routes: Sequence[WireRoute]) -> Mapping[str, WireRoute]:
    """The routes that have bodies; those with the same fields share a column."""
    paths: dict[type, list[str]] = {}
    kinds = {route.fields: route for route in routes if route.fields is not None}
    for route in routes:
        if route.fields is not None:
            paths.setdefault(route.fields, []).append(f"`{_path(route)}`")
    return {", ".join(paths[kind]): route for kind, route in kinds.items()}


def _bodiless(route: WireRoute) -> str:
    return f"`{route.method} {_path(route)}`" + (f" with the header `{route.header}`" if route.header else "")


def _path(route: WireRoute) -> str:
    return route.path.replace(":path}", "}")


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell_of(name: str) -> str:
    """A field in code type; parts of fields are words.

    >>> _cell_of("top_p"), _cell_of("tools of another type than function")
    ('`top_p`', 'tools of another type than function')
    """
    return name if " " in name else f"`{name}`"
