"""Ranges of the files of a repository, by HTTP range requests: bytes of the Hub to their places in local files.

The requests are `huggingface_hub`'s own: its addresses, headers and client, which follows redirects and sends the token to the
Hub alone. An answer must be just the range that was asked for, of a file of just the size that the Hub announced. One that is the
whole file is not read: a server that knows no ranges would send gigabytes.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from puna.errors import DownloadError
from puna.hub.huggingface import hub_errors
from puna.hub.names import HubName

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

CONNECTIONS = 8  # at once: an archive of torch.save asks for some hundred small ranges
ATTEMPTS, FIRST_PAUSE_S = 5, 0.5  # of one range; each pause is twice the one before
MAX_FETCHED_BYTES = 64 << 20  # of one model; the headers of the largest take some ten
TIME_LIMIT_S = 180.0
PASSING = (408, 429, 500, 502, 503, 504)  # statuses that may be others a moment later
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class Piece(NamedTuple):
    """A range to be fetched."""

    file: RepoSibling
    target: Path  # a file of the announced size
    begin: int
    end: int  # the first byte behind it


class _PassingError(Exception):
    """What another attempt may mend."""


@dataclass
class RangeFetcher:
    """Fetches ranges of one repository, several at once, within one limit of bytes and one of time."""

    name: HubName
    revision: str
    fetched_bytes: int = 0
    _ends_at: float = field(default_factory=lambda: time.monotonic() + TIME_LIMIT_S)
    _stop: threading.Event = field(default_factory=threading.Event)
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(CONNECTIONS, "puna-ranges"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Requests under way end at their next byte; they are not waited for."""
        self._stop.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def fetch(self, pieces: Sequence[Piece]) -> None:
        """Bring pieces to their places. DownloadError where one cannot be had, or where they are too many bytes."""
        num_bytes = sum(piece.end - piece.begin for piece in pieces)
        if self.fetched_bytes + num_bytes > MAX_FETCHED_BYTES:
            raise DownloadError(
                f"{self.name}: what tells its sizes takes more than {MAX_FETCHED_BYTES / 1e6:.0f} MB of it, which is the limit "
                "for a model that is not downloaded",
                hint=f"Fetch all of it first: puna pull {self.name}",
            )
        futures = [self._pool.submit(self._fetch, piece) for piece in pieces]
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()
        self.fetched_bytes += num_bytes

    def _fetch(self, piece: Piece) -> None:
        """One piece; an attempt goes on where the one before was cut."""
        with piece.target.open("r+b") as target:
            target.seek(piece.begin)
            for attempt in range(ATTEMPTS):
                try:
                    for chunk in self._chunks(piece, target.tell()):
                        target.write(chunk)
                    return
                except _PassingError as error:
                    why = error
                self._stop.wait(min(FIRST_PAUSE_S * 2**attempt, max(0.0, self._ends_at - time.monotonic())))
        raise DownloadError(
            f"could not fetch {self.name}: {piece.file.rfilename}: {why} ({ATTEMPTS} attempts)",
            hint="Check the connection, and try again later.",
        ) from why

    def _chunks(self, piece: Piece, begin: int) -> Iterator[bytes]:
        """The bytes from `begin` to the piece's end, as they arrive."""
        from huggingface_hub.constants import HF_HUB_DOWNLOAD_TIMEOUT
        from huggingface_hub.errors import HTTPError
        from huggingface_hub.utils import get_session

        left = piece.end - begin
        if not left:
            return
        self._require_time()
        try:
            with get_session().stream(
                "GET", self._url(piece), headers=self._headers(begin, piece), timeout=HF_HUB_DOWNLOAD_TIMEOUT
            ) as response:
                self._check(response, begin, piece)
                for chunk in response.iter_raw():
                    self._require_time()
                    if len(chunk) > left:
                        raise self._refused(piece, f"more bytes came than the {piece.end - begin} that were asked for")
                    left -= len(chunk)
                    yield chunk
        except (HTTPError, OSError) as error:
            self._require_time()
            raise _PassingError((str(error).strip().splitlines() or [type(error).__name__])[0][:300]) from error
        if left:
            raise _PassingError(f"the connection was cut, {left} bytes short")

    def _url(self, piece: Piece) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self.name.repo_id, piece.file.rfilename, revision=self.revision)

    def _headers(self, begin: int, piece: Piece) -> dict[str, str]:
        """No compression: ranges are of the file as it is."""
        from huggingface_hub.utils import build_hf_headers

        headers: dict[str, str] = {**build_hf_headers(library_name="puna"), "accept-encoding": "identity"}
        whole = (begin, piece.end) == (0, piece.file.size)
        return headers if whole else {**headers, "range": f"bytes={begin}-{piece.end - 1}"}

    def _check(self, response: Any, begin: int, piece: Piece) -> None:
        """See that the answer will be what was asked for, before any of it is read."""
        from huggingface_hub.utils import hf_raise_for_status

        if response.status_code in PASSING:
            raise _PassingError(f"the server answers {response.status_code}")
        with hub_errors(self.name):
            hf_raise_for_status(response)
        if response.headers.get("content-encoding", "identity") != "identity":
            raise self._refused(piece, "the server sends it compressed")
        size, length = piece.file.size, response.headers.get("content-length")
        if response.status_code == 206:
            found = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
            if found is None or (int(found[1]), int(found[2]) + 1) != (begin, piece.end):
                raise self._refused(piece, f"bytes {begin} to {piece.end - 1} were asked for, and others were sent")
            if int(found[3]) != size:
                raise self._refused(piece, f"the Hub says that it has {size} bytes, and the server that it has {found[3]}")
        elif (begin, piece.end) != (0, size):
            raise self._refused(piece, "the server sends the whole file where a part of it was asked for")
        elif length not in (None, str(size)):
            raise self._refused(piece, f"the Hub says that it has {size} bytes, and the server that it has {length}")

    def _require_time(self) -> None:
        if self._stop.is_set():
            raise DownloadError(f"{self.name}: interrupted")
        if time.monotonic() > self._ends_at:
            raise DownloadError(
                f"could not fetch {self.name}: what tells its sizes had not come after {TIME_LIMIT_S:.0f} seconds",
                hint="Try again later, or on a faster line.",
            )

    def _refused(self, piece: Piece, why: str) -> DownloadError:
        return DownloadError(
            f"{self.name}: {piece.file.rfilename}: {why}. Refused.", hint=f"Fetch all of it: puna pull {self.name}"
        )
