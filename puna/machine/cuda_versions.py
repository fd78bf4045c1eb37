"""The CUDA that each driver supports, the driver that each PyTorch needs, and the cards that its wheels support.

From NVIDIA's release notes of CUDA and PyTorch's support matrix of releases, as of November 2026. A version is a pair.
"""

from __future__ import annotations

import re

Version = tuple[int, int]

# Driver branch -> the newest CUDA that it supports. Programs for a later minor version mostly run too.
DRIVERS: tuple[tuple[int, Version], ...] = (
    (450, (11, 0)),
    (470, (11, 4)),
    (510, (11, 6)),
    (520, (11, 8)),
    (525, (12, 0)),
    (530, (12, 1)),
    (535, (12, 2)),
    (545, (12, 3)),
    (550, (12, 4)),
    (555, (12, 5)),
    (560, (12, 6)),
    (565, (12, 7)),
    (570, (12, 8)),
    (575, (12, 9)),
    (580, (13, 0)),
    (590, (13, 1)),
    (595, (13, 2)),
    (610, (13, 3)),
    (616, (13, 4)),
)

# CUDA major version -> the oldest driver branch that runs it.
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}

# CUDA of a PyTorch wheel -> the oldest and newest card that it supports (12.8: from PyTorch 2.11 on).
WHEELS: dict[Version, tuple[Version, Version]] = {
    (11, 8): ((5, 0), (9, 0)),
    (12, 1): ((5, 0), (9, 0)),
    (12, 4): ((5, 0), (9, 0)),
    (12, 6): ((5, 0), (9, 0)),
    (12, 8): ((7, 5), (12, 0)),
    (12, 9): ((7, 5), (12, 1)),
    (13, 0): ((7, 5), (12, 1)),
    (13, 2): ((7, 5), (12, 1)),
}

# CUDA versions to recommend, newest PyTorch first. 12.8 ends with PyTorch 2.11, the oldest that puna supports.
RECOMMENDED: tuple[Version, ...] = ((13, 0), (12, 6), (12, 8))

NEWEST_PROPRIETARY = 580  # the last branch for cards before Turing
OPEN_ONLY_FROM: Version = (10, 0)  # Blackwell has no proprietary kernel module
OPEN_FROM: Version = (7, 5)  # the open one needs a Turing or later


def branch(driver: str) -> int:
    """
    >>> branch("580.82.07"), branch("unknown")
    (580, 0)
    """
    found = re.match(r"\d{2,4}(?=\.)", driver)
    return int(found[0]) if found else 0


def version(text: str) -> Version | None:
    """
    >>> version("13.0"), version("12.8.93"), version("None")
    ((13, 0), (12, 8), None)
    """
    found = re.match(r"(\d{1,3})\.(\d{1,3})", text)
    return (int(found[1]), int(found[2])) if found else None


def newest_cuda(driver: str) -> Version | None:
    """
    >>> newest_cuda("550.120"), newest_cuda("581.15"), newest_cuda("390.157")
    ((12, 4), (13, 0), None)
    """
    return next((cuda for first, cuda in reversed(DRIVERS) if branch(driver) >= first), None)


def oldest_driver(cuda: Version) -> int:
    """The oldest driver branch on which a program built for `cuda` starts; 0 if unknown."""
    return OLDEST_DRIVER.get(cuda[0], 0)


def recommended(capability: Version | None, driver: str) -> Version | None:
    """The CUDA of the PyTorch to install for a card and its driver; None if no wheel supports both.

    >>> recommended((8, 9), "580.82.07"), recommended((6, 1), "580.82.07")
    ((13, 0), (12, 6))
    >>> recommended((12, 0), "570.86"), recommended((9, 0), "470.82")
    ((12, 8), None)
    """
    for cuda in RECOMMENDED:
        oldest, newest = WHEELS[cuda]
        is_coded = capability is None or oldest <= capability <= newest
        if is_coded and (not branch(driver) or branch(driver) >= oldest_driver(cuda)):
            return cuda
    return None


def index_of(cuda: Version | None) -> str:
    """The folder of PyTorch's wheels.

    >>> index_of((13, 0))
    'https://download.pytorch.org/whl/cu130'
    """
    major, minor = cuda or RECOMMENDED[0]
    return f"https://download.pytorch.org/whl/cu{major}{minor}"


def written(pair: Version) -> str:
    """
    >>> written((13, 0))
    '13.0'
    """
    return f"{pair[0]}.{pair[1]}"
