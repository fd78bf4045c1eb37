"""puna explain TOPIC: whole where it is piped, part by part in a terminal, in the person's language, with their text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from puna.cli import explain_tour
from puna.cli.explain_tour import Screens, TourScreen, walk
from puna.explain.topics import TOPICS
from puna.explain.words import FRAME, Words
from tests.cli.conftest import Puna
from tests.explain.live_models import tiny_file
from tests.models import llama2c_bytes, random_tensors, tiny_config


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_file(tmp_path_factory.mktemp("explain")))


@pytest.fixture(autouse=True)
def on_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUNA_DEVICE", "reference")
    for name in ("LC_ALL", "LC_MESSAGES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", "C.UTF-8")


def test_piped_it_prints_all_without_colour(puna: Puna, model: str) -> None:
    done = puna("explain", "sampling", "the big", "tiger", "--model", model)
    assert done.code == 0 and "\x1b" not in done.out and '"the big tiger"' in done.out
    assert [f"\n{number}. " in done.out for number in range(1, 7)] == [True] * 6
    assert "→ puna/filters.py:" in done.out and "def top_p(" not in done.out
    last = done.out[done.out.index("\n6. ") :]
    assert "▼" in last and "█" in last and max(map(len, done.out.splitlines())) <= 80


def test_the_language_is_the_locale_s_or_the_flag_s(puna: Puna, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Der Tokenizer" in puna("explain", "tokenizer", "--model", model, "--lang", "de").out
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    assert "分词器" in puna("explain", "tokenizer", "--model", model).out
    assert "Guided tours" in puna("explain", "--lang", "en").out
    assert puna("explain", "--lang", "fr").code == 2


def test_json_has_the_parts_as_data(puna: Puna, model: str) -> None:
    told = json.loads(puna("explain", "quantization", "--model", model, "--json").out)
    assert (told["topic"], told["language"], told["model"]) == ("quantisation", "en", model)
    kinds = {block["kind"] for part in told["parts"] for block in part["blocks"]}
    assert len(told["parts"]) == 5 and {"Prose", "TextTable", "Bars", "CodeLines"} <= kinds


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("sampling", ""), "TEXT is empty"),
        (("attention", "the big tiger " * 20), "the tour of attention takes 4 to 32"),
        (("sampling", "--model", "no-such-model.gguf"), "no-such-model.gguf"),
    ],
)
def test_what_cannot_be_shown_is_one_error(puna: Puna, model: str, words: tuple[str, ...], problem: str) -> None:
    done = puna("explain", *words, *(() if "--model" in words else ("--model", model)))
    assert done.code == 2 and problem in done.err and "Traceback" not in done.err


def test_a_model_without_a_tokenizer_says_what_to_give(puna: Puna, tmp_path: Path) -> None:
    config, path = tiny_config(), tmp_path / "bare.bin"
    path.write_bytes(llama2c_bytes(config, random_tensors(config, 1)))
    done = puna("explain", "tokenizer", "--model", str(path))
    assert done.code == 2 and "has no tokenizer" in done.err and "--tokenizer" in done.err


def screens() -> Screens:
    return Screens(TourScreen([f"screen {letter}"], ["the code"] if letter == "b" else []) for letter in "abc")


def typed(monkeypatch: pytest.MonkeyPatch, *answers: str | BaseException) -> list[str]:
    """What `input` gives, one after the other; returns what it asked."""
    left, asked = iter(answers), list[str]()

    def answer(prompt: str) -> str:
        asked.append(prompt)
        given = next(left, EOFError())
        if isinstance(given, BaseException):
            raise given
        return given

    monkeypatch.setattr("builtins.input", answer)
    return asked


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    return "".join(line[-1] for line in capsys.readouterr().out.splitlines() if line.startswith("screen "))


@pytest.mark.parametrize(
    ("answers", "seen"),
    [
        (("", "", ""), "abc"),
        (("", "b", "", "", ""), "ababc"),
        (("b", "q"), "aa"),
        (("q",), "a"),
        (("", " B ", "Q"), "aba"),
        ((), "a"),
    ],
)
def test_in_a_terminal_it_goes_back_and_forth(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answers: tuple[str, ...], seen: str
) -> None:
    asked = typed(monkeypatch, *answers)
    walk(screens(), Words("en", FRAME), "sampling")
    assert shown(capsys) == seen
    assert asked[0] == "[Enter: next, q: end] " and set(asked[1:]) <= {
        "[Enter: next, q: end] ",
        "[Enter: next, b: back, q: end] ",
        "[Enter: next, b: back, s: source, q: end] ",
    }


def test_the_code_is_shown_by_a_key_and_the_tour_stays_where_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = typed(monkeypatch, "s", "", "s", " S ", "", "q")
    walk(screens(), Words("en", FRAME), "sampling")
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line] == ["screen a", "screen b", "the code", "the code", "screen c"]
    assert asked[1].startswith("[Enter: next, q") and asked[2] == asked[3] == asked[4] != asked[5]


def test_at_its_end_a_tour_names_the_next_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for topic, said in (("generate", "The next one: puna explain tokenizer"), (TOPICS[-1], "puna explain lists the others.")):
        typed(monkeypatch, "", "", "")
        walk(screens(), Words("en", FRAME), topic)
        assert capsys.readouterr().out.endswith(f"{said}\n")


def test_a_screen_is_made_when_it_is_reached_and_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[str] = []

    def lazily() -> Iterator[TourScreen]:
        for letter in "abcd":
            made.append(letter)
            yield TourScreen([f"screen {letter}"], [])

    typed(monkeypatch, "", "b", "", "", "q")
    walk(Screens(lazily()), Words("de", FRAME), "rope")
    assert shown(capsys) == "ababc" and made == list("abc")


def test_ctrl_c_ends_a_tour(puna: Puna, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, KeyboardInterrupt())
    monkeypatch.setattr(explain_tour, "is_terminal", lambda: True)
    done = puna("explain", "tokenizer", "--model", model)
    assert done.code == 130 and "interrupted" in done.err and "\n2. " not in done.out


def test_all_stops_nowhere(puna: Puna, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert typed(monkeypatch) == []
    monkeypatch.setattr(explain_tour, "is_terminal", lambda: True)
    assert "\n5. " in puna("explain", "tokenizer", "--model", model, "--all").out
