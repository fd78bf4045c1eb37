"""Every command prints a model reader's notices once; the library keeps them."""

from __future__ import annotations

from pathlib import Path

import pytest

from puna import LLM
from puna.progress import KeepingReporter
from tests.cli.conftest import Puna
from tests.models import bpe_tokenizer, draft_gguf, random_tensors, tiny_config

NO_PRE, MARKERS = "tokenizer.ggml.pre is missing", "types <|im_start|>, <|im_end|> as ordinary text"
CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"


@pytest.fixture
def doubtful(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model without a splitter, whose turn markers are ordinary text."""
    monkeypatch.setenv("PUNA_CACHE", str(tmp_path / "cache"))
    config, tokenizer = tiny_config(), bpe_tokenizer()
    tokenizer.types[1:3] = [1, 4]
    draft = draft_gguf(config, random_tensors(config, seed=1), tokenizer=tokenizer, chat_template=CHATML)
    draft.values = [value for value in draft.values if value.key != b"tokenizer.ggml.pre"]
    path = tmp_path / "m.gguf"
    path.write_bytes(draft.to_bytes())
    return path


@pytest.mark.parametrize("command", ["run", "raw run", "chat", "tokenize", "convert", "bench"])
def test_each_command_says_once_what_the_reader_has_to_say(command: str, doubtful: Path, tmp_path: Path, puna: Puna) -> None:
    model, device = str(doubtful), ("--device", "reference")
    done = {
        "run": lambda: puna("run", model, "Hi", "-n", "1", *device),
        "raw run": lambda: puna("run", model, "Hi", "--raw", "-n", "1", *device),
        "chat": lambda: puna("chat", model, "-n", "1", *device, stdin="Hi\n"),
        "tokenize": lambda: puna("tokenize", model, "Hi"),
        "convert": lambda: puna("convert", model, str(tmp_path / "made"), "--to", "safetensors"),
        "bench": lambda: puna("bench", model, "--repeat", "1", "--prompt-tokens", "4", "--decode-tokens", "2", *device),
    }[command]()
    assert done.code == 0, done.err
    for words in (NO_PRE, MARKERS):
        assert done.err.count(words) == 1 and words not in done.out, done.err


def test_inspect_calls_them_problems(doubtful: Path, puna: Puna) -> None:
    done = puna("inspect", str(doubtful))
    assert "no problem found" not in done.out
    assert all(f"warning: {words}" in done.out for words in (NO_PRE, "the vocabulary " + MARKERS))


def test_the_library_tells_its_reporter_and_keeps_it(doubtful: Path) -> None:
    report = KeepingReporter()
    with LLM.load(doubtful, device="reference", max_context=32, report=report) as llm:
        assert [text for text in report.texts if text in llm.notices] == list(llm.notices)
        assert len(llm.notices) == 2 and NO_PRE in llm.notices[0] and MARKERS in llm.notices[1]
        typed, plain = (llm.encode_chat([{"role": "user", "content": text}]) for text in ("a <|im_end|> b", "a b"))
        assert typed.count(2) == plain.count(2) == 1 and 2 in llm.tokenizer.stop_ids  # type: ignore[union-attr]


def test_a_tokenizer_alone_is_told_of_too(tmp_path: Path, puna: Puna) -> None:
    (tmp_path / "tokenizer.json").write_text(
        '{"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}, "truncation": {"max_length": 9},'
        ' "added_tokens": [{"id": 2, "content": "<|im_end|>", "special": false}],'
        ' "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false}, "decoder": {"type": "ByteLevel"}}'
    )
    done = puna("tokenize", "--tokenizer", str(tmp_path / "tokenizer.json"), "ab")
    assert done.code == 0, done.err
    assert done.err.count("puna does not apply its truncation") == 1 and done.err.count("<|im_end|> as ordinary text") == 1


def test_a_file_of_before_may_2024_is_told_of(default_model: Path, tmp_path: Path, puna: Puna) -> None:
    """The default model without its splitter: other ids, and it is said by whom it concerns."""
    data, key = default_model.read_bytes(), b"tokenizer.ggml.pre"
    assert data.count(key) == 1
    old = tmp_path / "old.gguf"
    old.write_bytes(data.replace(key, b"tokenizer.ggml.prx"))  # a key that nobody knows
    text = "Call 12345 now, it's $99.50!"
    new_ids, old_ids = (puna("tokenize", str(path), text, "--json") for path in (default_model, old))
    assert new_ids.out != old_ids.out and NO_PRE in old_ids.err and new_ids.err == ""
    assert "no problem found" not in puna("inspect", str(old), "--no-weights").out
