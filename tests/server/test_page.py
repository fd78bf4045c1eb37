"""The web page's files: how they are served, and what must not stand in them."""

from __future__ import annotations

import posixpath
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from puna.filters import make_steps, masses_of
from puna.glassbox import report
from puna.glassbox.report.bundle import views
from puna.history import History
from puna.request import SAMPLERS, TEMPERATURE_FIRST, SamplingParams
from puna.sampling import candidates
from puna.server import page
from puna.server.settings import ServerSettings
from tests.server.node import evaluated, needs_node
from tests.server.serving import RunningServer, serving

FOLDER = Path(page.__file__).parent
REPORT = Path(report.__file__).parent
SHARED = sorted(REPORT / name for name in views(page.VIEWS))  # what the page has in common with the report of a trace
FILES = {path: f"/page/{path.relative_to(FOLDER).as_posix()}" for path in FOLDER.rglob("*") if path.suffix in page.KINDS}
FILES |= {path: f"/page/{page.SHARED}/{path.name}" for path in SHARED}
SCRIPTS = sorted(path for path in FILES if path.suffix == ".js")
PATHS = sorted(page.assets())
NAMESPACES = {"http://www.w3.org/2000/svg", "http://www.w3.org/1998/Math/MathML"}
LANGUAGES = sorted((FOLDER / "languages").glob("*.js"))


@pytest.mark.parametrize("path", PATHS)
def test_each_file_comes_with_its_type_and_the_policy(server: RunningServer, path: str) -> None:
    got = server.get(path)
    ending = Path(path).suffix or ".html"
    assert (got.status, got.headers["content-type"]) == (200, page.KINDS[ending])
    wanted = page.HEADERS | page.CACHES.get(got.headers["content-type"], {})
    assert {name: got.headers.get(name) for name in wanted} == wanted
    assert got.body == page.assets()[path].body


def test_the_policy_allows_this_server_only() -> None:
    rules = dict(rule.split(" ", 1) for rule in page.POLICY.split("; "))
    assert rules["default-src"] == "'self'"
    assert {rules[name] for name in ("base-uri", "frame-ancestors", "object-src", "form-action")} == {"'none'"}
    assert "unsafe" not in page.POLICY


def test_a_browser_that_has_a_file_gets_304(server: RunningServer) -> None:
    etag = server.get("/").headers["etag"]
    for given in (etag, f"W/{etag}", f'"other", {etag}'):
        again = server.get("/", {"if-none-match": given})
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", etag)
    assert server.get("/", {"if-none-match": '"other"'}).status == 200


def test_a_range_is_answered_whole(server: RunningServer) -> None:
    got = server.get("/", {"range": "bytes=0-0,1-1,2-2"})
    assert (got.status, got.body) == (200, page.assets()["/"].body)


def test_head_and_other_methods(server: RunningServer) -> None:
    assert (server.request("HEAD", "/").status, server.request("HEAD", "/").body) == (200, b"")
    assert server.post("/page/main.js").status == 405
    assert server.get("/page/../app.py").status == server.get("/page/__init__.py").status == 404


def test_the_page_needs_no_key_and_what_it_asks_for_does() -> None:
    with serving(settings=ServerSettings(port=0, api_keys=("secret",))) as server:
        assert {server.get(path).status for path in PATHS} == {200}
        assert server.get("/v1/models").status == 401


def test_the_page_of_another_site_cannot_load_it(server: RunningServer) -> None:
    assert server.get("/", {"sec-fetch-site": "cross-site"}).status == 403
    assert server.get("/", {"host": "evil.example"}).status == 403


def test_the_markup_holds_no_script_style_or_handler() -> None:
    markup = (FOLDER / "index.html").read_text("utf-8")
    assert re.findall(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=|javascript:", markup) == []
    assert re.findall(r"<script[^>]*>[^<]", markup) == []


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_script_makes_markup_or_code_from_text(path: Path) -> None:
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|srcdoc|DOMParser|setHTML|cssText"
    assert re.findall(forbidden, path.read_text("utf-8")) == []
    assert re.findall(r"createContextualFragment|(?<![\w#])import\(|setTimeout\(\s*[\"'`]", path.read_text("utf-8")) == []


def test_no_file_names_another_origin() -> None:
    for path in FILES:
        found = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w[^\s\"'`<>)]*", _without_comments(path)))
        assert found <= NAMESPACES, path


def _without_comments(path: Path) -> str:
    return re.sub(r"(?m)(^|\s)// .*$|/\*.*?\*/", "", path.read_text("utf-8"))


def references() -> Iterator[tuple[str, str]]:
    """Each file that another one names: where, and its path on the server."""
    for path, served in FILES.items():
        text = path.read_text("utf-8")
        for name in re.findall(r"from \"(\.\.?/[\w./]+)\"", text):
            yield path.name, posixpath.normpath(posixpath.join(posixpath.dirname(served), name))
        for name in re.findall(r"[\"'`](page/[\w./]+\.\w+)", text):
            yield path.name, f"/{name}"


def test_every_file_that_is_named_exists_and_every_file_is_named() -> None:
    named = {path for _, path in references()}
    assert [reference for reference in references() if reference[1] not in PATHS] == []
    assert set(PATHS) - named == {"/"}


def test_every_icon_that_is_named_exists() -> None:
    drawn = set(re.findall(r'<symbol id="(\w+)"', (FOLDER / "icons.svg").read_text("utf-8")))
    text = "".join(path.read_text("utf-8") for path in (*SCRIPTS, FOLDER / "index.html"))
    used = set(re.findall(r"icons\.svg#(\w+)", text)) | set(re.findall(r"\b(?:icon|iconButton|step)\(\"(\w+)\"", text))
    assert used == drawn


def table(path: Path) -> dict[str, str]:
    return dict(re.findall(r'^  (\w+): "(.*)",$', path.read_text("utf-8"), re.MULTILINE))


def test_every_language_has_the_same_texts_with_the_same_places() -> None:
    english = table(FOLDER / "languages/en.js")
    assert len(english) > 100
    for path in LANGUAGES:
        texts = table(path)
        assert texts.keys() == english.keys(), path.name
        assert all(texts.values())
        places = {name: set(re.findall(r"\{\w+\}", text)) for name, text in texts.items()}
        assert places == {name: set(re.findall(r"\{\w+\}", text)) for name, text in english.items()}, path.name


def test_every_text_that_is_named_exists_and_every_text_is_named() -> None:
    english = set(table(FOLDER / "languages/en.js"))
    text = "".join(path.read_text("utf-8") for path in SCRIPTS if path not in (*LANGUAGES, *SHARED))
    markup = (FOLDER / "index.html").read_text("utf-8")
    named = set(re.findall(r"\bt\(\"(\w+)\"", text)) | set(re.findall(r'data-(?:text|label|placeholder)="(\w+)"', markup))
    assert named <= english
    quoted = set(re.findall(r"[\"`](\w+)[\"`]", text)) | set(
        re.findall(r"(?:tab|theme|model|effort|state)_\w+", " ".join(english))
    )
    assert {name.removesuffix("_one").removesuffix("Hint") for name in english - named} <= quoted | {"nameOfLanguage"}


@pytest.mark.parametrize("name", ["en", "de", "zh"])
def test_what_this_page_says_of_a_trace_in_another_way_has_the_same_places(name: str) -> None:
    own, english = table(FOLDER / f"glassbox/views_{name}.js"), table(REPORT / "words.js")
    assert own and own.keys() <= english.keys()
    assert all(set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", english[word])) for word, text in own.items())


@needs_node()
def test_the_nucleus_is_that_of_the_filters() -> None:
    rng = np.random.default_rng(17)
    logits = np.sort(rng.normal(0, 2, 400).astype(np.float32))[::-1]
    shares = masses_of(logits) / masses_of(logits).sum()
    for settings in (
        {"temperature": 0.7, "top_p": 0.8},
        {"temperature": 1.6, "top_p": 0.8},
        {"temperature": 1.6, "top_p": 0.8, "isTemperatureFirst": True},
        {"temperature": 0.6, "top_k": 9, "top_p": 0.5, "min_p": 0.2},
        {"temperature": 1.0, "top_p": 1.0},
        {"temperature": 0.0, "top_p": 0.9},
    ):
        own: dict[str, Any] = dict(settings)
        order = TEMPERATURE_FIRST if own.pop("isTemperatureFirst", False) else SAMPLERS
        kept = candidates(
            make_steps(SamplingParams(**own, samplers=order)), logits, SamplingParams(**own, samplers=order), History()
        )
        left = kept.row(400)
        expected = masses_of(left) / masses_of(left).sum()
        if not own["temperature"]:
            expected = np.eye(400)[0]
        listed = [{"id": i, "probability": float(share)} for i, share in enumerate(shares[:300])]
        found = evaluated("glassbox/nucleus.js", "nucleus", "nucleus(given[0], 100, given[1])", [listed, settings])
        # exact unless the temperature comes first: then the sum of the candidates that are not listed is a guess
        assert found["count"] == pytest.approx(int((expected > 0).sum()), rel=0.01 if order == TEMPERATURE_FIRST else 0), settings
        for one in found["kept"][: int((expected > 0).sum())]:
            assert one["probability"] == pytest.approx(expected[one["id"]], rel=0.01), settings


@needs_node()
def test_an_answer_that_ends_in_a_loop_is_known() -> None:
    prose = (FOLDER.parents[2] / "README.md").read_text("utf-8")
    texts = {
        "a sentence": prose[:900] + "The llama hums a tune. " * 20 + "The lla",
        "a list": "".join(f"{i}. The llama hums a tune.\n" for i in range(5, 30)),
        "a long turn": prose[:500] * 4,
        "prose": prose[:5000],
        "two turns": prose[:500] * 2,
        "a short end": prose[:900] + "ha " * 20,
        "nothing": "",
    }
    loops = evaluated("loops.js", "endsInLoop", "given.map(endsInLoop)", list(texts.values()))
    assert [name for name, is_loop in zip(texts, loops, strict=True) if is_loop] == ["a sentence", "a list", "a long turn"]


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node to parse the scripts with")
def test_every_script_is_a_module_that_parses() -> None:
    code = "".join(
        f"import({str(path)!r}).catch((error) => {{ if (error instanceof SyntaxError) throw error; }});" for path in SCRIPTS
    )
    done = subprocess.run(["node", "--input-type=module", "-e", code], capture_output=True, text=True, check=False)
    assert "SyntaxError" not in done.stderr, done.stderr


def test_a_wheel_holds_the_files() -> None:
    """hatchling takes everything in the package that git does not ignore."""
    root = FOLDER.parents[2]
    if not (root / ".git").exists():
        pytest.skip("this is no git checkout")
    command = ["git", "check-ignore", *(str(path.relative_to(root)) for path in FOLDER.rglob("*") if path.suffix in page.KINDS)]
    assert subprocess.run(command, cwd=root, capture_output=True, text=True, check=False).stdout == ""
