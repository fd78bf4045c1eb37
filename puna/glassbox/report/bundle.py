"""Puts the page together: one HTML file that holds its script, its style and its trace, and fetches nothing.

The scripts are ES modules, which the page of the server can use as they are. A file alone cannot import: here they become one
script, each module a function that returns what it exports, after those that it imports.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable
from graphlib import TopologicalSorter
from importlib.resources import files
from typing import Any

VIEWS = "views.css"
STYLES = ("colours.css", VIEWS, "report.css")
START = "main"
SHELL = "report.html"
IMPORT = re.compile(r'^import (\{[^}]*\}) from "\./(\w+)\.js";$', re.MULTILINE)
EXPORT = re.compile(r"^export (const|function|class) (\w+)", re.MULTILINE)
# In a script element of JSON the parser ends at "</script" and changes its mode at "<!--"; neither can stand there without "<".
ESCAPES = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


def page_of(data: Any) -> str:
    """The page, with `data` as the JSON that its script reads."""
    style, script = "\n".join(_text(name) for name in STYLES), scripts()
    parts = {"policy": policy(style, script), "style": style, "script": script, "data": embedded(data)}
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _text(SHELL))


def modules(starts: Iterable[str]) -> dict[str, str]:
    """Some modules and all that they need: name -> text."""
    texts, waiting = dict[str, str](), [*starts]
    while waiting:
        name = waiting.pop()
        if name not in texts:
            texts[name] = _text(f"{name}.js")
            waiting += imports_of(texts[name])
    return texts


def views(starts: Iterable[str]) -> dict[str, str]:
    """What another page needs to show some of the views, by the names of files: their modules as they are, and their style."""
    return {**{f"{name}.js": text for name, text in modules(starts).items()}, VIEWS: scoped(_text(VIEWS))}


def scoped(style: str) -> str:
    """A style that names elements, for those in an element of the class `views` only. Its colours come first, for all.

    >>> scoped(":root { --a: red;\\n}\\ntd { color: var(--a);\\n}\\n")
    ':root { --a: red;\\n}\\n.views {\\ntd { color: var(--a);\\n}\\n}\\n'
    """
    colours, end, rules = style.partition("}\n")
    return f"{colours}{end}.views {{\n{rules}}}\n"


def scripts() -> str:
    """All modules that `main.js` needs, as one script."""
    texts = modules([START])
    order = TopologicalSorter({name: imports_of(text) for name, text in texts.items()}).static_order()
    return "\n".join(as_function(name, texts[name]) for name in order)


def imports_of(module: str) -> list[str]:
    """The names of the modules that a module imports."""
    return [name for _, name in IMPORT.findall(module)]


def as_function(name: str, module: str) -> str:
    """A module as a constant that holds what it exports.

    >>> print(as_function("b", 'import { one } from "./a.js";\\nexport const two = one + one;'))
    const b_js = (() => {
    const { one } = a_js;
    const two = one + one;
    return { two };
    })();
    """
    exported = ", ".join(found[1] for found in EXPORT.findall(module))
    body = EXPORT.sub(r"\1 \2", IMPORT.sub(r"const \1 = \2_js;", module))
    return f"const {name}_js = (() => {{\n{body}\nreturn {{ {exported} }};\n}})();"


def policy(style: str, script: str) -> str:
    """What the page may do: run its own script, use its own style, and nothing else."""
    rules = (
        "default-src 'none'",
        f"script-src {_source(script)}",
        f"style-src {_source(style)}",
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
    return "; ".join(rules)


def _source(text: str) -> str:
    """How a policy names an element of exactly this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"


def embedded(data: Any) -> str:
    """JSON that no text in it can end or change, whatever a model wrote.

    >>> embedded(["</script><!--", "ß 字"])
    '["\\\\u003c/script\\\\u003e\\\\u003c!--","ß 字"]'
    """
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(ESCAPES)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")  # a lone surrogate is JSON's escape too


def _text(name: str) -> str:
    return (files("puna.glassbox") / "report" / name).read_text("utf-8")
