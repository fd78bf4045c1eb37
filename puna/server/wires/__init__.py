"""The wires that puna speaks: each file translates one API to jobs and back."""

from __future__ import annotations

from puna.server.wires import anthropic, anthropic_events, openai_chat, openai_completions, openai_models
from puna.server.wires.base import Wire
from puna.server.wires.openai_shapes import error_body

OPENAI = Wire("openai", (*openai_chat.ROUTES, *openai_completions.ROUTES, *openai_models.ROUTES), error_body, ("/v1",))
ANTHROPIC = Wire("anthropic", anthropic.ROUTES, anthropic_events.error_body, ("/v1/messages",))

WIRES = (OPENAI, ANTHROPIC)


def wire_of(path: str) -> Wire:
    """The wire whose shape the errors of a path have: the one with the longest prefix of it, else OpenAI's.

    >>> wire_of("/nowhere").name, wire_of("/v1/messages/batches").name
    ('openai', 'anthropic')
    """
    matches = [(len(prefix), wire) for wire in WIRES for prefix in wire.prefixes if path.startswith(prefix)]
    return max(matches, key=lambda match: match[0])[1] if matches else OPENAI
