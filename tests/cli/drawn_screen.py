"""What a terminal shows after a program has written to it: the few escape sequences that prompt_toolkit uses, cell by cell."""

from __future__ import annotations

import re

from wcwidth import wcwidth

PART = re.compile(r"\x1b\[([0-9;?]*)([a-zA-Z])|\x1b\][^\x07]*\x07|\x1b[=>]|(.)", re.DOTALL)


def drawn(written: str, columns: int, rows: int) -> list[str]:
    r"""The lines of the screen.

    >>> drawn("ab\r\nc\x1b[1;2Hx\x1b[2;1H\x1b[K\u65e5", 4, 2)
    ['ax', '日']
    """
    screen = DrawnScreen(columns, rows)
    for found in PART.finditer(written):
        arguments, command, character = found.groups()
        if command is not None:
            screen.control(arguments, command)
        elif character is not None:
            screen.put(character)
    return ["".join(row).rstrip() for row in screen.cells]


class DrawnScreen:
    """The cells, and where the cursor is. The second cell of a wide character is empty."""

    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self.x = self.y = 0
        self.clear()

    def clear(self) -> None:
        self.cells = [[" "] * self.columns for _ in range(self.rows)]

    def put(self, character: str) -> None:
        if character == "\r":
            self.x = 0
        elif character == "\n":
            self.y += 1
            if self.y == self.rows:
                self.cells, self.y = [*self.cells[1:], [" "] * self.columns], self.rows - 1
        elif character == "\b":
            self.x = max(0, self.x - 1)
        elif (width := wcwidth(character)) > 0:
            assert self.x + width <= self.columns, f"{character!r} is written beyond the last column of line {self.y}"
            self.cells[self.y][self.x : self.x + width] = [character] + [""] * (width - 1)
            self.x += width
        elif width == 0 and self.x:
            self.cells[self.y][self.x - 1] += character

    def control(self, arguments: str, command: str) -> None:
        numbers = [int(one) for one in re.findall(r"\d+", arguments)]
        count = numbers[0] if numbers else 1
        if command == "H":
            self.y, self.x = ((numbers or [1, 1])[0] - 1, (numbers or [1, 1])[1] - 1)
        elif command in "ABCD":
            by = {"A": (-count, 0), "B": (count, 0), "C": (0, count), "D": (0, -count)}[command]
            self.y, self.x = max(0, min(self.y + by[0], self.rows - 1)), max(0, min(self.x + by[1], self.columns))
        elif command == "K":
            self.cells[self.y][self.x :] = [" "] * (self.columns - self.x)
        elif command == "J":
            self._erase_down(whole=numbers == [2])
        elif arguments == "?1049":
            self.clear()

    def _erase_down(self, whole: bool) -> None:
        if whole:
            self.clear()
            return
        self.control("", "K")
        for row in range(self.y + 1, self.rows):
            self.cells[row] = [" "] * self.columns
