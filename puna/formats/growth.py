"""How much the steps of a `tokenizer.json` can let a text grow, as an upper bound that their tables give.

A chain of steps that each double a text fills the memory, and nothing interrupts the library while it does. All factors are of
bytes of UTF-8, and hold for every text that is not empty: added tokens cut a text first, and each part between them is one.
"""

from __future__ import annotations

import base64
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from puna.formats.expressions import TooCostly, shortest_match
from puna.formats.sentencepiece_model import charsmap_growth

TokenizerStep = Mapping[str, Any]

# Unicode's largest expansions, any number of these steps in any order: U+FDFA (3 bytes) has a compatibility form of 33.
CANONICAL = 3.0  # U+1D1C0: 4 bytes become 12
COMPATIBLE = 11.0
LOWER = 1.5  # U+023A: 2 bytes become 3
FORMS: tuple[Literal["NFC", "NFD", "NFKC", "NFKD"], ...] = ("NFC", "NFD", "NFKC", "NFKD")
BYTE_LETTER = 2  # bytes of the longest letter that stands for a byte
CHINESE = 5 / 3  # a character of 3 bytes gets a space on both sides


@dataclass(slots=True)
class _Growth:
    """What one byte of the text has become, at most."""

    open: float = 1.0  # bytes of characters that steps of Unicode may let grow
    firm: float = 0.0  # bytes of those that none does
    pieces: float = 1.0
    settled: float = 1.0  # the factor that steps of Unicode have had; more of them let nothing grow beyond the largest
    has_spaces: bool = True

    @property
    def size(self) -> float:
        return self.open + self.firm

    def multiply(self, factor: float) -> None:
        self.open *= max(1.0, factor)
        self.firm *= max(1.0, factor)

    def add(self, text: str) -> None:
        """`text` stands once in each piece."""
        if _is_stable(text):
            self.firm += len(text.encode()) * self.pieces
        else:
            self.open += len(text.encode()) * self.pieces
            self.settled = 1.0
        self.has_spaces = self.has_spaces or " " in text

    def replace(self, text: str, shortest: int) -> None:
        """`text` for each match, which has `shortest` bytes or more."""
        self.multiply(len(text.encode()) / shortest)
        if not _is_stable(text):
            self.open, self.firm, self.settled = self.size, 0.0, 1.0
        self.has_spaces = self.has_spaces or " " in text

    def replace_spaces(self, text: str) -> None:
        if self.has_spaces:
            self.replace(text, 1)
            self.has_spaces = " " in text

    def renew(self, factor: float) -> None:
        """Any character may have become any other."""
        self.multiply(factor)
        self.open, self.firm, self.settled, self.has_spaces = self.size, 0.0, 1.0, True

    def settle(self, factor: float) -> None:
        self.open *= max(1.0, factor / self.settled)
        self.settled = max(self.settled, factor)
        self.has_spaces = True

    def cut(self) -> None:
        """No piece is empty: there are at most as many as bytes."""
        self.pieces = self.size


def _is_stable(text: str) -> bool:
    """No step of Unicode makes more bytes of any of the characters, and none is Chinese."""
    spellings = ((letter, letter.lower()) for letter in text)
    return max(text, default="") < "\u3400" and all(
        len(unicodedata.normalize(form, spelling).encode()) <= len(letter.encode())
        for letter, lower in spellings
        for spelling in (letter, lower)
        for form in FORMS
    )


def _replace(growth: _Growth, step: TokenizerStep) -> None:
    (kind, pattern), content = next(iter(step["pattern"].items())), step["content"]
    if (kind, pattern) == ("String", " "):
        growth.replace_spaces(content)
        return
    shortest = len(pattern.encode()) if kind == "String" else shortest_match(pattern)
    if shortest == 0:
        raise TooCostly("an expression that matches an empty text, in a Replace")
    growth.replace(content, shortest)


def _precompiled(growth: _Growth, step: TokenizerStep) -> None:
    growth.renew(charsmap_growth(base64.b64decode(step["precompiled_charsmap"])))


def _bert(growth: _Growth, step: TokenizerStep) -> None:
    """Accents are stripped from the canonical form."""
    growth.settle(CANONICAL)
    if step["handle_chinese_chars"]:
        growth.open *= CHINESE


def _metaspace(growth: _Growth, step: TokenizerStep) -> None:
    growth.replace_spaces(step["replacement"])
    if step["prepend_scheme"] != "never":
        growth.add(step["replacement"])
    if step["split"]:
        growth.cut()


def _byte_level(growth: _Growth, step: TokenizerStep) -> None:
    """As a normalizer it has no keys."""
    if step.get("add_prefix_space", False):
        growth.add(" ")
    growth.renew(BYTE_LETTER)
    growth.has_spaces = False
    if step.get("use_regex", False):
        growth.cut()


def _cut(growth: _Growth, step: TokenizerStep) -> None:
    growth.cut()


def _cut_at_spaces(growth: _Growth, step: TokenizerStep) -> None:
    """Spaces are taken away."""
    growth.cut()
    growth.has_spaces = False


def _nothing(growth: _Growth, step: TokenizerStep) -> None:
    """Takes characters away, or puts one in the place of one that is as long or longer."""
    growth.has_spaces = True


def _settle(factor: float) -> Callable[[_Growth, TokenizerStep], None]:
    return lambda growth, step: growth.settle(factor)


# Every kind of the tables of `library_parts.py`. A kind that stands in two sections does the same in both.
EFFECTS: dict[str, Callable[[_Growth, TokenizerStep], None]] = {
    "NFC": _settle(CANONICAL),
    "NFD": _settle(CANONICAL),
    "NFKC": _settle(COMPATIBLE),
    "NFKD": _settle(COMPATIBLE),
    "Lowercase": _settle(LOWER),
    "BertNormalizer": _bert,
    "StripAccents": _nothing,
    "Nmt": _nothing,
    "Strip": _nothing,
    "Prepend": lambda growth, step: growth.add(step["prepend"]),
    "Replace": _replace,
    "Precompiled": _precompiled,
    "ByteLevel": _byte_level,
    "Metaspace": _metaspace,
    "Split": _cut,
    "Digits": _cut,
    "Punctuation": _cut,
    "CharDelimiterSplit": _cut,
    "BertPreTokenizer": _cut_at_spaces,
    "Whitespace": _cut_at_spaces,
    "WhitespaceSplit": _cut_at_spaces,
    "UnicodeScripts": _cut,
    "FixedLength": _cut,
}


def encoded_growth(normalizer: Sequence[TokenizerStep], pre_tokenizer: Sequence[TokenizerStep]) -> float:
    """Bytes that the model gets for one byte of a text, at most. TooCostly where a step has no bound."""
    growth = _Growth()
    for step in [*normalizer, *pre_tokenizer]:
        EFFECTS[step["type"]](growth, step)
    return growth.size


def decoded_growth(decoder: Sequence[TokenizerStep]) -> float:
    """Bytes of a token's text for one byte of its piece, at most: only a Replace puts anything in."""
    growth = _Growth()
    for step in decoder:
        if step["type"] == "Replace":
            _replace(growth, step)
    return growth.size
