"""Each parameter of the official clients has a class in the tables of the server, so that docs/wires.md tells of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from puna.server.fields import Fields
from puna.server.wires import WIRES

ROUTES = {route.path: route.fields for wire in WIRES for route in wire.routes if route.fields is not None}
OF_THE_CLIENT = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}  # these are not sent


def parameters(method: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(method).parameters) - OF_THE_CLIENT


def known(path: str) -> set[str]:
    """The fields of a route that have a class."""
    kind: type[Fields] = ROUTES[path]
    return set(kind.classes())


@pytest.mark.parametrize(
    ("path", "resource"),
    [
        ("/v1/chat/completions", "chat.completions"),
        ("/v1/completions", "completions"),
        ("/v1/embeddings", "embeddings"),
        ("/v1/responses", "responses"),
    ],
)
def test_openai(path: str, resource: str) -> None:
    client: Any = pytest.importorskip("openai").OpenAI(base_url="http://127.0.0.1:9/v1", api_key="none")
    for name in resource.split("."):
        client = getattr(client, name)
    assert parameters(client.create) <= known(path)


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("/v1/messages", "messages.create"),
        ("/v1/messages", "messages.stream"),
        ("/v1/messages", "beta.messages.create"),
        ("/v1/messages/count_tokens", "messages.count_tokens"),
        ("/v1/messages/count_tokens", "beta.messages.count_tokens"),
    ],
)
def test_anthropic(path: str, method: str) -> None:
    found: Any = pytest.importorskip("anthropic").Anthropic(base_url="http://127.0.0.1:9", api_key="none")
    for name in method.split("."):
        found = getattr(found, name)
    assert parameters(found) <= known(path)


@pytest.mark.parametrize("name", ["chat", "generate", "embed", "embeddings", "show"])
def test_ollama(name: str) -> None:
    ollama: Any = pytest.importorskip("ollama")
    path = f"/api/{name}"
    assert parameters(getattr(ollama.Client, name)) <= known(path)


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_options_of_ollama(path: str) -> None:
    ollama: Any = pytest.importorskip("ollama")
    assert {f"options.{name}" for name in ollama.Options.model_fields} <= known(path)
