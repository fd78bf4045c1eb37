"""puna explain FILE[:SYMBOL]: a Python source, taken apart block by block."""

from __future__ import annotations

from puna.errors import UsageError


def explain_source(place: str, model: str | None, as_json: bool) -> None:
    """Explain the source at `place`, FILE or FILE:SYMBOL. Nothing of it is executed."""
    raise UsageError(f"{place} is not explained yet: only topics are", hint="puna explain lists the topics.")
