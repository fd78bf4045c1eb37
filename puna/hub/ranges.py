"""Ranges of the files of a repository, by HTTP range requests: bytes of the Hub to their places in local files.

An answer must be just the range that was asked for, of a file of just the size that the Hub announced. One that is the
whole file is not read: a server that knows no ranges would send gigabytes.
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
from puna.hub.web import TimeLimit, answer, first_line, require_success

CONNECTIONS = 8  # at once: an archive of torch.save asks for some hundred small ranges
ATTEMPTS, FIRST_PAUSE_S = 5, 0.5  # of one range; each pause is twice the one before
MAX_FETCHED_BYTES = 64 << 20  # of one model; the headers of the largest take some ten
PASSING = (408, 429, 500, 502, 503, 504)  # statuses that may be others a moment later
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})")


class Piece(NamedTuple):
    """A range to be fetched."""

    file: HubFile
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
    limit: TimeLimit
    fetched_bytes: int = 0

    def fetch(self, pieces: Sequence[Piece]) -> None:
        """Bring pieces to their places. DownloadError where one cannot be had, or where they are too many bytes."""
        num_bytes = sum(piece.end - piece.begin for piece in pieces)
        if self.fetched_bytes + num_bytes > MAX_FETCHED_BYTES:
            raise DownloadError(
                f"{self.name}: what tells its sizes takes more than {MAX_FETCHED_BYTES / 1e6:.0f} MB of it, which is the limit "
                "for a model that is not downloaded",
                hint=f"Fetch all of it first: puna pull {self.name}",
            )
        self.limit.run([partial(self._fetch, piece) for piece in pieces], CONNECTIONS)
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
                self.limit.pause(FIRST_PAUSE_S * 2**attempt)
        raise DownloadError(
            f"could not fetch {self.name}: {piece.file.name}: {why} ({ATTEMPTS} attempts)",
            hint="Check the connection, and try again later.",
        ) from why

    def _chunks(self, piece: Piece, begin: int) -> Iterator[bytes]:
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
                        raise self._refused(piece, f"more bytes came than the {piece.end - begin} that were asked for")
                    left -= len(chunk)
                    yield chunk
        except (HTTPError, OSError) as error:
            self.limit.require()
            raise _PassingError(first_line(error)) from error
        if left:
            raise _PassingError(f"the connection was cut, {left} bytes short")

    def _url(self, piece: Piece) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self.name.repo_id, piece.file.name, revision=self.revision)

    def _headers(self, begin: int, piece: Piece) -> dict[str, str]:
        """No compression: ranges are of the file as it is."""
        from huggingface_hub.utils import build_hf_headers

        headers: dict[str, str] = {**build_hf_headers(library_name="puna"), "accept-encoding": "identity"}
        whole = (begin, piece.end) == (0, piece.file.size)
        return headers if whole else {**headers, "range": f"bytes={begin}-{piece.end - 1}"}

    def _check(self, response: Any, begin: int, piece: Piece) -> None:
        """See that the answer will be what was asked for, before any of it is read."""
        if response.status_code in PASSING:
            raise _PassingError(f"the server answers {response.status_code}")
        require_success(self.name, response)
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

    def _refused(self, piece: Piece, why: str) -> DownloadError:
        return DownloadError(f"{self.name}: {piece.file.name}: {why}. Refused.", hint=f"Fetch all of it: puna pull {self.name}")
