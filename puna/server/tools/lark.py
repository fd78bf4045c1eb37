"""llguidance's Lark: how the texts of a layout are spelled in a grammar."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from puna.server.tools.layout import MARKS, literal

ANYTHING = "(?s:.*)"


class LarkTerms:
    """Spells texts for a grammar: control tokens by their ids, all else as strings.

    >>> LarkTerms({"[A]": 7})("[A]x")
    '<[7]> "x"'
    """

    def __init__(self, controls: Mapping[str, int]) -> None:
        self.controls = controls

    def __call__(self, text: str) -> str:
        marks = [mark for mark in MARKS.findall(text) if mark in self.controls]
        pieces = re.split("(" + "|".join(map(re.escape, marks)) + ")", text) if marks else [text]
        return " ".join(f"<[{self.controls[one]}]>" if one in marks else json.dumps(one) for one in pieces if one) or '""'

    def text_before(self, mark: str, name: str) -> dict[str, str]:
        """Rules; that of `name` is any text, and behind it `mark`, which ends it where it first occurs."""
        terminal = name.upper()
        if mark in self.controls:  # no text holds a control token
            return {name: f"{terminal} {self(mark)}", terminal: f"/{ANYTHING}/"}
        return {f"{name}[lazy]": terminal, terminal: f"/{ANYTHING}{literal(mark)}/"}
