"""Requests to the Hub, with limits on time and size that hold for any server.

They use `huggingface_hub`'s addresses, headers and client, which sends the token to the Hub alone. The client's timeouts restart
with every byte, so one time limit covers everything fetched for a model. Daemon threads make the requests: puna never waits for a
hung one at the limit, after Ctrl-C or at exit.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from puna.errors import DownloadError, ModelNotFoundError, first_line
from puna.hub.names import HubName

TIME_LIMIT_S = 180.0
POLL_S = 0.2  # Windows delivers Ctrl-C only between waits
MAX_REDIRECTS = 10
MAX_DRAINED_BYTES = 64 << 10
# puna follows redirects itself: the client would store their bodies, of any length.
_HEAD_ONLY: dict[str, Any] = {"stream": True, "follow_redirects": False}

T = TypeVar("T")


class TimeLimit:
    """The time limit for everything fetched for one model, and the tasks within it."""

    def __init__(self, name: HubName) -> None:
        self._name, self._seconds = name, TIME_LIMIT_S
        self._ends_at = time.monotonic() + self._seconds
        self._stopped = threading.Event()

    def require(self) -> None:
        """DownloadError if the time is over or the caller has stopped waiting."""
        if self._stopped.is_set():
            raise DownloadError(f"{self._name}: interrupted")
        if time.monotonic() > self._ends_at:
            raise DownloadError(
                f"could not fetch {self._name}: its headers did not arrive within {self._seconds:.0f} seconds",
                hint="Try again later, or on a faster connection.",
            )

    def pause(self, seconds: float) -> None:
        """Wait, but not longer than the limit."""
        self._stopped.wait(min(seconds, max(0.0, self._ends_at - time.monotonic())))

    def run(self, tasks: Sequence[Callable[[], T]], at_once: int = 1) -> list[T]:
        """The results of the tasks. The first error, the limit or Ctrl-C ends all of them."""
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
        """Run one task after the other in a thread."""
        with suppress(IndexError):  # none is left
            while not self._stopped.is_set():
                future, task = waiting.popleft()
                try:
                    result = task()
                except BaseException as error:  # noqa: BLE001 - the waiting caller raises it
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
    """The answer to a GET request, with only its head read. It is a redirect only after too many of them."""
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
    """Read short answers to their end, so that the connection can be reused."""
    left = MAX_DRAINED_BYTES
    for chunk in response.iter_raw():
        left -= len(chunk)
        if left < 0:
            break
    response.close()


def require_success(name: HubName, response: Any) -> None:
    """Turn an error status into a PunaError without reading the body, which may be endless."""
    from huggingface_hub.utils import hf_raise_for_status

    if response.status_code // 100 == 3:
        raise DownloadError(f"could not fetch {name}: the server answers {response.status_code}, a redirect without a target")
    told = {key: response.headers[key] for key in ("x-error-code", "x-error-message") if key in response.headers}
    with hub_errors(name):
        hf_raise_for_status(type(response)(response.status_code, headers=told, request=response.request))


@contextmanager
def hub_errors(name: HubName) -> Iterator[None]:
    """Turn a refusal of the Hub into a PunaError with its meaning."""
    from huggingface_hub.errors import GatedRepoError, HTTPError, RepositoryNotFoundError

    try:
        yield
    except GatedRepoError as error:
        raise DownloadError(
            f"{name}: its owner requires an agreement first",
            hint=f"Agree on https://huggingface.co/{name.repo_id}, then `hf auth login`, or set HF_TOKEN.",
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelNotFoundError(
            f"{name}: no such repository, or it is private",
            hint="Check the spelling; for a private repository: hf auth login",
        ) from error
    except (HTTPError, OSError, ValueError) as error:
        raise DownloadError(f"could not fetch {name}: {reason(error)}", hint=_by_hand(name)) from error


def _by_hand(name: HubName) -> str:
    """What a person can do if the Hub is unreachable."""
    page = f"https://huggingface.co/{name.repo_id}"
    if not name.file:
        return f"Without the Hub: fetch the files of {page} elsewhere, put them into a folder, and give puna its path."
    return f"Without the Hub: fetch {page}/resolve/main/{name.file} elsewhere, and put it at {name.target(name.file)}"


NO_ADDRESS = re.compile(r"\[Errno -?\d+\] (?:Name or service not known|Temporary failure in name resolution|nodename nor .*)")


def reason(error: Exception) -> str:
    """An error's text in one line. A name that the network does not resolve mostly means that there is no network."""
    if NO_ADDRESS.search(str(error)):
        return "its address was not found; is this machine on the internet?"
    return first_line(error)
