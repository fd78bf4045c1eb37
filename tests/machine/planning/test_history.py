"""The history keeps measured next to predicted bytes; a damaged file counts as no history, not as an error."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from puna.llm import LLM
from puna.machine.planning import history
from tests.models import bpe_tokenizer, random_tensors, tiny_config, write_gguf


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUNA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def llm(tmp_path: Path) -> LLM:
    config = tiny_config()
    path = write_gguf(tmp_path / "tiny.gguf", config, random_tensors(config, 1), "F32", bpe_tokenizer())
    return LLM.load(path, device="reference")


def test_a_load_is_kept_with_both_numbers(llm: LLM) -> None:
    history.remember(llm)
    (entry,) = history.entries()
    assert llm.footprint is not None
    assert (entry.model, entry.device, entry.weights) == ("tiny.gguf", "reference", "as-is")
    assert (entry.predicted_bytes, entry.actual_bytes) == (llm.footprint.predicted_bytes, llm.footprint.actual_bytes)
    assert entry.predicted_bytes == llm.plan.weights_bytes
    assert entry.difference == pytest.approx(entry.actual_bytes / entry.predicted_bytes - 1)


def test_damaged_lines_are_passed_over(llm: LLM) -> None:
    history.remember(llm)
    with history.history_file().open("ab") as file:
        file.write(b'{"time": 3}\n\xff\xfe\n[]\n{"a":' + b"[" * 5000 + b"\n")
    history.remember(llm)
    assert len(history.entries()) == 2


def test_a_long_history_keeps_its_newer_half(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "KEPT_BYTES", 1000)
    for _ in range(40):
        history.remember(llm)
    assert 3 <= len(history.entries()) <= 16
    assert [path.name for path in history.history_file().parent.iterdir()] == [history.history_file().name]


def test_a_cache_that_cannot_be_written_costs_nothing(llm: LLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PUNA_CACHE", str(tmp_path / "file"))
    history.remember(llm)
    assert history.entries() == []


def test_what_is_no_regular_file_is_neither_read_nor_written(llm: LLM, tmp_path: Path) -> None:
    history.history_file().parent.mkdir(parents=True)
    os.mkfifo(history.history_file())
    history.remember(llm)
    assert history.entries() == []
    history.history_file().unlink()
    history.history_file().symlink_to(tmp_path / "elsewhere")
    history.remember(llm)
    assert not (tmp_path / "elsewhere").exists()


def test_absurd_numbers_are_no_entry(llm: LLM) -> None:
    history.remember(llm)
    line = history.history_file().read_text().replace('"actual_bytes": ', '"actual_bytes": 1' + "0" * 400)
    history.history_file().write_text(line)
    assert history.entries() == []
