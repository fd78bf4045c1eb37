"""Tours are drawn in the width that is there, in colour only where a terminal has it, and as text whatever a model wrote."""

from __future__ import annotations

import io

import pytest

from puna.cli.tour_view import COLOURED, PLAIN, block_lines, ink_for, part_lines, screens_of, source_lines
from puna.cli.width import display_width
from puna.explain.parts import (
    Bar,
    Bars,
    Block,
    CodeLines,
    HeatMap,
    Heights,
    NumberLine,
    Picture,
    Prose,
    Quoted,
    Segment,
    TextTable,
    TourPart,
)

BLOCKS: tuple[Block, ...] = (
    Prose("A sentence that is much too long for a narrow terminal, with ordinary words. 日本語の文も折り返す。"),
    Quoted("a text\nof two lines " + "x" * 90),
    TextTable(("name", "share"), (('" the"', "12.5%"), ("日本語" * 9, "3.0%"))),
    Bars((Bar('" the"', 1.0, "12.5%"), Bar("a very long label of a bar", 0.01, "0.1%", is_marked=True))),
    HeatMap(("1 the", "2 big"), (), ((1.0, None), (0.3, 0.7))),
    NumberLine((Segment("a", 0.25), Segment("b", 0.5, is_marked=True), Segment("c", 0.25)), 0.3, "0.3000"),
    Heights(("before", "after"), ((0.5, -1.0, 2.0) * 40, (1.0, 1.0))),
    Picture(("████····" * 20,)),
    CodeLines("f", "puna/f.py", 7, ((7, "def f(x: int) -> int:"), (8, "    return x + 1  # " + "and so on " * 12)), is_cut=True),
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines_of(block: Block, width: int = 80) -> list[str]:
    return list(block_lines(block, width))


@pytest.mark.parametrize("width", [20, 33, 80, 100])
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: type(block).__name__)
def test_a_block_fits_any_width(block: Block, width: int) -> None:
    assert max(map(display_width, lines_of(block, width))) <= width


def test_numbers_stand_under_each_other_and_shares_are_long() -> None:
    assert lines_of(TextTable(("a", "n"), (("x", "5"), ("yy", "12.5%")))) == ["  a       n", "  x       5", "  yy  12.5%"]
    full, half = lines_of(Bars((Bar("a", 1.0, "1"), Bar("b", 0.5, "2"))))
    assert full.count("█") == 40 and half.count("█") == 20


def test_a_heat_map_is_darker_where_the_share_is_larger() -> None:
    assert lines_of(HeatMap(("a", "b"), (), ((0.9, None), (0.05, 0.2)))) == ["    1   2", "  a ███ ·", "  b ░░░ ▒▒▒"]


def test_a_number_line_marks_the_segment_of_the_number() -> None:
    mark, line, labels = lines_of(BLOCKS[5], 42)
    assert line == "  " + "─" * 10 + "█" * 20 + "─" * 10 and line[mark.index("▼")] == "█"
    assert labels.split() == ["a", "b", "c"]


def test_heights_are_those_of_a_row() -> None:
    assert lines_of(Heights(("a", "bb"), ((0.0, 1.0), (-5.0, 5.0)))) == ["  a   ▁█", "  bb  ▁█"]


def test_code_says_where_it_stands() -> None:
    assert lines_of(BLOCKS[8]) == ["  → puna/f.py:7  f"]
    *lines, gap = source_lines(TourPart.of("Title", BLOCKS), 80)
    assert (
        gap == ""
        and max(map(display_width, lines)) <= 80
        and lines[0] == "  → puna/f.py:7  f"
        and lines[1] == "      7 def f(x: int) -> int:"
        and lines[-1].strip() == "..."
    )


def test_colours_are_for_terminals_that_have_them() -> None:
    assert ink_for(io.StringIO(), {}) is PLAIN and ink_for(Terminal(), {}) is COLOURED
    assert ink_for(Terminal(), {"NO_COLOR": "1"}) is PLAIN and ink_for(Terminal(), {"TERM": "dumb"}) is PLAIN
    part = TourPart.of("Title", BLOCKS)
    plain, coloured = ("\n".join(part_lines(part, "1", 80, ink)) for ink in (PLAIN, COLOURED))
    assert "\x1b" not in plain and coloured.count("\x1b[0m") * 2 == coloured.count("\x1b[")
    for code in (COLOURED.title, COLOURED.dim, COLOURED.bar, COLOURED.marked, "\x1b[0m"):
        coloured = coloured.replace(code, "")
    assert coloured == plain


def test_no_text_controls_the_terminal() -> None:
    evil = "\x1b[2J\x1b]0;x\x07\u202e\r"
    blocks = (
        Prose(evil), Quoted(evil), TextTable((evil,), ((evil,),)), Bars((Bar(evil, 1.0, evil),)), Picture((evil,)),
        HeatMap((evil,), (evil,), ((1.0,),)), NumberLine((Segment(evil, 1.0),), 0.5, "0.5"),
    )  # fmt: skip
    lines = list(part_lines(TourPart.of(evil, blocks), "1", 80))
    assert all(line.isprintable() for line in lines)


def test_a_part_is_cut_into_screens_between_its_blocks() -> None:
    lines = list(part_lines(TourPart.of("Title", BLOCKS), "1", 80))
    screens = list(screens_of(lines, 10))
    assert [line for screen in screens for line in screen if line] == [line for line in lines if line]
    assert len(screens) > 2 and all(screen[0] and screen[-1] for screen in screens)
    assert all(len(screen) <= 10 or "" not in screen for screen in screens)
    assert len(list(screens_of(lines, 100))) == 1


def test_a_sentence_with_a_colon_stays_with_what_it_announces() -> None:
    lines = ["one", "", "two:", "", "x", "x"]
    assert list(screens_of(lines, 5)) == [["one"], ["two:", "", "x", "x"]]
    assert list(screens_of([*lines, "", "end:"], 9)) == [["one", "", "two:", "", "x", "x", "", "end:"]]
