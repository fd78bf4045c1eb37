"""Writes small PDF files for the tests of the page's reader, in every way that files store their objects."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence

Objects = Mapping[int, bytes]

HELVETICA = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>"
HEAD = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"


def stream(data: bytes, entries: bytes = b"", length: bytes | None = None) -> bytes:
    told = b"%d" % len(data) if length is None else length
    return b"<< %s /Length %s >>\nstream\n%s\nendstream" % (entries, told, data)


def flate(data: bytes, entries: bytes = b"") -> bytes:
    return stream(zlib.compress(data), b"/Filter /FlateDecode " + entries)


def document(*contents: bytes, fonts: Sequence[bytes] = (HELVETICA,), page: bytes = b"", more: Objects | None = None) -> Objects:
    """A page for each content stream. Fonts F1, F2 ... are objects 10, 11 ...; pages are 100, 102 ..., contents 101, 103 ..."""
    names = b" ".join(b"/F%d %d 0 R" % (at + 1, 10 + at) for at in range(len(fonts)))
    kids = b" ".join(b"%d 0 R" % (100 + 2 * at) for at in range(len(contents)))
    found = {1: b"<< /Type /Catalog /Pages 2 0 R >>", **{10 + at: font for at, font in enumerate(fonts)}}
    found[2] = b"<< /Type /Pages /Kids [%s] /Count %d /Resources << /Font << %s >> >> >>" % (kids, len(contents), names)
    for at, content in enumerate(contents):
        found[100 + 2 * at] = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents %d 0 R %s >>" % (
            101 + 2 * at,
            page,
        )
        found[101 + 2 * at] = content
    return {**found, **(more or {})}


def line(text: bytes, x: float = 50, y: float = 700, font: bytes = b"F1", size: float = 12) -> bytes:
    return b"BT /%s %g Tf %g %g Td (%s) Tj ET\n" % (font, size, x, y, text)


def written(objects: Objects, start: int = len(HEAD)) -> tuple[bytes, dict[int, int]]:
    """The objects one after the other, and where each begins."""
    body, places = b"", {}
    for number, value in objects.items():
        places[number] = start + len(body)
        body += b"%d 0 obj\n%s\nendobj\n" % (number, value)
    return body, places


def with_table(objects: Objects, trailer: bytes = b"/Root 1 0 R") -> bytes:
    body, places = written(objects)
    return HEAD + body + _table(places, len(HEAD) + len(body), trailer)


def _table(places: Mapping[int, int], at: int, trailer: bytes) -> bytes:
    rows = b"".join(b"%d 1\n%010d 00000 n \n" % (number, place) for number, place in places.items())
    size = max(places) + 1
    return b"xref\n0 1\n0000000000 65535 f \n%strailer\n<< /Size %d %s >>\nstartxref\n%d\n%%%%EOF\n" % (rows, size, trailer, at)


def updated(file: bytes, objects: Objects) -> bytes:
    """A file to which newer objects were added at its end."""
    before = int(file.rsplit(b"startxref\n", 1)[1].split(b"\n", 1)[0])
    body, places = written(objects, len(file))
    return file + body + _table(places, len(file) + len(body), b"/Root 1 0 R /Prev %d" % before)


def with_streams(objects: Objects, predictor: int = 12) -> bytes:
    """Object streams and a table in a stream, as files since PDF 1.5 have them."""
    plain = {number: value for number, value in objects.items() if b"stream" not in value}
    holder, table = max(objects) + 1, max(objects) + 2
    kept = {number: value for number, value in objects.items() if number not in plain} | {holder: _holder(plain)}
    body, places = written(kept)
    at = len(HEAD) + len(body)
    rows = {0: (0, 0, 0), table: (1, at, 0)} | {number: (1, place, 0) for number, place in places.items()}
    rows |= {number: (2, holder, index) for index, number in enumerate(plain)}
    numbers = sorted(rows)
    data = b"".join(
        kind.to_bytes(1) + place.to_bytes(4) + index.to_bytes(2) for kind, place, index in map(rows.__getitem__, numbers)
    )
    index = b" ".join(b"%d 1" % number for number in numbers)
    entries = b"/Type /XRef /W [1 4 2] /Index [%s] /Size %d /Root 1 0 R " % (index, table + 1)
    packed = flate(png_rows(data, 7, predictor), entries + b"/DecodeParms << /Predictor %d /Columns 7 >>" % predictor)
    return HEAD + body + b"%d 0 obj\n%s\nendobj\nstartxref\n%d\n%%%%EOF\n" % (table, packed, at)


def _holder(objects: Objects) -> bytes:
    heads, body = [], b""
    for number, value in objects.items():
        heads.append(b"%d %d" % (number, len(body)))
        body += value + b"\n"
    head = b" ".join(heads) + b" "
    return flate(head + body, b"/Type /ObjStm /N %d /First %d" % (len(objects), len(head)))


def png_rows(data: bytes, width: int, predictor: int) -> bytes:
    """Rows with a predictor before each: 10 none, 11 sub, 12 up, 13 average, 14 Paeth, of one byte a column."""
    return b"".join(_png_rows(data, width, predictor - 10))


def _png_rows(data: bytes, width: int, kind: int) -> Iterator[bytes]:
    above = bytes(width)
    for start in range(0, len(data), width):
        row = data[start : start + width].ljust(width, b"\0")
        left, corner = b"\0" + row[:-1], b"\0" + above[:-1]
        guesses = [(0, a, b, (a + b) // 2, _paeth(a, b, c))[kind] for a, b, c in zip(left, above, corner, strict=True)]
        yield bytes([kind, *((byte - guess) & 255 for byte, guess in zip(row, guesses, strict=True))])
        above = row


def _paeth(left: int, up: int, corner: int) -> int:
    guess = left + up - corner
    return min((left, up, corner), key=lambda one: abs(guess - one))


def lzw(data: bytes) -> bytes:
    """LZW with codes that grow early, as PDF has it."""
    table = {bytes([byte]): byte for byte in range(256)}
    bits, width, before = f"{256:09b}", 9, b""
    for byte in data:
        piece = before + bytes([byte])
        if piece in table:
            before = piece
            continue
        bits += f"{table[before]:0{width}b}"
        table[piece] = len(table) + 2
        width = max(9, (len(table) + 2).bit_length())
        before = bytes([byte])
        if len(table) > 4000:
            bits += f"{256:0{width}b}"
            table, width = {bytes([one]): one for one in range(256)}, 9
    bits += f"{table[before]:0{width}b}" if before else ""
    width = max(9, (len(table) + 3).bit_length())
    bits += f"{257:0{width}b}"
    return int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8))


def cmap(*lines: str) -> bytes:
    """A ToUnicode map of two-byte codes."""
    return stream(("1 begincodespacerange <0000> <FFFF> endcodespacerange\n" + "\n".join(lines)).encode())


def composite(to_unicode: bytes = b"", encoding: bytes = b"/Identity-H", widths: bytes = b"") -> bytes:
    descendant = b"<< /Type /Font /Subtype /CIDFontType2 /BaseFont /Some /DW 1000 %s >>" % widths
    return b"<< /Type /Font /Subtype /Type0 /BaseFont /Some /Encoding %s /DescendantFonts [%s] %s >>" % (
        encoding,
        descendant,
        to_unicode,
    )
