"""What people read fits 80 columns and breaks between words."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from puna.cli import main
from puna.cli.answer import speeds_lines
from puna.cli.terminal import TerminalReporter, tell
from puna.cli.width import display_width
from tests.cli.conftest import FakeLLM, Puna
from tests.models import bpe_tokenizer, random_tensors, tiny_config, write_gguf

COLUMNS = 80


def too_wide(text: str) -> list[str]:
    """Lines beyond 80 columns that could have been broken: a path or a command is one word."""
    return [line for line in text.splitlines() if display_width(line) > COLUMNS and len(line.split()) > 1]


@pytest.fixture(autouse=True)
def columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(COLUMNS))


@pytest.mark.parametrize("name", ["", *main.COMMANDS])
def test_every_help_fits_80_columns(puna: Puna, name: str) -> None:
    done = puna(*filter(None, (name, "--help")))
    assert done.code == 0 and max(map(display_width, done.out.splitlines())) <= COLUMNS


def test_reports_fit_80_columns(puna: Puna, tmp_path: Path) -> None:
    config = tiny_config()
    tokenizer = bpe_tokenizer(config.vocab_size)
    model = str(write_gguf(tmp_path / "m.gguf", config, random_tensors(config, 1), "F32", tokenizer, "{{ messages }} " * 20))
    for arguments in (("inspect", model, "--tensors"), ("tokenize", model, "日本 🦙 " + "x" * 90)):
        done = puna(*arguments)
        assert done.code == 0 and not too_wide(done.out), too_wide(done.out)


@pytest.mark.parametrize(
    "text",
    [
        "RuntimeError: Distributed package doesn't have NCCL built in",
        "CUDA out of memory. " * 30,
        "Roses are red " * 30,
        "日本語 " * 60,
    ],
)
def test_explanations_fit_80_columns(puna: Puna, text: str) -> None:
    done = puna("why", "-", stdin=text)
    assert not too_wide(done.out), too_wide(done.out)


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_messages_are_wrapped_on_a_terminal_and_one_line_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "a sentence that is much too long for a terminal of eighty columns, whichever words it is made of, is wrapped"
    tell(words)
    assert capsys.readouterr().err == f"{words}\n"
    monkeypatch.setattr("sys.stderr", screen := Screen())
    tell(words)
    with TerminalReporter(screen) as report:
        report.notice(words)
    lines = screen.getvalue().splitlines()
    assert len(lines) == 4 and max(map(len, lines)) <= COLUMNS and " ".join(lines[:2]) == words


def test_the_statistics_of_a_long_run_fit(fake: FakeLLM) -> None:
    facts = {"load_s": 1234.5, "first_token_after_process_start_s": 2345.6, "prompt_tokens": 131072, "output_tokens": 131072}
    facts |= {"accepted_tokens": 131072, "drafted_tokens": 131072}
    assert max(map(len, speeds_lines(facts | {"prefill_tokens_per_s": 123456.0, "decode_tokens_per_s": 12345.6}))) <= COLUMNS
