"""Files that other programs write, read by the page's reader, with other readers as oracles. Skips where a program is missing.

Wanted: node; the packages reportlab, fpdf2, pypdf and python-docx; Playwright with chromium; pdftotext (poppler-utils); pdflatex.
"""

from __future__ import annotations

import base64
import importlib.util
import io
import re
import shutil
import subprocess
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.server.node import needs_node
from tests.server.test_page_documents import read

pytestmark = [pytest.mark.full, pytest.mark.filterwarnings("default"), needs_node()]

GERMAN = "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. Öl, Ärger, Übermut; Straße 7 kostet 5 €."
ENGLISH = "The office staff find the first five efficient flags difficult, but fluffy waffles suffice."
CHINESE = "今天天气很好，我们去公园散步。语言模型是什么？"
GREEK = "Η γρήγορη αλεπού. Съешь ещё этих мягких французских булок. Zażółć gęślą jaźń."
PARAGRAPHS = [GERMAN, ENGLISH] * 12
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def needs(name: str) -> Any:
    return pytest.importorskip(name, reason=f"the package {name} is missing")


def words(text: str) -> list[str]:
    """Words as every reader must find them. Readers differ in ligatures and in hyphens at the end of lines."""
    plain = unicodedata.normalize("NFKC", text).replace("\u00ad", "").replace("\u2010", "-")
    return re.sub(r"-\n", "-", plain).split()


def letters(text: str) -> str:
    """Without spaces: readers part Chinese text, and words of one line that are far apart, in different ways."""
    return "".join(words(text))


def ours(file: bytes) -> str:
    [found] = read(file)
    assert "problem" not in found, found
    text = found["text"]
    assert isinstance(text, str)
    return text


def of_pypdf(file: bytes) -> str:
    return "\n".join(page.extract_text() for page in needs("pypdf").PdfReader(io.BytesIO(file)).pages)


def of_poppler(file: bytes) -> str | None:
    """None where there is no pdftotext."""
    if shutil.which("pdftotext") is None:
        return None
    return subprocess.run(["pdftotext", "-raw", "-", "-"], input=file, capture_output=True, check=True).stdout.decode()


def agree(file: bytes, expected: str | None = None) -> None:
    """Our words are those that were written, and those that other readers find, in their order."""
    mine = ours(file)
    if expected is not None:
        assert words(mine) == words(expected)
    poppler = of_poppler(file)
    if poppler is not None:
        assert words(mine) == words(poppler)
    if importlib.util.find_spec("pypdf"):
        assert letters(mine) == letters(of_pypdf(file))


# --- reportlab


def canvas_file(draw: Callable[[Any], None], **settings: Any) -> bytes:
    canvas = needs("reportlab.pdfgen.canvas")
    made = io.BytesIO()
    page = canvas.Canvas(made, **settings)
    draw(page)
    page.save()
    return made.getvalue()


@pytest.mark.parametrize("font", ["Helvetica", "Times-Roman", "Courier", "Times-BoldItalic"])
@pytest.mark.parametrize("compression", [0, 1])
def test_reportlab_lines(font: str, compression: int) -> None:
    def draw(page: Any) -> None:
        for _ in range(3):
            page.setFont(font, 8)
            for at, text in enumerate(PARAGRAPHS):
                page.drawString(40, 780 - 14 * at, text)
            page.showPage()

    agree(canvas_file(draw, pageCompression=compression), "\n".join(PARAGRAPHS * 3))


def test_reportlab_paragraphs_tables_and_columns() -> None:
    platypus, styles = needs("reportlab.platypus"), needs("reportlab.lib.styles").getSampleStyleSheet()
    made = io.BytesIO()
    frames = [platypus.Frame(x, 40, 240, 760, id=str(x)) for x in (40, 300)]
    report = platypus.BaseDocTemplate(made)
    report.addPageTemplates(platypus.PageTemplate(frames=frames))
    rows = [["Name", "Zahl", "Wert"], ["Müller", "12", "3,5"], ["Groß", "7", "-1"]]
    story = [platypus.Paragraph(f"{at} {text}", styles["Normal"]) for at, text in enumerate(PARAGRAPHS * 3)]
    report.build([*story[:5], platypus.Table(rows), *story[5:]])
    cells = " ".join(" ".join(row) for row in rows)
    expected = [f"{at} {text}" for at, text in enumerate(PARAGRAPHS * 3)]
    agree(made.getvalue(), "\n".join([*expected[:5], cells, *expected[5:]]))


def test_reportlab_rotated() -> None:
    def draw(page: Any) -> None:
        for angle in (90, 180, 270, 30):
            page.saveState()
            page.translate(300, 400)
            page.rotate(angle)
            page.setFont("Helvetica", 10)
            for at in range(4):
                page.drawString(-100, -14 * at, f"line {at} at {angle} degrees")
            page.restoreState()
            page.setPageRotation(90)
            page.showPage()

    expected = "\n".join(f"line {at} at {angle} degrees" for angle in (90, 180, 270, 30) for at in range(4))
    assert ours(canvas_file(draw)).split() == expected.split()  # at 30 degrees pdftotext gives single letters


def test_reportlab_fonts_of_its_own_and_of_china() -> None:
    metrics, truetype, cid = (needs(f"reportlab.pdfbase.{name}") for name in ("pdfmetrics", "ttfonts", "cidfonts"))
    metrics.registerFont(truetype.TTFont("Vera", "Vera.ttf"))
    metrics.registerFont(cid.UnicodeCIDFont("STSong-Light"))

    def draw(page: Any) -> None:
        page.setFont("Vera", 10)
        page.drawString(40, 780, GERMAN)
        page.setFont("STSong-Light", 12)
        page.drawString(40, 750, CHINESE)

    mine = ours(canvas_file(draw))
    assert letters(mine) == letters(GERMAN + CHINESE)


def test_reportlab_protected() -> None:
    encryption = needs("reportlab.lib.pdfencrypt").StandardEncryption("user", "owner")
    [found] = read(canvas_file(lambda page: page.drawString(40, 700, "secret"), encrypt=encryption))
    assert found == {"problem": "fileEncrypted"}


# --- fpdf2


def test_fpdf_text_table_and_a_font_of_its_own() -> None:
    fpdf = needs("fpdf")
    page = fpdf.FPDF()
    page.add_page()
    page.set_font("Helvetica", size=11)
    page.multi_cell(0, 6, ENGLISH, new_x="LMARGIN", new_y="NEXT")
    rows = (("Name", "Number"), ("one", "1"), ("two", "22"))
    with page.table() as table:
        for row in rows:
            table.row(row)
    expected = [ENGLISH, *(cell for row in rows for cell in row)]
    found = next(Path("/usr/share/fonts").rglob("DejaVuSans.ttf"), None)
    if found is not None:
        page.add_font("DejaVu", fname=str(found))
        page.set_font("DejaVu", size=11)
        page.multi_cell(0, 6, GREEK, new_x="LMARGIN", new_y="NEXT")
        expected.append(GREEK)
    agree(bytes(page.output()), "\n".join(expected))


# --- Chromium's printer

HTML = f"""<!doctype html><meta charset="utf-8"><style>.two {{ columns: 2 }} td {{ border: 1px solid }}</style>
<h1>Überschrift</h1><p>{GERMAN}</p><p style="font-family: serif">{ENGLISH}</p><p style="text-align: justify">{ENGLISH * 4}</p>
<ul><li>first</li><li>second</li></ul><table><tr><td>Name</td><td>Wert</td></tr><tr><td>Größe</td><td>3,5</td></tr></table>
<div class="two">{"".join(f"<p>{at} {text}</p>" for at, text in enumerate(PARAGRAPHS))}</div>
<p>x<sup>2</sup> + H<sub>2</sub>O</p><p>{GREEK}</p><p lang="zh">{CHINESE}</p>"""


@pytest.fixture(scope="module")
def printed() -> bytes:
    api = needs("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("there is no chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_content(HTML)
        made = page.pdf(format="A4")
        browser.close()
    assert isinstance(made, bytes)
    return made


def test_what_chromium_prints(printed: bytes) -> None:
    agree(printed)
    mine = ours(printed)
    for text in (GERMAN, ENGLISH, GREEK, *PARAGRAPHS):
        assert " ".join(words(text)) in " ".join(words(mine))


# --- TeX

TEX = r"""\documentclass[twocolumn]{article}\usepackage[utf8]{inputenc}%s\begin{document}\title{Über \TeX}\author{A}\maketitle
\section{Erstens}%s\par%s\par Offizielle Ligaturen: ff fi fl ffi ffl. $a_i^2 + \frac{1}{2}$
\begin{tabular}{lr}Name & 1\\Größe & 22\end{tabular}\end{document}"""


@pytest.mark.parametrize("encoding", ["", r"\usepackage[T1]{fontenc}"])
def test_what_tex_prints(encoding: str, tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("there is no pdflatex")
    text = " ".join([GERMAN.replace("€", "Euro"), ENGLISH] * 20)
    (tmp_path / "text.tex").write_text(TEX % (encoding, text, text), "utf-8")
    subprocess.run(["pdflatex", "-interaction=batchmode", "text.tex"], cwd=tmp_path, capture_output=True, check=False, timeout=60)
    file = (tmp_path / "text.pdf").read_bytes()
    mine = " ".join(words(ours(file)))
    for word in ("Boxkämpfer", "über", "großen", "Öl,", "Ärger,", "Übermut;", "efficient", "difficult,", "fluffy", "waffles"):
        assert word in mine
    poppler = of_poppler(file)
    if poppler is not None and not encoding:  # of bitmaps in T1 pdftotext gives "groÿen" and no ligatures
        assert letters(ours(file)) == letters(poppler)


# --- Word


def test_what_python_docx_writes() -> None:
    docx = needs("docx")
    document = docx.Document()
    document.add_heading("Überschrift", 0)
    document.add_heading("Kapitel", 1)
    document.add_paragraph(GERMAN)
    document.add_paragraph("Punkt", style="List Bullet")
    document.add_paragraph("Schritt", style="List Number")
    document.add_paragraph("Schritt zwei", style="List Number")
    table = document.add_table(rows=2, cols=2)
    for at, text in enumerate(("Name", "Größe", "中文", "a|b")):
        table.cell(at // 2, at % 2).text = text
    document.add_paragraph(CHINESE)
    made = io.BytesIO()
    document.save(made)
    assert ours(made.getvalue()) == "\n\n".join(
        [
            "# Überschrift",
            "# Kapitel",
            GERMAN,
            "- Punkt\n1. Schritt\n2. Schritt zwei",
            "| Name | Größe |\n| --- | --- |\n| 中文 | a\\|b |",
            CHINESE,
        ]
    )


# --- in the browser


def test_chromium_reads_as_node_does(printed: bytes) -> None:
    """The same modules under the page's own policy."""
    from tests.server.serving import serving

    api = needs("playwright.sync_api")
    latin = "Preis – 5 €\n".encode("windows-1252")
    with serving() as server, api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.port}/")
        code = """async ([files]) => {
            const { readDocument } = await import("/page/documents/read.js");
            const blobs = files.map((file) => new Blob([Uint8Array.from(atob(file), (one) => one.charCodeAt(0))]));
            return Promise.all(blobs.map(async (blob) => (await readDocument(blob)).text));
        }"""
        found = page.evaluate(code, [[base64.b64encode(file).decode() for file in (printed, latin)]])
        browser.close()
    assert found == [ours(printed), "Preis – 5 €\n"]
