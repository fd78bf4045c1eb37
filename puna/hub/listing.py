"""The list of a repository's files from the Hub, with limits on its length and checks of each value's type."""

from __future__ import annotations

import json
import re
import reprlib
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from puna.hub.names import HubName
from puna.hub.web import TimeLimit, answer, hub_errors, require_success
from puna.units import rough_gib

TIMEOUT_S = 30.0  # timeout of each step
MAX_LISTING_BYTES = 16 << 20  # some 60,000 files
MAX_FILE_BYTES = 1 << 50
MAX_NAME_LENGTH = 1024
_REVISION = re.compile(r"[0-9a-f]{1,64}")

T = TypeVar("T")


class HubFile(NamedTuple):
    """A file of a repository. The Hub gives one checksum for it, which may still be invalid."""

    name: str
    size: int | None
    sha256: str | None  # of an LFS blob
    git_sha1: str | None  # its git blob id


class Listing(NamedTuple):
    """The contents of a repository."""

    revision: str
    files: dict[str, HubFile]


def fetch_listing(name: HubName, limit: TimeLimit) -> Listing:
    """Ask the Hub. ModelNotFoundError if there is no such repository, DownloadError if the answer is invalid."""
    (listing,) = limit.run([lambda: _listing(name, limit)])
    return listing


def _listing(name: HubName, limit: TimeLimit) -> Listing:
    with hub_errors(name):
        return _understood(_parsed(_fetched(name, limit)))


def _fetched(name: HubName, limit: TimeLimit) -> bytes:
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, validate_repo_id

    validate_repo_id(name.repo_id)
    url = f"{constants.ENDPOINT}/api/models/{name.repo_id}"
    headers = {**build_hf_headers(library_name="puna"), "accept-encoding": "gzip"}
    with answer(url, headers, TIMEOUT_S, {"blobs": True}) as response:
        require_success(name, response)
        return _body(response, limit)


def _body(response: Any, limit: TimeLimit) -> bytes:
    """All bytes of an answer, with no more than the limit in memory. (The client would decompress whole chunks.)"""
    encoding = response.headers.get("content-encoding", "identity")
    if encoding not in _DECODERS:
        raise ValueError(f"the list of its files is compressed by {reprlib.repr(encoding)}, which puna did not ask for")
    decode, body = _DECODERS[encoding](), bytearray()
    for chunk in response.iter_raw():
        limit.require()
        body += decode(chunk, MAX_LISTING_BYTES + 1 - len(body))
        if len(body) > MAX_LISTING_BYTES:
            raise ValueError(f"the list of its files has more than {rough_gib(MAX_LISTING_BYTES)}")
    return bytes(body)


def _gzip_decoder() -> Callable[[bytes, int], bytes]:
    inflate = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)

    def decode(chunk: bytes, max_bytes: int) -> bytes:
        try:
            return inflate.decompress(chunk, max_bytes)
        except zlib.error as error:
            raise ValueError(f"the list of its files cannot be decompressed: {error}") from None

    return decode


_DECODERS: dict[str, Callable[[], Callable[[bytes, int], bytes]]] = {
    "identity": lambda: lambda chunk, max_bytes: chunk[:max_bytes],
    "gzip": _gzip_decoder,
}


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError("the list of its files is not JSON: check the address of the Hub (HF_ENDPOINT)") from error


# ---- what it says ---------------------------------------------------------------------------------------------------


def _understood(told: Any) -> Listing:
    """ValueError if a value has the wrong type."""
    repository = _of_kind(told, dict, "the answer")
    revision = _of_kind(repository.get("sha"), str, "sha", "main")
    if revision != "main" and not _REVISION.fullmatch(revision):
        raise _wrong("sha", revision)
    files = [_file(entry) for entry in _of_kind(repository.get("siblings"), list, "siblings", [])]
    return Listing(revision, {file.name: file for file in files})


def _file(entry: Any) -> HubFile:
    told = _of_kind(entry, dict, "an entry of siblings")
    name = _of_kind(told.get("rfilename"), str, "rfilename")
    if not 0 < len(name) <= MAX_NAME_LENGTH:
        raise _wrong("rfilename", name)
    size = _optional(told, "size", int, name)
    if size is not None and not 0 <= size <= MAX_FILE_BYTES:
        raise _wrong("size", size, name)
    lfs = _optional(told, "lfs", dict, name)
    sha256 = None if lfs is None else _of_kind(lfs.get("sha256"), str, f"lfs.sha256 of {_short(name)}")
    return HubFile(name, size, sha256, _optional(told, "blobId", str, name))


def _optional(entry: dict[str, Any], key: str, kind: type[T], name: str) -> T | None:
    value = entry.get(key)
    return None if value is None else _of_kind(value, kind, f"{key} of {_short(name)}")


def _of_kind(value: Any, kind: type[T], what: str, default: T | None = None) -> T:
    """An int that is not a bool."""
    if value is None and default is not None:
        return default
    if type(value) is not kind:
        raise _wrong(what, value)
    return value


def _wrong(what: str, value: Any, name: str = "") -> ValueError:
    where = f" of {_short(name)}" if name else ""
    return ValueError(f"the Hub's list of its files is invalid: {what}{where} is {reprlib.repr(value)}")


def _short(name: str) -> str:
    return name if len(name) <= 80 else f"{name[:80]}..."
