"""A text that a person types for some place of an answer. Most tokenizers keep a space with the word after it, and people forget
it: taken as it stands, "zebra" after " a" would be "azebra".
"""

from __future__ import annotations

import json
import re

SEPARATOR = re.compile(r" \| |\|")  # between options; the spaces around it belong to it


def text_in_place_of(token_text: str, typed: str) -> str:
    r"""The text that is meant in the place of a token: if the token begins with a space, so does the text. Then quotes tell that
    it is meant exactly as it stands in them, with JSON's escapes, as candidates are shown.

    >>> text_in_place_of(" cat", "zebra"), text_in_place_of(" cat", " zebra"), text_in_place_of("cat", "zebra")
    (' zebra', ' zebra', 'zebra')
    >>> text_in_place_of(" cat", '"s"'), text_in_place_of(" cat", r'"\n"'), text_in_place_of("cat", '"s"')
    ('s', '\n', '"s"')
    """
    if not typed or not token_text.startswith(" ") or typed[0].isspace():
        return typed
    return _unquoted(typed) if len(typed) > 2 and typed[0] == typed[-1] == '"' else f" {typed}"


def options_in_place_of(token_text: str, typed: str) -> list[str]:
    """The options of a line, with | between them; empty ones are left out.

    >>> options_in_place_of(" cat", 'zebra | dog|"s"|')
    [' zebra', ' dog', 's']
    >>> options_in_place_of("Yes", "No|Maybe | Yes")
    ['No', 'Maybe', 'Yes']
    """
    return [text_in_place_of(token_text, option) for option in SEPARATOR.split(typed) if option.strip()]


def _unquoted(typed: str) -> str:
    try:
        text = json.loads(typed)
    except ValueError:
        return typed[1:-1]
    return text if isinstance(text, str) else typed[1:-1]
