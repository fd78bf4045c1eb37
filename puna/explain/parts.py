"""What a tour shows: parts of prose, pictures, tables and lines of code, as plain data. The command line draws them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True, slots=True)
class Prose:
    """A paragraph."""

    text: str


@dataclass(frozen=True, slots=True)
class Quoted:
    """A text of a person or of a model, as it is."""

    text: str


@dataclass(frozen=True, slots=True)
class TextTable:
    """Cells under a head; a column of numbers is aligned to the right."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Bar(NamedTuple):
    """A bar: `share` of the full length (0..1), and what stands behind it."""

    label: str
    share: float
    shown: str
    is_marked: bool = False


@dataclass(frozen=True, slots=True)
class Bars:
    """Bars, one below the other."""

    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class HeatMap:
    """A share (0..1) for each row and column; None: nothing is there. `columns` may be empty: then they are numbered."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    shares: tuple[tuple[float | None, ...], ...]


class Segment(NamedTuple):
    """A part of a number line: `share` of its length."""

    label: str
    share: float
    is_marked: bool = False


@dataclass(frozen=True, slots=True)
class NumberLine:
    """The numbers 0..1, cut into segments, and one number on it."""

    segments: tuple[Segment, ...]
    mark: float
    shown: str  # the number at the mark


@dataclass(frozen=True, slots=True)
class Heights:
    """Rows of numbers, each number as high as it is large in its row; a label for each row."""

    labels: tuple[str, ...]
    rows: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Picture:
    """Lines of signs, each below the other."""

    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CodeLines:
    """Lines of puna: `file` from the package's folder on, `lines` with their numbers, without the docstring."""

    name: str
    file: str
    line: int
    lines: tuple[tuple[int, str], ...]
    is_cut: bool = False


Block = Prose | Quoted | TextTable | Bars | HeatMap | NumberLine | Heights | Picture | CodeLines


@dataclass(frozen=True, slots=True)
class TourPart:
    """A part of a tour, as much as fits a screen."""

    title: str
    blocks: tuple[Block, ...]

    @classmethod
    def of(cls, title: str, *blocks: Block | Iterable[Block]) -> TourPart:
        """Of blocks and of rows of blocks."""
        flat: list[Block] = []
        for block in blocks:
            flat += [block] if isinstance(block, Block) else block
        return cls(title, tuple(flat))

    def as_json(self) -> dict[str, Any]:
        """JSON types; each block names its kind."""
        blocks = [{"kind": type(block).__name__, **dataclasses.asdict(block)} for block in self.blocks]
        return {"title": self.title, "blocks": blocks}
