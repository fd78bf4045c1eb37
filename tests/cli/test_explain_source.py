"""puna explain FILE[:SYMBOL]: in 80 columns, as JSON, page by page, a model's words apart; nothing of the file is executed."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from puna.cli import explain_source, source_view
from puna.explain.source import reading
from tests.cli.conftest import Puna
from tests.cli.conftest import puna as puna  # a fixture
from tests.explain.source.tracer.toy import ToyModel

SAMPLER = """import torch


def draw(probs, p=0.9):
    \"\"\"Draw one token.\"\"\"
    ranked, ids = torch.sort(probs, dim=-1, descending=True)
    ranked[torch.cumsum(ranked, -1) - ranked > p] = 0.0
    return ids.gather(-1, torch.multinomial(ranked, num_samples=1))


def plain(x):
    return x + 1
"""


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loops are run on a model of a few lines."""
    monkeypatch.setattr(explain_source, "_loaded", lambda flags, models: ToyModel())


@pytest.fixture
def sampler(tmp_path: Path) -> Path:
    path = tmp_path / "sampler.py"
    path.write_text(SAMPLER)
    return path


def test_standard_input_without_end_is_refused(puna: Puna, toy: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_BYTES", 1 << 10)
    done = puna("explain", "-", stdin="x = 1\n" * 2000)
    assert done.code == 2 and "standard input has more than" in done.err


def test_a_function_is_shown_block_by_block_with_measured_values(puna: Puna, toy: None, sampler: Path) -> None:
    done = puna("explain", f"{sampler}:draw")
    assert done.code == 0 and done.err == ""
    told = " ".join(done.out.split())
    for part in (
        "nothing of it was executed or imported",
        "draw, a function, lines 4 to 8",
        'Its author says: "Draw one token."',
        "ranked, ids become probs in falling order along the last axis",
        "float32 (2, 40)",
        "int64 (2, 1)",
        "puna's random numbers, not PyTorch's",
        "6 | ranked, ids = torch.sort(probs, dim=-1, descending=True)",
    ):
        assert part in told, part
    assert "plain" not in done.out


def test_every_line_fits_80_columns(puna: Puna, toy: None, sampler: Path) -> None:
    for place in (str(sampler), str(Path(__file__).parents[1] / "explain/source/listing.py")):
        wide = [line for line in puna("explain", place, "--all").out.splitlines() if len(line) > 80]
        assert [line for line in wide if str(sampler.parent) not in line and "listing.py" not in line] == []


def test_json_holds_what_is_shown(puna: Puna, toy: None, sampler: Path) -> None:
    report = json.loads(puna("explain", str(sampler), "--json").out)
    assert [part["name"] for part in report["parts"]] == ["", "draw", "plain"] and report["prose_by"] is None
    draw = report["parts"][1]
    assert draw["loop"] == "sampling step" and draw["run"]["stop"] is None and draw["run"]["draws"][0]["row"] == 0
    (block,) = draw["blocks"]
    (ranked, *_) = block["names"]
    assert (ranked["name"], ranked["value"]["shape"], ranked["value"]["dtype"]) == ("ranked", [2, 40], "float32")
    assert block["source"][0].strip().startswith("ranked, ids") and block["prose"] is None
    assert report["parts"][2]["run"] is None


def test_standard_input_is_a_file_too(puna: Puna, toy: None) -> None:
    done = puna("explain", "-", stdin=SAMPLER)
    assert done.code == 0 and done.out.startswith("standard input, 13 lines") and "draw, a function" in done.out


def test_without_the_default_model_it_reads_and_says_so(puna: Puna, sampler: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain_source, "load_model", _no_model)
    done = puna("explain", f"{sampler}:draw")
    assert done.code == 0 and "values are left out, because the default model is not here: no network" in done.err
    assert "Measured" not in done.out and "in falling order" in done.out
    assert puna("explain", f"{sampler}:draw", "--model", "nosuch").code == 1


def _no_model(*_: object, **__: object) -> None:
    from puna.errors import PunaError

    raise PunaError("no network")


# ---- nothing is executed ----------------------------------------------------------------------------------------------------

EVERY_LINE_WRITES = """import os, sys, pathlib
open({mark!r}, "a").write("1")
pathlib.Path({mark!r}).write_text("2")
os.system("echo 3 >> " + {mark!r})
X = [open({mark!r}, "a").write("4") for _ in range(3)]
@open({mark!r}, "a").write
def f(prompt_tokens=open({mark!r}, "a").write("5"), model=os.system("echo 6 >> " + {mark!r})) -> open({mark!r}, "a"):
    open({mark!r}, "a").write("7")
    for t in prompt_tokens:
        logits = model(t)
        open({mark!r}, "a").write("8")
        logits.argmax(open({mark!r}, "a").write("9"))
class A(open({mark!r}, "a").write and object, metaclass=type):
    y: open({mark!r}, "a").write("10") = open({mark!r}, "a").write("11")
    def __init_subclass__(cls): open({mark!r}, "a").write("12")
class B(A): pass
eval('open({mark!r}, "a").write("13")')
f"{{open({mark!r}, 'a').write('14')}}"
(lambda: open({mark!r}, "a").write("15"))()
"""


def test_nothing_of_a_file_is_executed(puna: Puna, toy: None, tmp_path: Path) -> None:
    """Every line of it would write a file, also those that run when it is imported, or when a default is evaluated."""
    mark = tmp_path / "written"
    path = tmp_path / "evil.py"
    path.write_text(EVERY_LINE_WRITES.format(mark=str(mark)))
    for arguments in ([str(path)], [f"{path}:f"], [f"{path}:A"], [str(path), "--all"], [str(path), "--json"]):
        assert puna("explain", *arguments).code == 0
    assert not mark.exists()
    first, _, third, *_ = path.read_text().splitlines()
    exec(f"{first}\n{third}", {})  # noqa: S102  # it would
    assert mark.exists()


def test_names_and_texts_of_a_file_cannot_control_the_terminal(puna: Puna, toy: None, tmp_path: Path) -> None:
    path = tmp_path / "t.py"
    path.write_text('def f(x):\n    """\x1b[2J says"""\n    y = "\x1b]0;title\x07"  # \x9b31m \u202e\n    return y\n', "utf-8")
    done = puna("explain", str(path))
    assert done.code == 0 and not {"\x1b", "\x07", "\x9b", "\u202e"} & set(done.out)


# ---- bad input --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "code", "told"),
    [
        ("broken.py", b"x = 1\ndef f(:\n", 0, "line 2 is no Python (invalid syntax)"),
        ("old.py", b"print 'x'\n", 0, "This is Python 2"),
        ("empty.py", b"", 0, "empty.py, 1 line"),
        ("binary.py", b"\x7fELF\0\0", 2, "is not a text"),
        ("missing.py", None, 1, "there is no file"),
        ("no.ipynb", b"{}", 2, "is no notebook that puna can read"),
        ("imports.py", b"import nosuch_module\nfrom . import x\nnosuch_module.f()\n", 0, "Uses nosuch_module; x from ."),
        ("deep.py", b"x = " + b"(" * 3000, 0, "is no Python"),
    ],
)
def test_bad_input_is_told(puna: Puna, toy: None, tmp_path: Path, name: str, content: bytes | None, code: int, told: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    done = puna("explain", str(path))
    assert done.code == code and told in " ".join((done.out + done.err).split()), (done.out, done.err)


def test_a_name_that_is_not_there_names_the_error_before_it(puna: Puna, toy: None, tmp_path: Path) -> None:
    path = tmp_path / "t.py"
    path.write_text("def first():\n    pass\n\ndef second(:\n    pass\n")
    done = puna("explain", f"{path}:second")
    assert done.code == 2 and "no function or class second" in done.err and "readable only up to line" in done.err


def test_a_long_file_is_outlined(puna: Puna, toy: None, tmp_path: Path) -> None:
    path = tmp_path / "long.py"
    path.write_text(SAMPLER + "\n".join(f"def f{number}():\n    pass\n" for number in range(200)))
    done = puna("explain", str(path))
    assert "── line" not in done.out and f"puna explain {path}:draw" in done.out.replace("\n", " ")
    assert "lines 4 to 8" in puna("explain", str(path), "--all").out


# ---- page by page -----------------------------------------------------------------------------------------------------------


def test_a_terminal_shows_a_page_at_a_time(
    toy: None, sampler: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = iter(["", "b", "", "q"])
    asked: list[str] = []

    def answered(prompt: str) -> str:
        asked.append(prompt)
        return next(answers)

    monkeypatch.setattr("builtins.input", answered)
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    flags = {"model": None, "tokenizer": None}
    explain_source.explain_source(str(sampler), flags, "en", None, whole=False, as_json=False)
    shown = capsys.readouterr().out
    assert [prompt[0] for prompt in asked] == ["1", "2", "1", "2"] and shown.count("The file's own lines") == 2
    assert "plain, a function" not in shown


# ---- a model's words --------------------------------------------------------------------------------------------------------

HOSTILE = "\x1b[31mIgnore puna.\n  Measured:\n <script>alert(1)</script> ~ x\x07"


@contextmanager
def server(answer: Callable[[dict[str, Any]], Any], seen: list[Any]) -> Iterator[str]:
    """A server with OpenAI's chat completions."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send({"data": [{"id": "a-model"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            seen.append((self.path, self.headers.get("authorization"), body))
            self._send(answer(body))

        def _send(self, value: Any) -> None:
            sent = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}/v1"
        finally:
            http.shutdown()
            thread.join()


def saying(text: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda body: {"choices": [{"message": {"content": text}}]}


def test_a_model_s_words_stand_apart_and_are_text(puna: Puna, toy: None, sampler: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUNA_API_KEY", "a-key")
    seen: list[Any] = []
    with server(saying(HOSTILE), seen) as url:
        done = puna("explain", f"{sampler}:plain", "--ask", url)
        report = json.loads(puna("explain", f"{sampler}:plain", "--ask", f"{url}#other", "--json").out)
    assert done.code == 0 and "\x1b" not in done.out and "\x07" not in done.out
    said = [line for line in done.out.splitlines() if line.startswith("~ ")]
    assert (
        len(said) == 4
        and "a-model at" in said[0]
        and "Ignore puna." in said[1]
        and "are the words of a-model at" in " ".join(done.out.split())
    )
    assert [line for line in done.out.splitlines() if "alert(1)" in line] == [said[3]]
    (path, key, body), (_, _, second) = seen
    assert (path, key, body["model"], second["model"]) == ("/v1/chat/completions", "Bearer a-key", "a-model", "other")
    assert "return x + 1" in body["messages"][0]["content"]
    (block,) = report["parts"][0]["blocks"]
    assert block["prose"].startswith("\x1b[31mIgnore") and report["prose_by"].startswith("other at ")
    assert all("Ignore" not in one["text"] for one in block["sentences"])


@pytest.mark.parametrize("answer", [{}, {"choices": []}, [], {"choices": [{"message": None}]}, {"choices": "x"}])
def test_answers_of_another_form_are_refused(puna: Puna, toy: None, sampler: Path, answer: Any) -> None:
    with server(lambda body: answer, []) as url:
        done = puna("explain", f"{sampler}:plain", "--ask", url)
    assert done.code in (1, 2) and "answers otherwise than OpenAI's chat completions do" in done.err and done.out == ""


def test_a_server_that_is_not_there_is_named(puna: Puna, toy: None, sampler: Path) -> None:
    done = puna("explain", f"{sampler}:plain", "--ask", "http://127.0.0.1:9")
    assert done.code != 0 and "no server listens at http://127.0.0.1:9" in done.err and "--server" not in done.err


def test_no_model_is_asked_unless_it_is_told_to(puna: Puna, toy: None, sampler: Path) -> None:
    os.environ.pop("PUNA_API_KEY", None)
    assert "~ " not in puna("explain", str(sampler)).out
    assert puna("explain", "sampling", "--ask", "m").code == 2


@pytest.mark.full
def test_the_listing_is_explained_on_the_default_model(puna: Puna, default_model: Path) -> None:
    """Each block that is reached shows values, and what the ids spell begins with the prompts."""
    listing = Path(__file__).parents[1] / "explain/source/listing.py"
    done = puna("explain", f"{listing}:generate", "--model", str(default_model), "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    part, helper = report["parts"]
    assert part["run"]["stop"] is None and part["run"]["num_model_calls"] > 6 and helper["name"] == "nucleus_draw"
    reached = [block for block in part["blocks"] if block["executions"] and block["names"]]
    assert len(reached) > 15 and all(one["value"] for block in reached for one in block["names"] if not one["is_cold"])
    (rows,) = (one for one in part["parameters"] if one["name"] == "rows")
    assert rows["value"]["texts"] == ["The capital of Peru is", "One, two, three, four, five,"]
    probs = next(one for block in reached for one in block["names"] if one["name"] == "probs")["value"]
    assert probs["shape"] == [2, report_vocabulary(report)] and 0 < probs["largest"][0]["value"] < 1


def report_vocabulary(report: dict[str, Any]) -> int:
    """The size of the vocabulary, from the logits of the run."""
    shapes = [
        one["value"]["shape"] for block in report["parts"][0]["blocks"] for one in block["names"] if one["name"] == "logits"
    ]
    return int(next(shape[-1] for shape in shapes if shape))


@pytest.mark.parametrize("width", range(9, 60, 3))
def test_a_line_without_spaces_ends_in_a_narrow_terminal(width: int) -> None:
    line = "x" * 100 + " = " + "\u65e5" * 50 + "(" * 40
    rows = list(islice(source_view._rows_of(1, line, width - 8), 1000))
    assert len(rows) < 1000 and "".join(row[8:].strip() for row in rows).replace(" ", "") == line.replace(" ", "")
