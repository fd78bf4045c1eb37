"""Fetches ranges of a repository's files by HTTP range requests and writes them to the same offsets of local files.

An answer must be exactly the requested range, of a file of exactly the size that the Hub announced. puna does not read an answer
with the whole file: a server without range support would send gigabytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from puna.errors import DownloadError
from puna.hub.listing import HubFile
from puna.hub.names import HubName
from puna.hub.web import TimeLimit, answer, reason, require_success
from puna.units import megabytes

CONNECTIONS = 8  # concurrent requests: an archive of torch.save needs some hundred small ranges
ATTEMPTS, FIRST_PAUSE_S = 5, 0.5  # per range; each pause is twice the last one
MAX_FETCHED_BYTES = 64 << 20  # per model; the headers of the largest take some ten
PASSING = (408, 429, 500, 502, 503, 504)  # temporary statuses, worth a retry
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})")


class ByteRange(NamedTuple):
    """A range to fetch."""

    file: HubFile
    target: Path  # a file of the announced size
    begin: int
    end: int  # the first byte after it


class _PassingError(Exception):
    """An error that another attempt may fix."""


@dataclass
class RangeFetcher:
    """Fetches ranges of one repository concurrently, within one limit of bytes and one of time."""

    name: HubName
    revision: str
    limit: TimeLimit
    fetched_bytes: int = 0

    def fetch(self, pieces: Sequence[ByteRange]) -> None:
        """Fetch pieces into their files. DownloadError if a piece fails, or if they exceed the byte limit."""
        num_bytes = sum(piece.end - piece.begin for piece in pieces)
        if self.fetched_bytes + num_bytes > MAX_FETCHED_BYTES:
            raise DownloadError(
                f"{self.name}: its headers need more than {megabytes(MAX_FETCHED_BYTES)}, which is the limit "
                "for a model that is not downloaded",
                hint=f"Fetch all of it first: puna pull {self.name}",
            )
        self.limit.run([partial(self._fetch, piece) for piece in pieces], CONNECTIONS)
        self.fetched_bytes += num_bytes

    def _fetch(self, piece: ByteRange) -> None:
        """Fetch one piece; each attempt resumes where the last one broke off."""
        with piece.target.open("r+b") as target:
            target.seek(piece.begin)
            for attempt in range(ATTEMPTS):
                try:
                    for chunk in self._chunks(piece, target.tell()):
                        target.write(chunk)
                    return
                except _PassingError as error:
                    why = error
                self.limit.pause(FIRST_PAUSE_S * 2**attempt)
        raise DownloadError(
            f"could not fetch {self.name}: {piece.file.name}: {why} ({ATTEMPTS} attempts)",
            hint="Check the connection, then try again later.",
        ) from why

    def _chunks(self, piece: ByteRange, begin: int) -> Iterator[bytes]:
        """The bytes from `begin` to the piece's end, as they arrive."""
        from huggingface_hub.constants import HF_HUB_DOWNLOAD_TIMEOUT
        from huggingface_hub.errors import HTTPError

        left = piece.end - begin
        if not left:
            return
        self.limit.require()
        try:
            with answer(self._url(piece), self._headers(begin, piece), HF_HUB_DOWNLOAD_TIMEOUT) as response:
                self._check(response, begin, piece)
                for chunk in response.iter_raw():
                    self.limit.require()
                    if len(chunk) > left:
                        raise self._refused(piece, f"the server sent more than the {piece.end - begin} bytes that puna asked for")
                    left -= len(chunk)
                    yield chunk
        except (HTTPError, OSError) as error:
            self.limit.require()
            raise _PassingError(reason(error)) from error
        if left:
            raise _PassingError(f"the connection was cut, {left} bytes short")

    def _url(self, piece: ByteRange) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self.name.repo_id, piece.file.name, revision=self.revision)

    def _headers(self, begin: int, piece: ByteRange) -> dict[str, str]:
        """Request no compression: ranges count bytes of the raw file."""
        from huggingface_hub.utils import build_hf_headers

        headers: dict[str, str] = {**build_hf_headers(library_name="puna"), "accept-encoding": "identity"}
        whole = (begin, piece.end) == (0, piece.file.size)
        return headers if whole else {**headers, "range": f"bytes={begin}-{piece.end - 1}"}

    def _check(self, response: Any, begin: int, piece: ByteRange) -> None:
        """Check the answer's headers against the request before reading its body."""
        if response.status_code in PASSING:
            raise _PassingError(f"the server answers {response.status_code}")
        require_success(self.name, response)
        if response.headers.get("content-encoding", "identity") != "identity":
            raise self._refused(piece, "the server compresses it")
        size, length = piece.file.size, response.headers.get("content-length")
        if response.status_code == 206:
            found = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
            if found is None or (int(found[1]), int(found[2]) + 1) != (begin, piece.end):
                raise self._refused(piece, f"puna asked for bytes {begin} to {piece.end - 1}, and the server sends others")
            if int(found[3]) != size:
                raise self._refused(piece, f"the Hub says {size} bytes, but the server says {found[3]}")
        elif (begin, piece.end) != (0, size):
            raise self._refused(piece, "the server sends the whole file instead of the requested part")
        elif length not in (None, str(size)):
            raise self._refused(piece, f"the Hub says {size} bytes, but the server says {length}")

    def _refused(self, piece: ByteRange, why: str) -> DownloadError:
        return DownloadError(f"{self.name}: {piece.file.name}: {why}. Refused.", hint=f"Fetch all of it: puna pull {self.name}")
