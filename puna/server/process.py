"""The process of a server: it listens, answers, and drains at its end.

The first signal (SIGTERM, Ctrl-C) stops new requests and lets those that run finish for `drain_s`; then they end with what they
have. The second one ends at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from puna.errors import PunaError, UsageError
from puna.server.app import create_app
from puna.server.connection import protocol_of
from puna.server.guard import LOOPBACK
from puna.server.service import Service
from puna.server.settings import ServerSettings
from puna.units import counted

log = logging.getLogger(__name__)

NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
REAP_EVERY_S = 1.0
SEND_BUFFER = 64 << 10  # bytes that the system holds for a client that does not read; its own limit is megabytes
LAST_WORDS_S = 1.0  # that ended streams have to send their last events


class BindError(PunaError):
    """An address that cannot be listened on."""


def bound_socket(settings: ServerSettings) -> socket.socket:
    """A socket that listens on the address. It is opened before a model is loaded, so that a busy port is told at once."""
    if settings.host not in (*LOOPBACK, "::1") and not settings.api_keys:
        raise UsageError(
            f"--host {settings.host} lets other machines in, and there is no API key",
            hint="Add --api-key KEY, or leave --host out: then only this machine is served.",
        )
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    made = socket.socket(
        family, socket.SOCK_STREAM, socket.IPPROTO_TCP
    )  # asyncio asks for the protocol before it sets TCP_NODELAY
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        made.bind((settings.host.strip("[]"), settings.port))
        made.listen(2048)
    except OSError as error:
        made.close()
        reason = (error.strerror or "it is no address").lower()
        hint = "Give another --port, or --port 0 for any."
        if error.errno == errno.EADDRINUSE:
            hint = f"Does a puna serve run already? {hint}"
        raise BindError(f"cannot listen on {settings.host}:{settings.port}: {reason}", hint=hint) from None
    return made


class DrainingServer(uvicorn.Server):
    """uvicorn, ended by the signals that this file describes."""

    def __init__(self, service: Service) -> None:
        self._service = service
        settings = service.settings
        super().__init__(
            uvicorn.Config(
                create_app(service), http=protocol_of(settings), ws="none", lifespan="off", log_config=None, access_log=False,
                server_header=False, h11_max_incomplete_event_size=settings.max_head, timeout_keep_alive=30,
                timeout_graceful_shutdown=int(settings.drain_s + LAST_WORDS_S) + 1, limit_concurrency=None,
            )
        )  # fmt: skip

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(LoopProblems())
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # Windows, or not the main thread
                loop.add_signal_handler(number, self.end)
        yield

    def end(self) -> None:
        """Drain; if that is under way, end at once."""
        if self.should_exit:
            self.force_exit = True
            self._end_all()
            return
        self.should_exit = self._service.is_draining = True
        self._tell_what_runs()
        asyncio.get_running_loop().call_later(self._service.settings.drain_s, self._end_all)

    def _tell_what_runs(self) -> None:
        if running := len(self._service.running):
            told = counted(running, "request"), self._service.settings.drain_s
            log.info("ending: %s may run %g s more; a second Ctrl-C (or signal) ends at once", *told)

    def _end_all(self) -> None:
        for run in list(self._service.running):
            run.handle.cancel()  # its stream sends what there is, and its last event


class LoopProblems:
    """asyncio's handler of what fails in its loop. Where no file can be opened any more it accepts in vain 2,048 times in a row.

    Each with a traceback, that is megabytes of log a second: here such a failure is one line, at most once in `every_s`.
    """

    def __init__(self, every_s: float = 10.0) -> None:
        self._every_s, self._told_at = every_s, -math.inf

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not (isinstance(error, OSError) and error.errno in NO_ROOM):
            loop.default_exception_handler(context)
        elif time.monotonic() - self._told_at >= self._every_s:
            self._told_at = time.monotonic()
            log.error("no further connection can be accepted: %s. Raise the limit (ulimit -n)", error.strerror)


async def serve(service: Service, listening: socket.socket, on_ready: Callable[[], None]) -> None:
    """Load the first model, answer requests until a signal, and drain."""
    await service.models.loaded(service.models.default)
    server = DrainingServer(service)
    reaper = asyncio.create_task(_reap(service))
    try:
        on_ready()
        await server.serve([listening])
    finally:
        reaper.cancel()
        await service.models.close()


async def _reap(service: Service) -> None:
    while True:
        await asyncio.sleep(REAP_EVERY_S)
        await service.models.unload_expired()
