"""Strings and pages of mapped files."""

from __future__ import annotations

import mmap
import random
from pathlib import Path

import numpy as np
import pytest

from puna.errors import DamagedFileError
from puna.formats import mapped
from puna.formats.mapped import Cursor, map_file, release

SIZES: dict[str, tuple[int, ...]] = {
    "short": tuple(range(1, 12)),
    "of any length": (0, 1, 2, 7, 8, 9, 200, 254, 255, 256, 257, 300, 5000),
    "empty": (0,),
    "long": (256, 1000),
}


def cursor(tmp_path: Path, content: bytes) -> Cursor:
    path = tmp_path / "some.gguf"
    path.write_bytes(content)
    return Cursor(map_file(path), path)


def written(texts: list[bytes]) -> bytes:
    return b"".join(len(text).to_bytes(8, "little") + text for text in texts)


@pytest.mark.parametrize("ahead", [40, 1 << 20])
@pytest.mark.parametrize("letters", [b"abc", b"\0", b"\0\1\2\3", bytes(range(256))], ids=["letters", "zeros", "low", "any"])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_strings_are_read_as_one_by_one(
    sizes: tuple[int, ...], letters: bytes, ahead: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped, "AHEAD_BYTES", ahead)
    monkeypatch.setattr(mapped, "SOME_STRINGS", 3)
    rng = random.Random(7)
    texts = [bytes(rng.choices(letters, k=rng.choice(sizes))) for _ in range(rng.randrange(100, 200))]
    content = written(texts)
    read = cursor(tmp_path, content + bytes(rng.randrange(30)) + b"more")
    assert read.strings("tokens", len(texts)) == texts and read.position == len(content)


@pytest.mark.parametrize("cut", [1, 4, 12, 500])
def test_strings_that_the_file_cuts_short_name_the_one_that_is_not_there(cut: int, tmp_path: Path) -> None:
    texts = [b"abcd"] * 200
    number = len(written(texts)[:-cut]) // 12
    with pytest.raises(DamagedFileError, match=f"string {number} is|ends after {number} of|needs 1600 bytes"):
        cursor(tmp_path, written(texts)[:-cut]).strings("tokens", 200)


def test_a_length_beyond_the_file_is_told_with_its_string(tmp_path: Path) -> None:
    content = bytearray(written([b"abcd"] * 20))
    content[12 * 7] = 200
    with pytest.raises(DamagedFileError, match="string 7 is 200 bytes long, but 148 remain"):
        cursor(tmp_path, bytes(content)).strings("tokens", 20)


def resident_bytes(path: Path) -> int:
    """Of a mapped file, in this process."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.endswith(str(path)))
    return next(int(line.split()[1]) << 10 for line in lines[start:] if line.startswith("Rss:"))


def test_released_pages_leave_this_process_and_are_read_again(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    content = np.random.default_rng(1).integers(0, 256, 1 << 20, np.uint8).tobytes()
    path.write_bytes(content)
    whole = np.frombuffer(map_file(path), np.uint8)
    assert whole.tobytes() == content
    part = whole[5000:].reshape(-1, 8)[10:-10]
    if Path("/proc/self/smaps").exists():
        before = resident_bytes(path)
        release(part)
        assert before == 1 << 20 and resident_bytes(path) <= 4 * mmap.PAGESIZE
    release(part)
    assert whole.tobytes() == content


def test_memory_that_is_no_file_stays_as_it_is() -> None:
    values = np.arange(1 << 16, dtype=np.uint8)
    for part in (values, values[100:], np.frombuffer(values.tobytes(), np.uint8), np.zeros(0, np.uint8)):
        before = part.tobytes()
        release(part)
        assert part.tobytes() == before
