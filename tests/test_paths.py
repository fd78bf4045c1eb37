from __future__ import annotations

from pathlib import Path

import pytest

from puna.errors import UsageError
from puna.paths import cache_dir, local_path

HOSTILE = [
    *("", ".", "..", "../x", "..\\x", "a/b", "a\\b", "/etc/passwd", "\\\\host\\share", "C:", "C:x", "c:\\x", "~", "~root", "-rf"),
    *(".hidden", "a\0b", "a\nb", "%2e%2e", "%2e%2e%2fx", "a%00", "a b", "a:b", "a*b", "a?b", "a|b", "<a>", 'a"b', "a'b", "a$b"),
    *("․․", "．．／x", "a⁄b", "é", "ａ", "١", "a..b", "a.", "CON", "nul.gguf", "com1", "a" * 300, "x\u202egguf", "\ud800"),
]


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_a_name_that_is_not_plain_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name of a local file"):
        local_path(Path("root"), "models", name)


@pytest.mark.parametrize("name", ["a", "A-1_b.gguf", "Llama-3.2-1B-Instruct-Q4_K_M.gguf", "7", "x" * 128, "console"])
def test_a_plain_name_is_joined(name: str) -> None:
    assert local_path(Path("root"), name) == Path("root", name)


def test_the_environment_chooses_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PUNA_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path


def test_an_empty_variable_leaves_the_users_own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUNA_CACHE", "")
    assert cache_dir().is_absolute() and cache_dir().name == "puna"


def test_a_home_folder_that_nobody_knows_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUNA_CACHE", "~nobody-of-this-name/x")
    with pytest.raises(UsageError, match="PUNA_CACHE is '~nobody-of-this-name/x', but no home folder") as caught:
        cache_dir()
    assert "whole path" in caught.value.hint
