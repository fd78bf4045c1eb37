"""Numbers as signs of a terminal: bars, shades, heights. A share is a number from 0 to 1."""

from __future__ import annotations

from bisect import bisect_right

EIGHTHS: tuple[str, ...] = ("", *"▏▎▍▌▋▊▉")
SHADES = " ░▒▓█"
SHADE_ENDS = (0.02, 0.1, 0.25, 0.5)  # below the first a blank, from the last on a full block
HEIGHTS = "▁▂▃▄▅▆▇█"


def bar_of(share: float, cells: int) -> str:
    """A bar of `share` of so many cells, to an eighth of a cell.

    >>> bar_of(0.5, 5), bar_of(1.0, 3), bar_of(0.0, 3)
    ('██▌', '███', '')
    """
    eighths = round(max(0.0, min(1.0, share)) * cells * 8)
    return "█" * (eighths // 8) + EIGHTHS[eighths % 8]


def shade_of(share: float) -> str:
    """A sign that is darker for a larger share.

    >>> "".join(map(shade_of, (0.01, 0.05, 0.2, 0.3, 0.9)))
    ' ░▒▓█'
    """
    return SHADES[bisect_right(SHADE_ENDS, share)]


def height_of(share: float) -> str:
    """A sign that is higher for a larger share.

    >>> "".join(map(height_of, (0.0, 0.5, 1.0)))
    '▁▅█'
    """
    return HEIGHTS[round(max(0.0, min(1.0, share)) * (len(HEIGHTS) - 1))]
