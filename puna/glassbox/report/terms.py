"""The words that `terms.js` explains, for views that are no page. docs/glossary.md owns them."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.resources import files

ROW = re.compile(r'^  ("[^"]+"): (".*"),$', re.MULTILINE)


@cache
def terms() -> dict[str, str]:
    """Each word, and what it means.

    >>> terms()["top-k"]
    'draw from the k likeliest tokens only.'
    """
    text = files("puna.glassbox.report").joinpath("terms.js").read_text("utf-8")
    return {json.loads(word): json.loads(meaning) for word, meaning in ROW.findall(text)}
