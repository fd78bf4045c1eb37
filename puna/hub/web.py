"""Requests to the Hub, which no server makes longer or larger than they are meant to be.

They are `huggingface_hub`'s own: its addresses, headers and client, which sends the token to the Hub alone. The timeouts of the
client begin anew with every byte that comes, so that one limit holds over all that is fetched of a model. The requests are made
by daemon threads: one that hangs is waited for neither at the limit, nor after Ctrl-C, nor at the end of the process.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from puna.errors import DownloadError, ModelNotFoundError
from puna.hub.names import HubName

TIME_LIMIT_S = 180.0
POLL_S = 0.2  # Windows tells of Ctrl-C only between waits
MAX_REDIRECTS = 10
MAX_DRAINED_BYTES = 64 << 10
# Redirects are followed here: the client would keep what comes with them, however long it is.
_HEAD_ONLY: dict[str, Any] = {"stream": True, "follow_redirects": False}

T = TypeVar("T")


class TimeLimit:
    """The time for all that is fetched of one model, and what is done within it."""

    def __init__(self, name: HubName) -> None:
        self._name, self._seconds = name, TIME_LIMIT_S
        self._ends_at = time.monotonic() + self._seconds
        self._stopped = threading.Event()

    def require(self) -> None:
        """DownloadError where the time is over, or nobody waits any more."""
        if self._stopped.is_set():
            raise DownloadError(f"{self._name}: interrupted")
        if time.monotonic() > self._ends_at:
            raise DownloadError(
                f"could not fetch {self._name}: what tells its sizes had not come after {self._seconds:.0f} seconds",
                hint="Try again later, or on a faster line.",
            )

    def pause(self, seconds: float) -> None:
        """Wait, but not beyond the limit."""
        self._stopped.wait(min(seconds, max(0.0, self._ends_at - time.monotonic())))

    def run(self, tasks: Sequence[Callable[[], T]], at_once: int = 1) -> list[T]:
        """The results of the tasks. The first error ends all of them, as do the limit and Ctrl-C."""
        futures = [Future[T]() for _ in tasks]
        waiting = deque(zip(futures, tasks))
        try:
            for _ in range(min(at_once, len(tasks))):
                threading.Thread(target=self._work, args=(waiting,), name="puna-hub", daemon=True).start()
            return self._results(futures)
        except BaseException:
            self._stopped.set()
            raise

    def _work(self, waiting: deque[tuple[Future[T], Callable[[], T]]]) -> None:
        """What a thread does: one task after the other."""
        with suppress(IndexError):  # none is left
            while not self._stopped.is_set():
                future, task = waiting.popleft()
                try:
                    result = task()
                except BaseException as error:  # noqa: BLE001 - it is raised where the result is waited for
                    future.set_exception(error)
                else:
                    future.set_result(result)

    def _results(self, futures: Sequence[Future[T]]) -> list[T]:
        left = set(futures)
        while left:
            done, left = wait(left, POLL_S, FIRST_EXCEPTION)
            for future in done:
                future.result()
            if left:
                self.require()
        return [future.result() for future in futures]


@contextmanager
def answer(url: str, headers: Mapping[str, str], timeout_s: float, params: Mapping[str, Any] | None = None) -> Iterator[Any]:
    """The answer to a GET request, of which nothing but the head was read; a redirect only where there are too many."""
    from huggingface_hub.utils import get_session

    client = get_session()
    response = client.send(client.build_request("GET", url, params=params, headers=headers, timeout=timeout_s), **_HEAD_ONLY)
    try:
        for _ in range(MAX_REDIRECTS):
            if response.next_request is None:
                break
            _drain(response)
            response = client.send(response.next_request, **_HEAD_ONLY)
        yield response
    finally:
        response.close()


def _drain(response: Any) -> None:
    """A connection can be used again where all of an answer was read: that is done for short ones."""
    left = MAX_DRAINED_BYTES
    for chunk in response.iter_raw():
        left -= len(chunk)
        if left < 0:
            break
    response.close()


def require_success(name: HubName, response: Any) -> None:
    """Say of an answer that refuses what it means. Its body, which may have no end, is not read."""
    from huggingface_hub.utils import hf_raise_for_status

    if response.status_code // 100 == 3:
        raise DownloadError(f"could not fetch {name}: the server answers {response.status_code}, which leads nowhere")
    told = {key: response.headers[key] for key in ("x-error-code", "x-error-message") if key in response.headers}
    with hub_errors(name):
        hf_raise_for_status(type(response)(response.status_code, headers=told, request=response.request))


@contextmanager
def hub_errors(name: HubName) -> Iterator[None]:
    """Say of what the Hub refuses what it means."""
    from huggingface_hub.errors import GatedRepoError, HTTPError, RepositoryNotFoundError

    try:
        yield
    except GatedRepoError as error:
        raise DownloadError(
            f"{name}: its owner asks for an agreement first",
            hint=f"Agree on https://huggingface.co/{name.repo_id}, then `hf auth login`, or set HF_TOKEN.",
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelNotFoundError(
            f"{name}: there is no such repository, or it is private",
            hint="Check the spelling; for a private one `hf auth login`.",
        ) from error
    except (HTTPError, OSError, ValueError) as error:
        raise DownloadError(f"could not fetch {name}: {first_line(error)}", hint=_by_hand(name)) from error


def _by_hand(name: HubName) -> str:
    """What a person can do where the Hub is out of reach."""
    page = f"https://huggingface.co/{name.repo_id}"
    if not name.file:
        return f"Without the Hub: fetch the files of {page} elsewhere, put them into a folder, and give puna its path."
    return f"Without the Hub: fetch {page}/resolve/main/{name.file} elsewhere, and put it at {name.target(name.file)}"


def first_line(error: Exception) -> str:
    """The words of an error, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
