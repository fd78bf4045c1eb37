"""The page is one file that names nothing outside itself, and no text of a model can become a part of it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from puna.glassbox import report
from puna.glassbox.report import trace_page
from puna.glassbox.report.bundle import START, embedded, imports_of, policy, scripts
from puna.glassbox.report.data import packed
from puna.glassbox.trace import Trace, TracedToken
from scripts.report_terms import PATH, terms_script
from tests.browser import ATTACKS
from tests.glassbox.report.traces import DRAWN, sampled

FOLDER = Path(report.__file__).parent
SCRIPTS = sorted(FOLDER.glob("*.js"))
HOSTILE = [
    *ATTACKS,
    "</script>",
    "<!--<script>",
    "]]>",
    "\u2028\u2029",
    "\x00\x1b[2J",
    "{{script}}{{data}}",
    "\ud800",
    '\\u003c"',
    "'",
]


class Page(HTMLParser):
    """The elements of a page, and what its script elements hold."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: dict[str, str] = {}
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += attrs
        self._inside = " ".join([tag, dict(attrs).get("type") or ""]).strip()

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        self.texts[self._inside] = self.texts.get(self._inside, "") + data


def hostile() -> Trace:
    """A trace of which every text is an attack."""

    def token(token_id: int) -> TracedToken:
        text = HOSTILE[token_id % len(HOSTILE)]
        return TracedToken(token_id, text, text, text.encode("utf-8", "replace").hex(), is_control=token_id % 7 == 0)

    trace = sampled(4, {**DRAWN, "stop": [text for text in HOSTILE if text != "\ud800"][:16]}, token)
    everything = "".join(HOSTILE)
    prompt = replace(trace.prompt, given=everything, text=everything)
    return replace(trace, model=everything, backend=everything, why=everything, text=everything, prompt=prompt)


ELEMENTS = ["html", "head", "meta", "meta", "meta", "meta", "title", "style", "body", "noscript", "p", "script", "script"]


def test_hostile_texts_are_data_and_nothing_else() -> None:
    trace = hostile()
    text = trace_page(trace)
    page, plain = Page(text), Page(trace_page(sampled(1, DRAWN)))
    assert page.elements == plain.elements == ELEMENTS
    assert [one for one in page.attributes if one not in plain.attributes] == []
    found = json.loads(page.texts["script application/json"])
    assert found["trace"]["prompt"]["given"] == trace.prompt.given and found["trace"]["model"] == trace.model
    assert found["trace"] == json.loads(json.dumps(packed(trace)["trace"]))
    assert text.encode("utf-8").count(b"</script") == 2 and "<!--" not in text.split("<body>")[1]


@pytest.mark.parametrize("attack", HOSTILE)
def test_json_in_the_page_reads_back_and_holds_no_markup(attack: str) -> None:
    text = embedded({attack: [attack]})
    assert json.loads(text) == {attack: [attack]} and not re.search("[<>&\u2028\u2029\x00-\x1f]", text)


def test_the_policy_allows_this_script_and_this_style_only() -> None:
    page = Page(trace_page(sampled(1, DRAWN)))
    given = next(value for _, value in page.attributes if value and "default-src" in value)
    rules = dict(rule.split(" ", 1) for rule in given.split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == rules["trusted-types"] == "'none'"
    assert rules["script-src"] == digest(page.texts["script module"]) and rules["style-src"] == digest(page.texts["style"])
    assert "unsafe" not in given and given == policy(page.texts["style"], page.texts["script module"])


def digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_the_page_names_no_other_origin() -> None:
    text = trace_page(sampled(1, DRAWN))
    assert set(re.findall(r"(?:https?:)?//[\w.-]+\.\w[^\s\"'`<>)]*", re.sub(r"(?m)(^|\s)// .*$", "", text))) == {
        "http://www.w3.org/2000/svg"
    }
    assert re.findall(r"\b(?:src|href|action)=|@import|\burl\((?!\"?#)", text) == []


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_script_makes_markup_or_code_from_text(path: Path) -> None:
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|srcdoc|DOMParser|setHTML|cssText"
    text = path.read_text("utf-8")
    assert (
        re.findall(forbidden, text) == []
        and re.findall(r"createContextualFragment|\bimport\(|fetch\(|XMLHttpRequest", text) == []
    )


def test_every_script_is_a_part_of_the_page_and_every_import_is_understood() -> None:
    text = scripts()
    assert all(f"const {path.stem}_js = (" in text for path in SCRIPTS)
    for path in SCRIPTS:
        source = path.read_text("utf-8")
        assert source.count("\nimport ") + source.startswith("import ") == len(imports_of(source)), path
        assert re.findall(r"^export (?!const|function|class)", source, re.MULTILINE) == [], path
    assert not re.search(r"^(import|export) ", text, re.MULTILINE) and START == "main"


def test_every_text_of_the_words_is_used_and_every_used_one_is_there() -> None:
    words = table("words").keys()
    sources = "".join(path.read_text("utf-8") for path in SCRIPTS if path.name != "words.js")
    named = set(re.findall(r"\b(?:t|rich)\(\"(\w+)\"", sources))
    assert named <= words, named - words
    assert {word for word in words if not re.search(rf"\"{word}\"", sources)} == {"stop", "length", "abort", "timeout", "error"}


@pytest.mark.parametrize("name", ["german", "chinese"])
def test_every_language_has_all_texts_with_the_same_places_and_all_words(name: str) -> None:
    text, english = (FOLDER / f"{name}.js").read_text("utf-8"), table("words")
    texts = table(name)
    assert texts.keys() == english.keys() and all(texts.values())
    places = {word: set(re.findall(r"\{\w+\}", said)) for word, said in texts.items()}
    assert places == {word: set(re.findall(r"\{\w+\}", said)) for word, said in english.items()}
    terms = set(re.findall(r'^  "([^"]+)": \[', text, re.MULTILINE))
    known = set(re.findall(r'^  "([^"]+)": "', PATH.read_text("utf-8"), re.MULTILINE))
    sources = "".join(path.read_text("utf-8") for path in SCRIPTS)
    named = set(re.findall(r'term\("([^"]+)"', sources)) | set(re.findall(r'\["fact\w+", "(?!explain)([^"]+)"', sources))
    assert named <= terms <= known


def table(name: str) -> dict[str, str]:
    """The texts of a module that holds one for each name."""
    return dict(re.findall(r'^  (\w+): "(.*)",$', (FOLDER / f"{name}.js").read_text("utf-8"), re.MULTILINE))


def test_the_explained_words_are_those_of_the_glossary() -> None:
    assert PATH.read_text("utf-8") == terms_script(), "run: .venv/bin/python -m scripts.report_terms"
