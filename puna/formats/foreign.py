"""What people have at hand instead of a model that puna reads: how it begins, what it is, what to do."""

from __future__ import annotations

from pathlib import Path

from puna.errors import UnsupportedModelError
from puna.formats.mapped import read_head

FOREIGN: tuple[tuple[tuple[bytes, ...], str, str], ...] = (
    ((b"tjgg", b"lmgg", b"fmgg", b"algg"), "a GGML file from before GGUF", "Fetch a newer conversion of the model, as GGUF."),
    ((b"FUGG",), "a GGUF file of the other byte order", "Fetch a little-endian one."),
    ((b"version https://git-lfs",), "a Git LFS pointer, not the model itself", "Run: git lfs pull"),
    ((b"<!DOCTYPE", b"<!doctype", b"<html"), "a web page, not a model", "The download went to a page; use the file's own link."),
)
HEAD_BYTES = 64


def refuse_foreign(path: Path) -> None:
    """UnsupportedModelError for a file that begins as one of these."""
    head = read_head(path, HEAD_BYTES)
    for beginnings, what, cure in FOREIGN:
        if head.startswith(beginnings):
            raise UnsupportedModelError(f"{path} is {what}", hint=cure)
