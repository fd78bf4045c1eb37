"""What messages of parts share (Anthropic's blocks, the items of Responses): texts by name, and parts that no model reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from puna.server.refusals import Refusal, invalid

Part = Mapping[str, Any]

NO_IMAGE = "[An image was here. This model reads text only.]"
IMAGES = ("image", "input_image")  # types of such parts


def string_of(name: str, part: Part, key: str) -> str:
    """A text in a part. Refusal that names it."""
    if not isinstance(value := part.get(key), str):
        raise wrong(f"{name}.{key}", "is missing" if value is None else "is no text")
    return value


def placeholder(kind: str) -> str:
    """What a model reads in the place of a part that is no text.

    >>> placeholder("audio")
    '[Content of type audio was here. This model reads text only.]'
    """
    return NO_IMAGE if kind in IMAGES else f"[Content of type {kind[:60]} was here. This model reads text only.]"


def unreadable(name: str, kind: str, readable: Mapping[str, Any]) -> Refusal:
    """The refusal of a part of a type that no model here reads."""
    return wrong(name, f"is of type {kind[:60]!r}, which this model cannot read; it reads: {', '.join(readable)}")


def wrong(name: str, problem: str) -> Refusal:
    """400: what a name stands for is wrong.

    >>> wrong("input.0", "has no type").message
    'input.0 has no type'
    """
    return invalid(name, f"{name} {problem}")
