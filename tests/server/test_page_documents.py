"""Files that the page reads: PDF, Word and text, made here. test_page_documents_of_programs.py has other programs' files."""

from __future__ import annotations

import base64
import io
import json
import random
import time
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

from tests.server import pdfs
from tests.server.node import FOLDER, evaluated, needs_node
from tests.server.pdfs import HELVETICA, cmap, composite, document, flate, line, stream, with_streams, with_table

pytestmark = needs_node()

MAX_S = 30  # on a busy machine; alone each takes about a second

READ = """
    (async () => {
      const found = [];
      for (const one of given) {
        try {
          found.push(await readDocument(new Blob([Buffer.from(one, "base64")])));
        } catch (error) {
          found.push({ problem: error.textName ?? String(error.stack) });
        }
      }
      return found;
    })()
"""


def read(*files: bytes) -> Any:
    given = [base64.b64encode(file).decode() for file in files]
    return evaluated("documents/read.js", "readDocument", READ, given)


def texts(files: Mapping[str, bytes]) -> dict[str, str]:
    """What each file says, or the name of the problem."""
    found = read(*files.values())
    return {name: one.get("text", one.get("problem")) for name, one in zip(files, found, strict=True)}


# --- what a page says

PAGES = {
    "a line": (stream(line(b"Hello there")), "Hello there"),
    "escapes": (
        stream(
            line(
                rb"\(a\\b\) \101\n(c) d\
e"
            )
        ),
        "(a\\b) A(c) de",
    ),
    "umlauts": (stream(line(rb"Gr\374\337e aus K\366ln \200 5")), "Grüße aus Köln € 5"),
    "hexadecimal": (stream(b"BT /F1 12 Tf 50 700 Td <48 65 6C6C6F> Tj ET"), "Hello"),
    "two lines": (stream(line(b"one") + line(b"two", y=686)), "one\ntwo"),
    "a paragraph": (stream(line(b"one") + line(b"two", y=660)), "one\n\ntwo"),
    "next lines": (stream(b"BT /F1 12 Tf 14 TL 50 700 Td (a) Tj T* (b) Tj (c) ' 0 0 (d) \" 0 -14 TD (e) Tj ET"), "a\nb\nc\nd\ne"),
    "kerning": (stream(b"BT /F1 12 Tf 50 700 Td [(W) 80 (or) -20 (ds) -300 (apart)] TJ ET"), "Words apart"),
    "words by place": (stream(line(b"left") + line(b"right", x=75)), "left right"),
    "a table": (stream(line(b"name") + line(b"42", x=200)), "name\t42"),
    "an index": (stream(line(b"x") + line(b"2", x=56, y=704, size=8) + line(b"+1", x=61)), "x2+1"),
    "two columns": (
        stream(line(b"a1", y=700) + line(b"a2", y=686) + line(b"b1", x=300, y=700) + line(b"b2", x=300, y=686)),
        "a1\na2\n\nb1\nb2",
    ),
    "a rotated text": (stream(b"BT /F1 12 Tf 0 1 -1 0 100 100 Tm (up) Tj 0 -14 Td (wards) Tj ET"), "up\nwards"),
    "a scaled page": (
        stream(b"q 0.1 0 0 -0.1 0 800 cm BT /F1 120 Tf 1 0 0 -1 500 1000 Tm (big) Tj 0 -140 Td (ger) Tj ET Q"),
        "big\nger",
    ),
    "bold by two prints": (stream(line(b"Bold") + line(b"Bold", x=50.3)), "Bold"),
    "accents of TeX": (stream(b"BT /F1 12 Tf 50 700 Td [(f) (\\250) 333 (u) (r)] TJ ET"), "für"),
    "invisible": (stream(b"BT 3 Tr /F1 12 Tf 50 700 Td (scanned) Tj ET"), "scanned"),
    "a picture inside": (stream(line(b"a") + b"BI /W 2 /H 1 /BPC 8 /CS /G ID \x00EI( EI\n" + line(b"b", y=686)), "a\nb"),
    "text for a drawing": (stream(b"/Span << /ActualText <FEFF00660066> >> BDC " + line(b"\\001\\002") + b"EMC"), "ff"),
    "a soft hyphen": (stream(line(rb"Buch\255") + line(b"laden", y=686)), "Buch-\nladen"),
    "unknown operators": (stream(b"/GS1 gs 1 0 0 rg 10 10 m 20 20 l S xyzzy " + line(b"text")), "text"),
    "wrong operands": (stream(b"Tf Td (x) Td [ (a) /B Tj 1 2 3 cm Tm " + line(b"text")), "text"),
}


def test_what_a_page_says() -> None:
    assert texts({name: with_table(document(content)) for name, (content, _) in PAGES.items()}) == {
        name: text for name, (_, text) in PAGES.items()
    }


def font(entries: bytes, base: bytes = b"/BaseFont /Some") -> bytes:
    return b"<< /Type /Font /Subtype /Type1 %s %s >>" % (base, entries)


TYPE_1 = (
    b"%!PS\n/Encoding 256 array 0 1 255 {1 index exch /.notdef put} for\n"
    b"dup 11 /ff put\ndup 65 /Gamma put\nreadonly def\ncurrentfile eexec\x80\x00"
)
FONTS: dict[str, tuple[bytes, bytes, str]] = {
    "standard": (font(b"/Encoding /StandardEncoding"), rb"\140a' \256\257 \341\373", "‘a’ fifl Æß"),
    "none told": (font(b""), rb"it's \252x\272", "it’s “x”"),
    "of the Macintosh": (font(b"/Encoding /MacRomanEncoding"), rb"\212\205\345", "äÖÂ"),
    "differences": (
        font(b"/Encoding << /Differences [1 /adieresis /ccaron /f_f_i /uni20AC /A.alt 65 /fl /Omega /u1F600] >>"),
        rb"\001\002\003\004\005ABC",
        "äčffi€AflΩ😀",
    ),
    "bitmaps of TeX": (font(b"/Encoding << /Differences [12 /a12 65 /a65 92 /a92] >>"), rb"\014A\\", "fiA“"),
    "bitmaps of TeX for Europe": (font(b"/Encoding << /Differences [28 /a28 228 /a228 255 /a255] >>"), rb"\034\344\377", "fiäß"),
    "of signs": (font(b"", b"/BaseFont /Symbol"), b"a b W", "α β Ω"),
    "of the program": (font(b"/FontDescriptor << /Type /FontDescriptor /Flags 4 /FontFile 50 0 R >>"), rb"\013A", "ffΓ"),
    "to Unicode": (font(b"/ToUnicode 51 0 R"), b"ABCDE", "xyyzffi"),
    "composite": (composite(b"/ToUnicode 52 0 R"), rb"\000\001\000\002\001\000\000\003", "中文🙂fi"),
    "Kangxi radicals": (composite(b"/ToUnicode 53 0 R"), rb"\000\001\000\002", "日本"),
    "of Unicode": (composite(encoding=b"/UniGB-UCS2-H"), rb"\116\055\145\207", "中文"),
    "of China": (composite(encoding=b"/GBK-EUC-H"), rb"\326\320\316\304 A", "中文 A"),
    "of Japan": (composite(encoding=b"/90ms-RKSJ-H"), rb"\223\372\226\173", "日本"),
    "vertical": (composite(encoding=b"/UniJIS-UCS2-V"), rb"\145\345\147\054", "日本"),
    "its own codes": (composite(b"/ToUnicode 54 0 R", encoding=b"55 0 R"), rb"A\201\001", "ab"),
}
MAPS = {
    50: flate(TYPE_1),
    51: stream(
        b"begincmap 2 beginbfrange <41> <42> <0078> <43> <44> [<0079> <007A>] endbfrange 1 beginbfchar <45> <FB03> endbfchar"
    ),
    52: cmap(
        "2 beginbfchar <0001> <4E2D> <0002> <6587> endbfchar",
        "1 beginbfrange <0100> <0102> <D83DDE42> endbfrange <0003> <FB01> 1 beginbfchar <0003> <FB01> endbfchar",
    ),
    53: cmap("1 beginbfchar <0001> <2F47> <0002> <672C> endbfchar"),
    54: stream(b"2 beginbfchar <41> <0061> <8101> <0062> endbfchar"),
    55: stream(b"2 begincodespacerange <00> <80> <8100> <81FF> endcodespacerange"),
}


def test_the_letters_of_each_kind_of_font() -> None:
    files = {name: with_table(document(stream(line(codes)), fonts=[made], more=MAPS)) for name, (made, codes, _) in FONTS.items()}
    assert texts(files) == {name: text for name, (_, _, text) in FONTS.items()}


def test_streams_unpack() -> None:
    content = line(b"packed") * 40 + line(b"end", y=600)
    backed = base64.a85encode(content) + b"~>"
    runs = b"".join(bytes([len(piece) - 1]) + piece for piece in (content[at : at + 100] for at in range(0, len(content), 100)))
    many = random.Random(1).choices([line(b"packed"), line(b"end", y=600), b" "], k=2000)
    long = line(b"packed") + b"".join(b"% " + piece for piece in many) + line(b"end", y=600)
    packed = {
        "zlib": flate(content),
        "LZW": stream(pdfs.lzw(content), b"/Filter /LZWDecode"),
        "long LZW": stream(pdfs.lzw(long), b"/Filter [/LZWDecode]"),
        "hexadecimal": stream(content.hex().encode() + b">", b"/Filter /ASCIIHexDecode"),
        "base 85": stream(backed, b"/Filter /A85"),
        "runs": stream(runs + b"\x80", b"/Filter /RunLengthDecode"),
        "two filters": stream(base64.a85encode(zlib.compress(content)) + b"~>", b"/Filter [/ASCII85Decode /FlateDecode]"),
        "junk after its end": stream(zlib.compress(content) + b"\r\n\0junk", b"/Filter /FlateDecode"),
        "a wrong checksum": stream(zlib.compress(content)[:-4] + b"\0\0\0\0", b"/Filter /FlateDecode"),
        "a wrong length": stream(content, length=b"7"),
        "a length elsewhere": stream(content, length=b"60 0 R"),
        "a length that needs itself": stream(content, length=b"101 0 R"),
    }
    files = {name: with_table(document(one, more={60: b"%d" % len(content)})) for name, one in packed.items()}
    assert texts(files) == dict.fromkeys(files, "packed\n\nend")


def test_a_stream_that_is_cut_gives_its_beginning() -> None:
    packed = zlib.compress(b"".join(line(b"%d" % at, y=700 - 14 * at) for at in range(40)), 1)
    [found] = read(with_table(document(stream(packed[: len(packed) // 2], b"/Filter /FlateDecode"))))
    assert found["text"].startswith("0\n1\n2\n")


SIMPLE = document(stream(line(b"first page")), flate(line(b"second page")))
BOTH = "first page\n\nsecond page"


def test_every_way_to_store_objects() -> None:
    table = with_table(SIMPLE)
    newer = {101: stream(line(b"another page"))}
    files = {
        "a table": table,
        **{f"object streams, predictor {kind}": with_streams(SIMPLE, kind) for kind in range(10, 15)},
        "bytes before it": b"\r\n\r\n" + table,
        "bytes after it": table + b"\n" * 500,
        "a wrong place of the table": table.replace(b"startxref\n", b"startxref\n1"),
        "no table": table[: table.index(b"xref\n")] + b"trailer << /Root 1 0 R >>",
        "no trailer": table[: table.index(b"xref\n")],
        "wrong places of objects": with_table(SIMPLE).replace(b"%PDF-1.7\n", b"%PDF-1.7\n% longer than it was\n"),
        "a table that is cut": table[: table.index(b"xref\n") + 60],
        "object streams without a table": with_streams(SIMPLE).replace(b"startxref", b"startxxxx"),
        "numbers off by one": table.replace(b"xref\n0 1\n", b"xref\n1 1\n"),
    }
    assert texts(files) == dict.fromkeys(files, BOTH)
    assert texts({"newer": pdfs.updated(table, newer)}) == {"newer": "another page\n\nsecond page"}
    assert [one["pages"] for one in read(table, with_streams(SIMPLE))] == [2, 2]


def test_pages_come_in_the_order_of_their_tree() -> None:
    contents = [stream(line(b"page %d" % at)) for at in range(5)]
    objects = dict(document(*contents))
    objects[2] = b"<< /Type /Pages /Kids [106 0 R 3 0 R 100 0 R 2 0 R] /Count 4 >>"
    objects[3] = b"<< /Type /Pages /Kids [104 0 R 102 0 R 104 0 R] /Resources << /Font << /F1 10 0 R >> >> >>"
    for at in (100, 106):
        objects[at] = objects[at].replace(b"/Parent 2 0 R", b"/Parent 2 0 R /Resources << /Font << /F1 10 0 R >> >>")
    assert texts({"tree": with_table(objects)}) == {"tree": "page 3\n\npage 2\n\npage 1\n\npage 0"}
    del objects[2]
    assert texts({"no tree": with_table(objects)}) == {"no tree": "page 0\n\npage 3"}  # the others lack their fonts


def test_forms_are_drawn_where_they_stand() -> None:
    form = stream(b"BT /F1 12 Tf 50 0 Td (inside) Tj ET", b"/Type /XObject /Subtype /Form /Matrix [1 0 0 1 0 686]")
    content = stream(line(b"before") + b"q /X1 Do Q " + line(b"after", y=672))
    page = b"/Resources << /Font << /F1 10 0 R >> /XObject << /X1 30 0 R >> >>"
    assert texts({"form": with_table(document(content, page=page, more={30: form}))}) == {"form": "before\ninside\nafter"}


# --- files that are no good

PICTURE = {30: stream(b"\0", b"/Type /XObject /Subtype /Image /Width 1 /Height 1")}
WITH_X = b"/Resources << /Font << /F1 10 0 R >> /XObject << /X1 30 0 R >> >>"
ITSELF = {30: stream(b"/X1 Do " * 3 + line(b"x"), b"/Subtype /Form")}
NESTED = b"[" * 100_000
PROBLEMS = {
    "protected": (with_table(SIMPLE, b"/Root 1 0 R /Encrypt << /Filter /Standard >>"), "fileEncrypted"),
    "a scan": (with_table(document(stream(b"/X1 Do"), page=WITH_X, more=PICTURE)), "pdfNoText"),
    "no page": (with_table({1: b"<< /Type /Catalog >>"}), "fileDamaged"),
    "only its mark": (b"%PDF-1.4\n", "fileDamaged"),
    "without its contents": (with_table(SIMPLE).split(b"101 0 obj")[0] + b"trailer << /Root 1 0 R >>", "fileDamaged"),
    "half of it": (with_table(SIMPLE)[:150], "fileDamaged"),
    "unknown letters": (with_table(document(stream(line(rb"\000\001\000\002")), fonts=[composite()])), "pdfUnknownLetters"),
    "nested arrays": (with_table(document(stream(NESTED))), "fileDamaged"),
    "nested dictionaries": (with_table({**SIMPLE, 1: b"<< /A " * 100_000}), "fileDamaged"),
    "a bomb": (with_table(document(flate(bytes(40 << 20)))), "fileTooLong"),
    "a bomb of bombs": (
        with_table(document(stream(zlib.compress(zlib.compress(bytes(40 << 20))), b"/Filter [/Fl /Fl]"))),
        "fileTooLong",
    ),
    "an archive": (b"PK\x03\x04 and no more", "fileDamaged"),
    "an old document": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "fileOldOffice"),
    "rich text": (b"{\\rtf1 text}", "fileOldOffice"),
    "a picture": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "fileNoText"),
    "nothing": (b"", "fileEmpty"),
    "spaces": (b" \n\t", "fileEmpty"),
}


def test_a_file_that_is_no_good_has_its_sentence() -> None:
    assert texts({name: file for name, (file, _) in PROBLEMS.items()}) == {
        name: problem for name, (_, problem) in PROBLEMS.items()
    }


def loops() -> dict[str, bytes]:
    table = with_table(SIMPLE)
    at = table.index(b"xref\n")
    deep = {number: b"<< /Type /Pages /Kids [%d 0 R] >>" % (number + 1) for number in range(200, 6_000)}
    return {
        "a table before itself": table.replace(b"/Root 1 0 R", b"/Root 1 0 R /Prev %d" % at),
        "a form in itself": with_table(document(stream(line(b"y") + b"/X1 Do"), page=WITH_X, more=ITSELF)),
        "pages in each other": with_table({**SIMPLE, 2: SIMPLE[2].replace(b"[", b"[2 0 R 2 0 R "), 1: SIMPLE[1]}),
        "a deep tree": with_table({**SIMPLE, **deep, 2: SIMPLE[2].replace(b"[", b"[200 0 R ")}),
        "references in a circle": with_table({**SIMPLE, 10: b"11 0 R", 11: b"10 0 R", 12: HELVETICA}),
        "an object stream in itself": with_streams(SIMPLE).replace(b"/First", b"/Extends 103 0 R /First"),
        "many open strings": with_table(document(stream(line(b"y") + b"(" * 200_000))),
        "many marks": with_table(document(stream(line(b"y") + b"/A BMC " * 50_000 + b"q " * 50_000))),
        "huge ranges": with_table(
            document(
                stream(line(b"y")),
                fonts=[font(b"/ToUnicode 20 0 R")],
                more={20: stream(b"beginbfrange " + b"<00000000> <FFFFFFFF> <0041> " * 500 + b"endbfrange")},
            )
        ),
        "huge widths": with_table(
            document(
                stream(line(b"y")), fonts=[composite(encoding=b"/UniGB-UCS2-H", widths=b"/W [%s]" % (b"0 99999999 5 " * 50))]
            )
        ),
    }


def test_hostile_files_end_quickly() -> None:
    begun = time.monotonic()
    found = texts(loops())
    assert time.monotonic() - begun < MAX_S
    assert found["a table before itself"] == found["pages in each other"] == found["a deep tree"] == BOTH
    assert found["a form in itself"].startswith("y")
    assert not [one for one in found.values() if "Error" in one], found


def test_damaged_files_never_fail_in_an_unknown_way() -> None:
    seed = 20261201
    print("seed", seed)
    chance = random.Random(seed)
    whole = [
        with_table(SIMPLE),
        with_streams(SIMPLE),
        docx(),
        with_table(document(stream(line(b"x")), fonts=[composite(b"/ToUnicode 52 0 R")], more=MAPS)),
    ]
    files = []
    for _ in range(200):
        file = bytearray(chance.choice(whole))
        for _ in range(chance.randint(1, 12)):
            file[chance.randrange(len(file))] = chance.randrange(256)
        files.append(bytes(file[: chance.randint(len(file) // 2, len(file))] if chance.random() < 0.3 else file))
    problems = {one["problem"] for one in read(*files) if "problem" in one}
    assert problems <= {
        "fileDamaged",
        "fileEncrypted",
        "fileTooLong",
        "fileEmpty",
        "pdfNoText",
        "pdfUnknownLetters",
        "fileNoText",
        "fileOtherArchive",
    }


# --- inflate

INFLATE = """
    given.map(([packed, limit]) => {
      const pace = { check() {} };
      const { bytes, state } = inflate(Buffer.from(packed, "base64"), limit, pace);
      return [Buffer.from(bytes).toString("base64"), state];
    })
"""


def inflated(*cases: tuple[bytes, int]) -> list[tuple[bytes, str]]:
    given = [(base64.b64encode(packed).decode(), limit) for packed, limit in cases]
    found = evaluated("documents/inflate.js", "inflate", INFLATE, given)
    return [(base64.b64decode(data), state) for data, state in found]


def deflated(data: bytes, level: int, strategy: int) -> bytes:
    packer = zlib.compressobj(level, zlib.DEFLATED, -15, 8, strategy)
    return packer.compress(data) + packer.flush()


def test_inflate_undoes_what_zlib_does() -> None:
    seed = 20261202
    print("seed", seed)
    chance = random.Random(seed)
    datas = [
        b"",
        b"a",
        b"ab" * 5000,
        bytes(range(256)) * 40,
        chance.randbytes(70_000),
        bytes(chance.choices(b"etaoin shrdlu", k=40_000)),
    ]
    strategies = (zlib.Z_DEFAULT_STRATEGY, zlib.Z_FILTERED, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE, zlib.Z_FIXED)
    cases = [(data, level, strategy) for data in datas for level in (0, 1, 6, 9) for strategy in strategies]
    found = inflated(*[(deflated(*case), 1 << 20) for case in cases])
    assert all(one == (data, "whole") for one, (data, _, _) in zip(found, cases, strict=True))


def test_inflate_gives_what_came_before_damage_and_stops_at_its_limit() -> None:
    data = bytes(random.Random(3).choices(b"abcdefgh", k=20_000))
    packed = deflated(data, 6, 0)
    cut, junk, long, wrong = inflated((packed[:3000], 1 << 20), (packed + b"junk", 1 << 20), (packed, 10_000), (b"\xff" * 50, 99))
    assert cut[1] == "damaged" and data.startswith(cut[0]) and len(cut[0]) > 5000
    assert junk == (data, "whole")
    assert long[1] == "too long" and len(long[0]) <= 10_000
    assert wrong == (b"", "damaged")


# --- text files

WORDS = "Grüße, 中文, naïve\n"
LATIN = "Grüße aus Köln, naïve Idee: fünf\n"  # Node takes Windows' encoding for Latin-1
ENCODED = {
    "UTF-8": (WORDS.encode(), WORDS),
    "UTF-8 with a mark": (WORDS.encode("utf-8-sig"), WORDS),
    "UTF-16": (WORDS.encode("utf-16"), WORDS),
    "UTF-16, the high byte first": (b"\xfe\xff" + WORDS.encode("utf-16-be"), WORDS),
    "UTF-16 without a mark": (LATIN.encode("utf-16-le"), LATIN),
    "the same, the high byte first": (LATIN.encode("utf-16-be"), LATIN),
    "of Windows": (LATIN.encode("windows-1252"), LATIN),
    "of China": ("今天天气很好，我们去公园。\n".encode("gb18030"), "今天天气很好，我们去公园。\n"),
    "ASCII": (b"plain\r\ntext\x1b[0m", "plain\r\ntext\x1b[0m"),
}


def test_text_files_of_every_encoding() -> None:
    assert texts({name: data for name, (data, _) in ENCODED.items()}) == {name: text for name, (_, text) in ENCODED.items()}


def test_a_long_text_is_cut() -> None:
    exact, long, wide = read(b"a" * (1 << 20), b"a" * ((1 << 20) + 1), "中".encode() * (2 << 20))
    assert (len(exact["text"]), exact["isCut"]) == (1 << 20, False)
    assert (len(long["text"]), long["isCut"]) == (1 << 20, True)
    assert (wide["text"], wide["isCut"]) == ("中" * (1 << 20), True)


READ_PDF = """
    (async () => {
        const [file, limit, maxWorkMs] = given;
        try { return await readPdf(new Uint8Array(Buffer.from(file, "base64")), new Pace(null, maxWorkMs), limit); }
        catch (error) { return { problem: error.textName }; }
    })()
"""


def read_pdf(file: bytes, limit: int = 1 << 20, max_work_ms: int = 60_000) -> Any:
    given = [base64.b64encode(file).decode(), limit, max_work_ms]
    pace = f"(globalThis.Pace = (await import({json.dumps((FOLDER / 'documents/pace.js').as_uri())})).Pace), "
    return evaluated("documents/pdf/reader.js", "readPdf", f"({pace} {READ_PDF.strip()})", given)


def test_a_long_pdf_ends_with_a_page() -> None:
    page = flate(line(b"word " * 20))
    found = read_pdf(with_table(document(*[page] * 15)), limit=950)
    assert (found["pages"], found["readPages"]) == (15, 10)


def test_work_ends_at_its_limit() -> None:
    assert read_pdf(with_table(SIMPLE), max_work_ms=0) == {"problem": "fileTooSlow"}


# --- Word


def archive(parts: Mapping[str, str | bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as file:
        for name, part in parts.items():
            file.writestr(name, part)
    return made.getvalue()


SPACES = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
STYLES = f"""<w:styles {SPACES}><w:style w:styleId="berschrift1"><w:name w:val="heading 1"/></w:style>
    <w:style w:styleId="Eigen"><w:name w:val="Own"/><w:pPr><w:outlineLvl w:val="1"/></w:pPr></w:style>
    <w:style w:styleId="Punkt"><w:name w:val="List Bullet"/><w:pPr><w:numPr><w:numId w:val="1"/></w:numPr></w:pPr></w:style>
    </w:styles>"""
NUMBERING = f"""<w:numbering {SPACES}>
    <w:abstractNum w:abstractNumId="7"><w:lvl w:ilvl="0"><w:numFmt w:val="bullet"/><w:lvlText w:val="x"/></w:lvl></w:abstractNum>
    <w:abstractNum w:abstractNumId="8">
    <w:lvl w:ilvl="0"><w:start w:val="3"/><w:numFmt w:val="decimal"/><w:lvlText w:val="%1."/></w:lvl>
    <w:lvl w:ilvl="1"><w:start w:val="1"/><w:numFmt w:val="lowerLetter"/><w:lvlText w:val="%1.%2)"/></w:lvl></w:abstractNum>
    <w:num w:numId="1"><w:abstractNumId w:val="7"/></w:num><w:num w:numId="2"><w:abstractNumId w:val="8"/></w:num>
    </w:numbering>"""
NOTES = f"""<w:footnotes {SPACES}><w:footnote w:type="separator" w:id="-1"><w:p/></w:footnote>
    <w:footnote w:id="2"><w:p><w:r><w:t>a note</w:t></w:r></w:p></w:footnote></w:footnotes>"""


def paragraph(text: str, properties: str = "") -> str:
    return f'<w:p><w:pPr>{properties}</w:pPr><w:r><w:t xml:space="preserve">{text}</w:t></w:r></w:p>'


def item(text: str, number: int, level: int) -> str:
    return paragraph(text, f'<w:numPr><w:ilvl w:val="{level}"/><w:numId w:val="{number}"/></w:numPr>')


BODY = "".join(
    [
        paragraph("Überschrift", '<w:pStyle w:val="berschrift1"/>'),
        paragraph("Second", '<w:pStyle w:val="Eigen"/>'),
        '<w:p><w:pPr><w:tabs><w:tab w:val="left" w:pos="720"/></w:tabs></w:pPr><w:r><w:rPr><w:b/></w:rPr>'
        '<w:t xml:space="preserve">A &amp; B </w:t>'
        "</w:r><w:r><w:t>&#228;</w:t><w:tab/><w:t>c</w:t><w:br/><w:t>d</w:t></w:r><w:del><w:r><w:delText>gone</w:delText></w:r></w:del>"
        '<w:ins><w:r><w:t>new</w:t></w:r></w:ins><w:r><w:footnoteReference w:id="2"/></w:r></w:p>',
        paragraph("one", '<w:pStyle w:val="Punkt"/>'),
        item("two", 1, 0),
        item("three", 2, 0),
        item("deep", 2, 1),
        item("deeper", 2, 1),
        item("four", 2, 0),
        item("anew", 2, 1),
        f"<w:tbl><w:tblPr/><w:tr><w:tc>{paragraph('a|b')}</w:tc><w:tc>{paragraph('x')}{paragraph('y')}</w:tc></w:tr>"
        f'<w:tr><w:tc><w:tcPr><w:gridSpan w:val="2"/></w:tcPr>{paragraph("wide")}</w:tc></w:tr></w:tbl>',
        "<w:p><w:r><mc:AlternateContent><mc:Choice>"
        + paragraph("in a box").replace("<w:p>", "<w:txbxContent><w:p>")
        + "</w:txbxContent></mc:Choice>"
        f"<mc:Fallback>{paragraph('in a box')}</mc:Fallback></mc:AlternateContent></w:r><w:r><w:t>around</w:t></w:r></w:p>",
        "<w:p/><w:sectPr/>",
    ]
)
EXPECTED = """# Überschrift

## Second

A & B ä\tc
dnew[^2]

- one
- two
3. three
  3.a) deep
  3.b) deeper
4. four
  4.a) anew

| a\\|b | x y |
| --- | --- |
| wide |  |

in a box

around

[^2]: a note"""


def docx(body: str = BODY, before: str = "", **more: str) -> bytes:
    parts = {"word/document.xml": f'<?xml version="1.0"?>{before}<w:document {SPACES}><w:body>{body}</w:body></w:document>'}
    others = {"word/styles.xml": STYLES, "word/numbering.xml": NUMBERING, "word/footnotes.xml": NOTES}
    return archive({"[Content_Types].xml": "<Types/>", **parts, **others, **more})


def test_a_word_document_becomes_markdown() -> None:
    assert texts({"docx": docx()}) == {"docx": EXPECTED}


def run(text: str) -> str:
    return f"<m:r><m:t>{text}</m:t></m:r>"


FORMULAS = {
    f"<m:f><m:fPr/><m:num>{run('a')}</m:num><m:den>{run('b')}</m:den></m:f>": r"\frac{a}{b}",
    f"<m:sSup><m:e>{run('x')}</m:e><m:sup>{run('2')}</m:sup></m:sSup>": "x^{2}",
    f'<m:rad><m:radPr><m:degHide m:val="1"/></m:radPr><m:deg/><m:e>{run("x")}</m:e></m:rad>': r"\sqrt{x}",
    f"<m:rad><m:deg>{run('3')}</m:deg><m:e>{run('x')}</m:e></m:rad>": r"\sqrt[3]{x}",
    f'<m:nary><m:naryPr><m:chr m:val="∑"/></m:naryPr><m:sub>{run("i")}</m:sub><m:sup/><m:e>{run("i")}</m:e></m:nary>': "∑_{i}i",
    f"<m:nary><m:naryPr/><m:sub/><m:sup/><m:e>{run('x')}</m:e></m:nary>": "∫x",
    f"<m:d><m:e>{run('x')}</m:e><m:e>{run('y')}</m:e></m:d>": "(x|y)",
    f'<m:d><m:dPr><m:begChr m:val="["/><m:endChr m:val="]"/></m:dPr><m:e>{run("x")}</m:e></m:d>': "[x]",
}


def test_formulas_of_word_become_latex() -> None:
    files = {source: docx(f"<w:p><m:oMath>{source}</m:oMath></w:p>") for source in FORMULAS}
    assert texts(files) == FORMULAS


def test_archives_of_every_kind() -> None:
    stored = archive({"word/document.xml": f"<w:document>{paragraph('stored')}</w:document>"}, zipfile.ZIP_STORED)
    files = {
        "stored": stored,
        "a comment at its end": stored[:-2] + b"\x05\x00hello",
        "another archive": archive({"xl/workbook.xml": "<x/>"}),
        "an empty document": archive({"word/document.xml": "<w:document/>"}),
        "cut": docx()[:-30],
        "damaged": docx().replace(b"word/document.xml", b"word/documAnt.xml", 1)[:60] + bytes(200) + docx()[260:],
        "another way to pack": archive({"word/document.xml": "<x/>" * 900}, zipfile.ZIP_LZMA),
    }
    assert texts(files) == {
        "stored": "stored",
        "a comment at its end": "stored",
        "another archive": "fileOtherArchive",
        "an empty document": "fileEmpty",
        "cut": "fileDamaged",
        "damaged": "fileDamaged",
        "another way to pack": "fileDamaged",
    }


def test_hostile_documents_end_quickly() -> None:
    begun = time.monotonic()
    laughs = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;">]>'
    files = {
        "entities": docx(paragraph("&c; &lt;b&gt; &#x110000; &unknown;"), before=laughs),
        "outside": docx(paragraph("&x;"), before='<!DOCTYPE x [<!ENTITY x SYSTEM "file:///etc/passwd">]>'),
        "a bomb": docx("<w:p>" + " " * (40 << 20)),
        "deep": docx("<w:p>" * 30_000 + paragraph("low")),
        "deep tables": docx("<w:tbl><w:tr><w:tc>" * 10_000 + paragraph("low") + "</w:tc></w:tr></w:tbl>" * 10_000),
        "no end": docx("<!--" * 100_000),
        "open": docx(paragraph("a") + "<w:p" * 100_000),
        "wrong ends": docx(paragraph("a") + "</w:x>" * 100_000 + paragraph("b")),
    }
    found = texts(files)
    assert time.monotonic() - begun < MAX_S
    assert found["entities"] == "&c; <b>  &unknown;"
    assert found["outside"] == "&x;"
    assert found["a bomb"] == "fileTooLong"
    assert found["deep tables"].startswith("low")
    assert found["wrong ends"] == "a\n\nb"
