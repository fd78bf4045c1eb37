"""The wires that puna speaks: each file translates one API to jobs and back."""

from __future__ import annotations

from collections.abc import Iterable

from puna.server.wires import (
    anthropic,
    anthropic_events,
    anthropic_models,
    chat_control,
    glassbox,
    llama_server,
    ollama_generate,
    ollama_models,
    ollama_shapes,
    openai_chat,
    openai_completions,
    openai_embeddings,
    openai_models,
    responses,
)
from puna.server.wires.base import Wire
from puna.server.wires.openai_shapes import error_body

OPENAI = Wire(
    "openai",
    (*openai_chat.ROUTES, *openai_completions.ROUTES, *openai_embeddings.ROUTES, *openai_models.ROUTES, *responses.ROUTES),
    error_body,
    ("/v1",),
)
OLLAMA = Wire("ollama", (*ollama_generate.ROUTES, *ollama_models.ROUTES), ollama_shapes.error_body, ("/api",))
LLAMA_SERVER = Wire("llama-server", (*llama_server.ROUTES, *chat_control.ROUTES), error_body)
ANTHROPIC = Wire(
    "anthropic",
    (*anthropic.ROUTES, *anthropic_models.ROUTES),
    anthropic_events.error_body,
    ("/v1/messages",),
    anthropic_models.HEADER,
)

GLASSBOX = Wire("glassbox", glassbox.ROUTES, error_body)

WIRES = (OPENAI, ANTHROPIC, OLLAMA, LLAMA_SERVER, GLASSBOX)


def wire_of(path: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> Wire:
    """The wire whose shape the errors of a request have: that of its header, else the one with the longest prefix of its path.

    >>> wire_of("/nowhere").name, wire_of("/v1/messages/batches").name, wire_of("/v1/models", [(b"anthropic-version", b"1")]).name
    ('openai', 'anthropic', 'anthropic')
    """
    names = {name.decode("latin-1") for name, _ in headers}
    if named := next((wire for wire in WIRES if wire.header in names), None):
        return named
    matches = [(len(prefix), wire) for wire in WIRES for prefix in wire.prefixes if path.startswith(prefix)]
    return max(matches, key=lambda match: match[0])[1] if matches else OPENAI
