"""Packages with the versions that are asked for, as pip and uv write them: torch<2.11,>=2.4."""

from __future__ import annotations

import re

from puna.causes.base import Captures, Explanation

_NAME = re.compile(r"[\w.-]*\w(?:\[[\w,-]*\])?")
_BOUND = re.compile(r"(===|==|~=|!=|<=|>=|<|>)\s*([\w.*+!-]*[\w*])")
SAYS = {
    "<": "below {}",
    "<=": "up to {}",
    ">": "above {}",
    ">=": "from {} on",
    "==": "exactly {}",
    "===": "exactly {}",
    "!=": "other than {}",
    "~=": "compatible with {}",
}
LOWER_FIRST = (">=", ">", "~=", "==", "===", "!=", "<=", "<")
TOGETHER = "Install what must work together in one command, so that pip can choose: python -m pip install -U A B C"
CLASHES = "See what clashes: python -m pip check"
APART = "If two programs want different versions, give each an environment: python -m venv NAME"
APART_PUNA = "Keep puna in an environment of its own: make demo makes one."


def split(wanted: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The package, and its bounds, the lower first.

    >>> split("huggingface-hub<1.0,>=0.34.0.")
    ('huggingface-hub', (('>=', '0.34.0'), ('<', '1.0')))
    >>> split("torch")
    ('torch', ())
    """
    found = _NAME.match(wanted)
    name = found[0] if found is not None else ""
    bounds = sorted(_BOUND.findall(wanted[len(name) :]), key=lambda bound: LOWER_FIRST.index(bound[0]))
    return name, tuple((sign, number) for sign, number in bounds)


def in_words(bounds: tuple[tuple[str, str], ...]) -> str:
    """
    >>> in_words((('>=', '0.34.0'), ('<', '1.0')))
    'from 0.34.0 on, below 1.0'
    """
    return ", ".join(SAYS[sign].format(number) for sign, number in bounds)


def explain_versions(numbers: Captures) -> Explanation:
    """Two packages that do not fit, with the range that is wanted and the version that is there, where the text has them."""
    name, bounds = split(numbers.get("wanted", ""))
    pinned, at = split(numbers.get("found", ""))
    have = numbers.get("have", "") or (at[0][1] if at else "" if "=" in numbers.get("found", "") else numbers.get("found", ""))
    there = numbers.get("name", "") or pinned
    asked, asked_for = split(numbers.get("asked", ""))
    install = (
        (f'Install one that fits: python -m pip install "{name}{",".join(s + n for s, n in bounds)}"',) if name and bounds else ()
    )
    if bounds and asked_for:
        told = f"A package wants {name} {in_words(bounds)}, and {asked} {in_words(asked_for)} is asked for."
        install = (f"Ask for a {asked} that both take, or for a newer version of the package that wants the other.",)
    elif bounds and have:
        told = f"The program wants {name} {in_words(bounds)}, and {have} is installed."
    elif bounds:
        told = f"The program wants {name} {in_words(bounds)}, and another version is installed."
    elif numbers.get("wanted") and have:
        told = f"{there or 'A version'} {have} is installed, and the program wants {numbers['wanted']} or later."
    elif have and there:
        told = f"A package does not work with {there} {have}, which is installed; the line says which versions it wants."
    else:
        told = "Two packages want different versions of a third, so they cannot be in one environment as they are."
    update = ("Or update the program that wants it, if a newer one takes what is installed.",) if bounds and not asked_for else ()
    return Explanation(told, (*install, *update, TOGETHER, CLASHES, APART), instead=APART_PUNA, numbers=numbers)
