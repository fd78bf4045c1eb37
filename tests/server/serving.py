"""A real server of a tiny random model, in a thread, and a plain client."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection
from typing import Any

from puna.config import EngineConfig
from puna.llm import LLM
from puna.server.models import Models, ServedModel
from puna.server.process import DrainingServer, bound_socket
from puna.server.service import Service
from puna.server.settings import ServerSettings
from tests.fakes import ByteTokenizer, FakeBackend, make_plan, random_checkpoint, tiny_config
from tests.test_llm import make_llm

WAIT_S = 30.0
SETTINGS = ServerSettings(port=0, drain_s=5.0)
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


@dataclass
class Answer:
    """A whole HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The data of its server-sent events; the names are in `event_names`."""
        blocks = [block.split("\n") for block in self.body.decode().split("\n\n") if block]
        data = [line.removeprefix("data: ") for block in blocks for line in block if line.startswith("data: ")]
        return [json.loads(text) if text.startswith("{") else text for text in data]

    @property
    def event_names(self) -> list[str]:
        return [line.removeprefix("event: ") for line in self.body.decode().split("\n") if line.startswith("event: ")]

    @property
    def lines(self) -> list[Any]:
        """Its lines of newline-delimited JSON."""
        return [json.loads(line) for line in self.body.splitlines()]


@dataclass
class RunningServer:
    """A server on a port of its own. `llm` is its first model."""

    service: Service
    port: int
    loop: asyncio.AbstractEventLoop
    server: DrainingServer
    thread: threading.Thread
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def llm(self) -> LLM:
        llm = self.service.models.default.llm
        assert llm is not None
        return llm

    def request(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        """`body`: bytes as they are, anything else as JSON."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        kind = {} if body is None else {"content-type": "application/json"}
        raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        try:
            connection.request(method, path, raw, {**kind, **self.headers, **(headers or {})})
            got = connection.getresponse()
            return Answer(got.status, {name.lower(): value for name, value in got.getheaders()}, got.read())
        finally:
            connection.close()

    def post(self, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        return self.request("POST", path, {} if body is None else body, headers)

    def get(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        return self.request("GET", path, None, headers)

    def connect(self) -> socket.socket:
        """A raw connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_S)


def tiny_model(name: str = "tiny", template: str = TEMPLATE) -> ServedModel:
    """A random model, with a byte for a token, on the reference backend."""
    llm = make_llm(ByteTokenizer())
    llm.chat_template = template
    return ServedModel(name, None, llm)


def quick_llm(template: str = TEMPLATE, max_context: int = 128) -> LLM:
    """A model that computes nothing: its answers are sums of its ids."""
    config = tiny_config(hidden_size=4)  # as FakeBackend has it
    checkpoint, sizes = random_checkpoint(config, seed=1), make_plan(max_context=max_context, num_pages=max_context // 2)
    llm = LLM.from_parts(checkpoint, ByteTokenizer(), FakeBackend(sizes), sizes, EngineConfig(device="reference"))
    llm.chat_template = template
    return llm


def quick_model(name: str = "quick", template: str = TEMPLATE, max_context: int = 128) -> ServedModel:
    return ServedModel(name, None, quick_llm(template, max_context))


@contextmanager
def serving(
    *models: ServedModel,
    settings: ServerSettings = SETTINGS,
    aliases: tuple[str, ...] = (),
    load: Callable[..., LLM] = LLM,
    port: int = 0,
) -> Iterator[RunningServer]:
    """Serve models: by default one tiny random model named "tiny", with a byte for a token. `load` opens an unloaded one."""
    given = models or (tiny_model(),)
    for model in given:
        if model.llm is not None:
            model.llm.runner.start()
    service = Service(Models(given, EngineConfig(device="reference"), aliases, load), settings)
    listening = bound_socket(replace(settings, port=port))
    ready, running = threading.Event(), []

    async def run() -> None:
        server = DrainingServer(service)
        running.append((asyncio.get_running_loop(), server))
        ready.set()
        await server.serve([listening])
        await service.models.close()

    thread = threading.Thread(target=lambda: asyncio.run(run()), name="test-server")
    thread.start()
    assert ready.wait(WAIT_S)
    loop, server = running[0]
    try:
        yield RunningServer(service, listening.getsockname()[1], loop, server, thread)
    finally:
        loop.call_soon_threadsafe(server.end)
        loop.call_soon_threadsafe(server.end)  # the second time: at once
        thread.join(WAIT_S)
        listening.close()
        assert not thread.is_alive(), "the server did not end"
