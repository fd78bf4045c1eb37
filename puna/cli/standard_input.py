"""Texts from standard input: UTF-8, or the encoding that a byte order mark names (PowerShell writes UTF-16)."""

from __future__ import annotations

import codecs
import io
import sys
from typing import BinaryIO, TextIO

from puna.errors import UsageError

# Byte order mark -> encoding. UTF-32 comes before UTF-16, whose mark is the first half of UTF-32's.
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
MARK = "\ufeff"


def marked_encoding(head: bytes) -> str | None:
    """The encoding that the first bytes of a text name; None if there is no byte order mark.

    >>> marked_encoding("hi".encode("utf-16")), marked_encoding(b"hi")
    ('utf-16-le', None)
    """
    return next((encoding for mark, encoding in BYTE_ORDER_MARKS if head.startswith(mark)), None)


def read_all(most: int = -1) -> str:
    """All of standard input, or `most` characters of it. UsageError if it is not Unicode text."""
    try:
        return LineReader().stream.read(most).removeprefix(MARK)
    except UnicodeDecodeError as error:
        raise _not_text(error) from error


class LineReader:
    """Reads standard input line by line."""

    def __init__(self) -> None:
        self.stream = _text_stream(sys.stdin)
        self._is_first = True

    def read(self) -> str:
        """The next line without its end. EOFError at the end, UsageError if it is not Unicode text."""
        try:
            line = self.stream.readline()
        except UnicodeDecodeError as error:
            raise _not_text(error) from error
        if self._is_first:
            line, self._is_first = line.removeprefix(MARK), False
        if not line:
            raise EOFError
        return line.rstrip("\r\n")


def _text_stream(stream: TextIO) -> TextIO:
    """`stream`, set to the encoding that its byte order mark names. Waits for the first bytes."""
    binary = getattr(stream, "buffer", None)
    if binary is not None and not stream.isatty():
        encoding = marked_encoding(_head(binary))
        if encoding is not None:
            stream.reconfigure(encoding=encoding)  # type: ignore[attr-defined]  # whatever has a buffer is a TextIOWrapper
    return stream


def _head(binary: BinaryIO) -> bytes:
    """The first bytes, which stay unread."""
    if isinstance(binary, io.BufferedReader):
        return binary.peek(4)[:4]
    start = binary.tell()
    head = binary.read(4)
    binary.seek(start)
    return head


def _not_text(error: UnicodeDecodeError) -> UsageError:
    byte = error.object[error.start]
    return UsageError(
        f"standard input is not {error.encoding.upper()} text: byte {byte:#04x} at position {error.start}",
        hint="Write it in UTF-8, or in UTF-16 with a byte order mark.",
    )
