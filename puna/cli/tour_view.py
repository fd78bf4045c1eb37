"""Draws the parts of a tour for a terminal or a file: prose, tables, bars, heat maps and lines of code, in a width of cells."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, TextIO

from puna.cli.signs import bar_of, height_of, shade_of
from puna.cli.width import cut, display_width, pad
from puna.cli.word_wrap import KEPT, WordWrap, wrapped
from puna.explain.parts import (
    Bars,
    Block,
    CodeLines,
    HeatMap,
    Heights,
    NumberLine,
    Picture,
    Prose,
    Quoted,
    TextTable,
    TourPart,
)
from puna.progress import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

INDENT = "  "
GAP = "  "  # between the columns of a table
LABEL_WIDTH = 18  # cells of the label of a bar or of a row
_KEPT_WHOLE = re.compile(r'"[^"]{1,24}"|\d %')  # a token may begin with a space: no line ends there
NUMERIC = re.compile(r"[-+<>~]?\d[\d.,]*(?:\s?[%×xKMGTiBs]+|\s\S{1,5})?")


@dataclass(frozen=True, slots=True)
class Ink:
    """The colours of a terminal; without them, text as it is."""

    title: str = ""
    dim: str = ""
    bar: str = ""
    marked: str = ""

    def of(self, colour: str, text: str) -> str:
        return f"{colour}{text}\x1b[0m" if colour and text.strip() else text


PLAIN = Ink()
COLOURED = Ink(title="\x1b[1m", dim="\x1b[2m", bar="\x1b[36m", marked="\x1b[33m")


def ink_for(stream: TextIO, environment: Mapping[str, str] = os.environ) -> Ink:
    """Colours where a terminal has them and nobody turned them off (no-color.org)."""
    has_colours = stream.isatty() and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"
    return COLOURED if has_colours else PLAIN


def part_lines(part: TourPart, place: str, width: int, ink: Ink = PLAIN) -> Iterator[str]:
    """A part of a tour, in lines of at most `width` cells. `place`: which part it is, "2". Of code it has the place only."""
    title = cut(printable(f"{place}. {part.title}"), width)
    yield ink.of(ink.title, title)
    yield ink.of(ink.title, "─" * display_width(title))
    for number, block in enumerate(part.blocks):
        yield from [""] if number and not isinstance(block, CodeLines) else []
        yield from block_lines(block, width, ink)
    yield ""


def source_lines(part: TourPart, width: int, ink: Ink = PLAIN) -> Iterator[str]:
    """The code that a part names, each function under its place."""
    for block in part.blocks:
        if isinstance(block, CodeLines):
            yield from _code(block, width, ink)
            yield ""


def screens_of(lines: Iterable[str], height: int) -> Iterator[list[str]]:
    """Lines in screens of at most `height`, if they can be parted at empty lines.

    >>> list(screens_of(["a", "b", "", "c", "", "d", "e"], 4))
    [['a', 'b', '', 'c'], ['d', 'e']]
    """
    screen: list[str] = []
    for block in _kept_together(lines):
        if screen and len(screen) + len(block) > height:
            yield _without_gaps(screen)
            screen = []
        screen += [*block, ""]
    if any(screen):
        yield _without_gaps(screen)


def _kept_together(lines: Iterable[str]) -> Iterator[list[str]]:
    """What stands between empty lines; a sentence that ends with a colon, with what follows it."""
    held: list[str] = []
    for is_gap, group in groupby(lines, key=lambda line: not line):
        if is_gap:
            continue
        held += [*([""] if held else []), *group]
        if not held[-1].endswith((":", "：")):
            yield held
            held = []
    if held:
        yield held


def _without_gaps(lines: list[str]) -> list[str]:
    """Without empty lines at both ends."""
    held = [number for number, line in enumerate(lines) if line]
    return lines[held[0] : held[-1] + 1] if held else []


def block_lines(block: Block, width: int, ink: Ink = PLAIN) -> Iterator[str]:
    """A block, in lines of at most `width` cells."""
    yield from _DRAWN[type(block)](block, width, ink)


def _prose(block: Prose, width: int, ink: Ink) -> Iterator[str]:
    text = _KEPT_WHOLE.sub(lambda found: found[0].replace(" ", KEPT), printable(block.text))
    yield from wrapped(text, width)


def _quoted(block: Quoted, width: int, ink: Ink) -> Iterator[str]:
    for line in block.text.split("\n"):
        wrap = WordWrap(lambda: max(1, width - 4))
        for part in (wrap.feed(printable(line)) + wrap.finish()).split("\n"):
            yield ink.of(ink.dim, "  | ") + part


def _picture(block: Picture, width: int, ink: Ink) -> Iterator[str]:
    yield from (cut(INDENT + printable(line), width) for line in block.lines)


def _heights(block: Heights, width: int, ink: Ink) -> Iterator[str]:
    labels = [cut(printable(label), _label_width(width)) for label in block.labels]
    label_width = max(map(display_width, labels))
    for label, values in zip(labels, block.rows):
        low, high = min(values), max(values)
        signs = "".join(height_of((value - low) / ((high - low) or 1.0)) for value in values)
        yield cut(f"{INDENT}{pad(label, label_width)}{GAP if label_width else ''}{signs}", width)


# ---- tables -----------------------------------------------------------------------------------------------------------------


def _table(block: TextTable, width: int, ink: Ink) -> Iterator[str]:
    head, rows = tuple(map(printable, block.head)), [tuple(map(printable, row)) for row in block.rows]
    widths = _column_widths([head, *rows], width - len(INDENT))
    is_number = [_is_numeric(row[column] for row in rows) for column in range(len(head))]
    if any(head):
        yield ink.of(ink.dim, _row(head, widths, is_number))
    yield from (_row(row, widths, is_number) for row in rows)


def _row(cells: Sequence[str], widths: Sequence[int], is_number: Sequence[bool]) -> str:
    fitted = [cut(cell, size) for cell, size in zip(cells, widths)]
    aligned = [
        " " * (size - display_width(cell)) + cell if right else pad(cell, size)
        for cell, size, right in zip(fitted, widths, is_number)
    ]
    return (INDENT + GAP.join(aligned)).rstrip()


def _is_numeric(cells: Iterable[str]) -> bool:
    """Whether all cells that hold something are numbers.

    >>> _is_numeric(["12", "", "-0.5", "27.9%"]), _is_numeric(["12", "llama"])
    (True, False)
    """
    held = [cell for cell in cells if cell]
    return bool(held) and all(NUMERIC.fullmatch(cell) for cell in held)


def _column_widths(rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """The cells of each column; where all do not fit, the widest ones are cut.

    >>> _column_widths([("a", "llama"), ("bb", "x")], 20), _column_widths([("a", "llama")], 6)
    ([2, 5], [1, 3])
    """
    widths = [max(map(display_width, column)) for column in zip(*rows)]
    room = width - len(GAP) * (len(widths) - 1)
    while sum(widths) > room and max(widths) > 1:
        widths[widths.index(max(widths))] -= 1
    return widths


# ---- pictures of numbers ----------------------------------------------------------------------------------------------------


def _bars(block: Bars, width: int, ink: Ink) -> Iterator[str]:
    labels = [cut(printable(bar.label), _label_width(width)) for bar in block.bars]
    shown = [printable(bar.shown) for bar in block.bars]
    label_width, shown_width = max(map(display_width, labels)), max(map(display_width, shown))
    if _is_numeric(shown):
        shown = [" " * (shown_width - display_width(text)) + text for text in shown]
    room = max(4, min(40, width - len(INDENT) - label_width - shown_width - 4))
    for bar, label, text in zip(block.bars, labels, shown):
        drawn = ink.of(ink.marked if bar.is_marked else ink.bar, bar_of(bar.share, room))
        gap = " " * (room - display_width(bar_of(bar.share, room)))
        yield f"{INDENT}{pad(label, label_width)} {drawn}{gap} {text}".rstrip()


def _label_width(width: int) -> int:
    return max(6, min(LABEL_WIDTH, width // 4))


def _heat(block: HeatMap, width: int, ink: Ink) -> Iterator[str]:
    labels = [cut(printable(row), _label_width(width)) for row in block.rows]
    label_width = max(map(display_width, labels))
    count = max(map(len, block.shares))
    cell = max(1, min(4, (width - len(INDENT) - label_width - 1) // count))
    shown = (width - len(INDENT) - label_width - 1) // cell
    if (numbers := _column_heads(block.columns, count, cell)) is not None:
        yield ink.of(ink.dim, f"{INDENT}{'':{label_width}} {numbers[: shown * cell]}".rstrip())
    for label, shares in zip(labels, block.shares):
        cells = "".join(_heat_cell(share, cell, ink) for share in shares[:shown])
        yield f"{INDENT}{pad(label, label_width)} {cells}".rstrip()


def _column_heads(columns: Sequence[str], count: int, cell: int) -> str | None:
    """What stands above the columns: their names, or numbers from 1 on; None where they have no room."""
    names = columns or [str(number) for number in range(1, count + 1)]
    if max(map(display_width, names)) >= max(2, cell):
        return None
    return "".join(pad(name, cell) for name in names)


def _heat_cell(share: float | None, cell: int, ink: Ink) -> str:
    if share is None:
        return "·".ljust(cell)
    shade = shade_of(share)
    return ink.of(ink.marked if share >= 0.5 else ink.bar, shade * max(1, cell - 1)) + " " * (cell > 1)


def _number_line(block: NumberLine, width: int, ink: Ink) -> Iterator[str]:
    room = width - len(INDENT)
    at = min(room - 1, int(block.mark * room))
    shown = f"{block.shown} ▼" if at >= display_width(block.shown) + 2 else f"▼ {block.shown}"
    start = at - display_width(block.shown) - 1 if shown.endswith("▼") else at
    yield INDENT + " " * start + shown
    bar, labels, done = "", "", 0.0
    for number, segment in enumerate(block.segments):
        begin, end = round(done * room), round((done + segment.share) * room)
        done += segment.share
        sign = "█" if segment.is_marked else "─═"[number % 2]
        bar += ink.of(ink.marked if segment.is_marked else ink.bar, sign * (end - begin))
        label = printable(segment.label)
        labels += pad(label if display_width(label) < end - begin else "", end - begin)
    yield INDENT + bar
    yield (INDENT + labels).rstrip()


# ---- code -------------------------------------------------------------------------------------------------------------------


def _pointer(block: CodeLines, width: int, ink: Ink) -> Iterator[str]:
    yield from wrapped(f"{block.file}:{block.line}  {block.name}", width, INDENT + "→ ", INDENT + "  ")


def _code(block: CodeLines, width: int, ink: Ink) -> Iterator[str]:
    yield from _pointer(block, width, ink)
    for number, line in block.lines:
        body = line.lstrip()
        indent = " " * (len(line) - len(body))
        first, rest = f"{INDENT}{number:>5} {indent}", f"{INDENT}{'':5} {indent}    "
        yield from (ink.of(ink.dim, cut(one, width)) for one in (wrapped(body, width, first, rest) if body else [first.rstrip()]))
    if block.is_cut:
        yield f"{INDENT}{'':5} ..."


_DRAWN: Mapping[type[Block], Callable[[Any, int, Ink], Iterator[str]]] = {
    Prose: _prose,
    Quoted: _quoted,
    TextTable: _table,
    Bars: _bars,
    HeatMap: _heat,
    NumberLine: _number_line,
    Picture: _picture,
    Heights: _heights,
    CodeLines: _pointer,
}
