"""Kept machine code: used when whole, made anew when damaged, done without where it cannot be kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from puna.backends.cpu import compiled, host
from puna.backends.cpu.layout import aligned_zeros

NAME = "interleave_floats"  # the smallest entry: it compiles in a second


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(host, "kernel_folder", lambda: tmp_path)
    return tmp_path


def interleaved() -> bytes:
    """Eight rows of two floats, interleaved by a freshly loaded entry."""
    compiled.load_entry.cache_clear()
    source, target = aligned_zeros(64), aligned_zeros(64)
    source[:] = range(64)
    compiled.load_entry(NAME)(source.ctypes.data, 8, 4, 2, 8, target.ctypes.data, 64)
    return target.tobytes()


def test_code_is_kept_and_loaded_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = interleaved()
    assert [path.name for path in folder.iterdir()] == [f"{NAME}.o"]
    monkeypatch.setattr(compiled, "compile_entry", lambda name: pytest.fail("compiled again"))
    assert interleaved() == first
    assert first[:8] == bytes([0, 1, 2, 3, 8, 9, 10, 11])


def test_damaged_code_is_compiled_anew(folder: Path) -> None:
    expected = interleaved()
    file = folder / f"{NAME}.o"
    whole = file.read_bytes()
    for damaged in (b"", b"\xff" * 40, whole[:-1], whole[:500] + b"\0" + whole[501:], whole.replace(b"\n", b"x", 1)):
        file.write_bytes(damaged)
        assert interleaved() == expected
        assert file.read_bytes() == whole


def test_without_a_folder_each_process_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "kernel_folder", lambda: None)
    assert interleaved()[:4] == bytes([0, 1, 2, 3])


def test_the_key_names_the_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    key = host.cache_key()
    assert key == host.cache_key()
    monkeypatch.setattr(host, "CPU_NAME", "another")
    assert key != host.cache_key()
