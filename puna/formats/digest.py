"""A digest of all that a model computes with: its sizes and every byte of its weights, whatever file they lie in.

Two fine-tunes differ in their bytes alone, perhaps in few of them, so every byte counts. Some gigabytes a second; a digest is
kept for files that have not changed since.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from puna.files import read_small, write_whole
from puna.formats.base import Checkpoint, Tensor, TokenizerSpec

PIECE_BYTES = 1 << 22
MAX_KEPT, MAX_KEPT_BYTES = 64, 1 << 20
# Before this process opens a model. A file that changed later may have been replaced after it was opened. Within a tick of the
# file system's clock a file may change without another time.
STARTED_NS, SETTLED_NS = time.time_ns(), 2_000_000_000


class StoppedError(Exception):
    """The caller no longer needs the digest."""


def content_digest(checkpoint: Checkpoint, is_needed: Callable[[], bool] = lambda: True) -> str:
    """Read all weights. Raises StoppedError as soon as `is_needed()` is False. The model's name does not count."""
    digest = hashlib.blake2b(repr(dataclasses.replace(checkpoint.config, name="")).encode(), digest_size=32)
    for name, tensor in sorted(checkpoint.tensors.items()):
        digest.update(f"\n{name} {tensor.shape} {tensor.type.name}\n".encode())
        for first in range(0, tensor.data.shape[0], step := _rows_of_a_piece(tensor)):
            if not is_needed():
                raise StoppedError
            digest.update(np.ascontiguousarray(tensor.data[first : first + step]).data)
        if tensor.scales is not None:
            digest.update(np.ascontiguousarray(tensor.scales).data)
    return digest.hexdigest()


def tokenizer_digest(spec: TokenizerSpec | None) -> str:
    """Of all that a tokenizer file says, whatever its path; "" if there is none."""
    if spec is None:
        return ""
    digest = hashlib.blake2b(digest_size=32)
    for field in dataclasses.fields(spec):
        value = "" if field.name == "source" else getattr(spec, field.name)
        data = value.tobytes() if isinstance(value, np.ndarray) else repr(_plain(value)).encode("utf-8", "surrogatepass")
        digest.update(f"\n{field.name} {len(data)}\n".encode() + data)
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """A row of any kind as a list: how it lies in memory does not count."""
    is_row = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    return list(value) if is_row else sorted(value.items()) if isinstance(value, Mapping) else value


def _rows_of_a_piece(tensor: Tensor) -> int:
    return max(1, PIECE_BYTES // max(1, tensor.data.shape[1]))


class KnownDigests:
    """A file of digests."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def find(self, checkpoint: Checkpoint) -> str | None:
        """The digest of these files, if they are as they were when it was computed."""
        facts = self._facts(checkpoint)
        found = None if facts is None else self._kept().get(_name(checkpoint))
        if isinstance(found, list) and len(found) == 2 and found[0] == facts and isinstance(found[1], str):
            return found[1]
        return None

    def keep(self, checkpoint: Checkpoint, digest: str) -> None:
        """Keep a digest of files that are certainly the ones that were opened. OSError if that fails."""
        if (facts := self._facts(checkpoint)) is not None:
            others = {name: kept for name, kept in self._kept().items() if name != _name(checkpoint)}
            kept = dict(list(others.items())[-MAX_KEPT + 1 :]) | {_name(checkpoint): [facts, digest]}
            write_whole(self._path, json.dumps(kept).encode())

    def _kept(self) -> dict[str, Any]:
        try:
            kept = json.loads(read_small(self._path, MAX_KEPT_BYTES) or b"{}")
        except (OSError, ValueError, RecursionError):
            return {}
        return kept if isinstance(kept, dict) else {}

    def _facts(self, checkpoint: Checkpoint) -> list[list[int]] | None:
        """Of each file what changes if its bytes do; None if that is not certain."""
        try:
            found = [path.stat() for path in checkpoint.files]
        except OSError:
            return None
        if not found or max(max(one.st_ctime_ns, one.st_mtime_ns) for one in found) > STARTED_NS - SETTLED_NS:
            return None
        return [[one.st_dev, one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns] for one in found]


def _name(checkpoint: Checkpoint) -> str:
    return "\n".join(str(path.absolute()) for path in checkpoint.files)
