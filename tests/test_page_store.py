"""Pages on disk: exactly what was written, or nothing; within the limit; whatever is killed, damaged or done beside it."""

from __future__ import annotations

import os
import random
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from puna.errors import ConfigError
from puna.page_store import (
    ABOUT,
    HEAD,
    Page,
    PageStore,
    _files,
    checksum,
    clear,
    first_name,
    ids_as_bytes,
    key_of,
    make_room,
    next_name,
    open_folder,
    stored_models,
)

PAGE_BYTES, IDS = 1000, 4
RECORD = HEAD.size + 4 * IDS + PAGE_BYTES
KEY = key_of({"model": "a"})
posix = pytest.mark.skipif(os.name != "posix", reason="permissions and signals of POSIX")


def store(folder: Path, limit: int = 1 << 30, key: str = KEY) -> PageStore:
    open_folder(folder)
    return PageStore(folder, key, PAGE_BYTES, limit, {"model": "a"})


def entry(number: int) -> tuple[str, bytes, Page]:
    """Name, ids and content of a page that follow from a number."""
    ids = ids_as_bytes(range(number, number + IDS))
    return next_name(first_name(0), ids, 0), ids, np.random.default_rng(number).integers(0, 256, PAGE_BYTES, np.uint8)


def put(it: PageStore, number: int) -> Path:
    it.write(*entry(number))
    return it._path(entry(number)[0])


def is_found(it: PageStore, number: int) -> bool:
    """Whether the page is there; it must be right."""
    name, ids, expected = entry(number)
    page = np.zeros(PAGE_BYTES, np.uint8)
    is_there = it.read(name, ids, page)
    assert not is_there or np.array_equal(page, expected)
    return is_there


def test_a_page_comes_back_also_to_another_process(tmp_path: Path) -> None:
    assert not is_found(store(tmp_path), 1)
    put(store(tmp_path), 1)
    assert is_found(store(tmp_path), 1) and store(tmp_path).has(entry(1)[0])


def test_names_depend_on_all_that_comes_before() -> None:
    ids = [ids_as_bytes([i]) for i in range(3)]
    one = next_name(next_name(first_name(0), ids[1], 0), ids[2], 0)
    others = [
        next_name(next_name(first_name(0), ids[0], 0), ids[2], 0),
        next_name(next_name(first_name((0, "salt")), ids[1], 0), ids[2], 0),
        next_name(next_name(first_name(0), ids[1], 1), ids[2], 0),
        next_name(first_name(0), ids[1] + ids[2], 0),
        first_name((0, "salt ")),
        first_name((0, "salt")),
    ]
    assert len({one, *others}) == 7


@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_page_is_never_given_and_removed(tmp_path: Path, seed: int) -> None:
    """Flipped bits anywhere, cut and lengthened files, files of other pages, folders and links in their place."""
    print("seed", seed)
    rng = random.Random(seed)
    it = store(tmp_path)

    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)

    def swap(path: Path) -> None:
        path.write_bytes(put(it, rng.randint(1000, 2000)).read_bytes())

    def zero(path: Path) -> None:
        content = bytearray(path.read_bytes())
        first = rng.randrange(len(content))
        last = rng.randint(first + 1, len(content))
        content[first:last] = bytes(last - first)
        path.write_bytes(content + b"\1" * (content == path.read_bytes()))

    damages: list[Callable[[Path], object]] = [
        flip,
        swap,
        zero,
        lambda path: os.truncate(path, rng.randrange(RECORD)),
        lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    ]
    for number in range(100):
        path = put(it, number)
        rng.choice(damages)(path)
        assert not is_found(it, number), number
        assert not path.exists()
        put(it, number)
        assert is_found(it, number)


def test_a_page_of_another_key_or_of_other_ids_is_not_given(tmp_path: Path) -> None:
    it, other = store(tmp_path), store(tmp_path, key=key_of({"model": "b"}))
    there = other._path(entry(1)[0])
    put(other, 2)
    there.parent.mkdir(exist_ok=True)
    put(it, 1).rename(there)
    assert not is_found(other, 1)
    put(it, 1)
    assert not it.read(entry(1)[0], ids_as_bytes([9] * IDS), np.zeros(PAGE_BYTES, np.uint8))


@posix
def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    it = store(tmp_path)
    path = put(it, 1)
    path.unlink()
    os.mkfifo(path)
    assert not is_found(it, 1) and not path.exists()
    path.mkdir()
    assert not is_found(it, 1)
    path.rmdir()
    path.symlink_to(put(it, 2))
    assert not is_found(it, 1)


def test_the_longest_unused_pages_go_first_and_the_limit_holds(tmp_path: Path) -> None:
    it = store(tmp_path, limit=20 * RECORD)
    for number in range(100):
        path = put(it, number)
        os.utime(path, (1000 + number, 1000 + number))
        if number >= 8:
            assert is_found(it, 3)
            os.utime(it._path(entry(3)[0]), (5000 + number, 5000 + number))  # in use
        assert sum(file.stat().st_size for file in tmp_path.rglob("*.kv")) <= 20 * RECORD
    kept = [number for number in range(100) if is_found(it, number)]
    assert kept[0] == 3 and kept[1:] == list(range(101 - len(kept), 100)) and len(kept) >= 14


def test_the_pages_of_all_keys_share_the_limit(tmp_path: Path) -> None:
    for key in "abcd":
        it = store(tmp_path, limit=20 * RECORD, key=key_of({"model": key}))
        for number in range(15):
            put(it, number)
    assert sum(file.stat().st_size for file in tmp_path.rglob("*.kv")) <= 20 * RECORD


def test_a_disk_with_little_room_lowers_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def usage(path: Path) -> os.terminal_size:
        class Usage:
            free = 0

        return Usage()  # type: ignore[return-value]

    it = store(tmp_path)
    for number in range(40):
        put(it, number)
    monkeypatch.setattr("puna.page_store.shutil.disk_usage", usage)
    make_room(tmp_path / "pages", 1 << 30, RECORD)
    assert len(list(tmp_path.rglob("*.kv"))) <= 20


def test_a_prefix_outlives_its_continuations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it = store(tmp_path)
    monkeypatch.setattr("puna.page_store.time.time_ns", lambda: 1 << 60)  # a busy machine may halt between two of them
    paths = [put(it, number) for number in range(3)]
    for index in range(3):
        assert it.touch(entry(index)[0], index)
    assert paths[0].stat().st_mtime_ns > paths[1].stat().st_mtime_ns > paths[2].stat().st_mtime_ns
    assert not it.touch(entry(3)[0], 3)


@posix
def test_only_the_owner_can_read_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        put(store(tmp_path / "new"), 1)
    finally:
        os.umask(before)
    for path in (tmp_path / "new" / "pages").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert stat.S_IMODE((tmp_path / "new" / "pages").stat().st_mode) == 0o700
    (tmp_path / "new" / "pages").chmod(0o777)
    with pytest.raises(ConfigError, match="other users"):
        open_folder(tmp_path / "new")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="cache_dir"):
        open_folder(tmp_path / "file")


def test_an_emptied_folder_is_filled_again(tmp_path: Path) -> None:
    it = store(tmp_path)
    put(it, 1)
    assert clear(tmp_path) == (1, RECORD) and not list((tmp_path / "pages").iterdir())
    put(it, 1)
    assert is_found(it, 1)
    assert [(one.num_pages, one.num_bytes, one.about) for one in stored_models(tmp_path)] == [(1, RECORD, {"model": "a"})]


def test_of_a_strange_description_only_what_can_be_shown_is_read(tmp_path: Path) -> None:
    page = put(store(tmp_path), 1)
    strange = r'{"model": "\ud800", "path": "\u001b[2J", "device": [1e999], "kv_type": null, "page_size": 16, "\ud800": 1}'
    (page.parents[1] / ABOUT).write_text(strange)
    assert [one.about for one in stored_models(tmp_path)] == [{"page_size": 16}]


def test_clearing_keeps_what_was_used_lately_and_what_is_not_a_page(tmp_path: Path) -> None:
    it = store(tmp_path)
    old, new = put(it, 1), put(it, 2)
    os.utime(old, (0, 0))
    (tmp_path / "pages" / "notes.txt").write_text("mine")
    (old.parent / "notes.txt").write_text("mine")
    assert clear(tmp_path, older_than_s=3600) == (1, RECORD)
    assert new.exists() and not old.exists()
    clear(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*.txt")) == ["notes.txt", "notes.txt"]


def test_files_of_killed_processes_are_removed_after_a_while(tmp_path: Path) -> None:
    it = store(tmp_path)
    shelf = put(it, 1).parent
    left, fresh = shelf / ".puna-0123", shelf / ".puna-4567"
    left.write_bytes(b"x")
    fresh.write_bytes(b"x")
    os.utime(left, (0, 0))
    make_room(tmp_path / "pages", 1 << 30, RECORD)
    assert not left.exists() and fresh.exists()


@pytest.mark.parametrize("num_bytes", [1000, 8192, 90 * 8192, 3 * 8192 + 1000])
def test_the_checksum_sees_flipped_bits_and_blocks_that_are_lost_or_swapped(num_bytes: int) -> None:
    rng = random.Random(3)
    page = np.random.default_rng(3).integers(0, 256, num_bytes, np.uint8)
    expected = checksum(page)
    assert checksum(page.copy()) == expected != checksum(page, 1)
    for _ in range(200):
        changed = page.copy()
        for _ in range(rng.randint(1, 3)):
            changed[rng.randrange(num_bytes)] ^= 0x80
        assert checksum(changed) != expected or np.array_equal(changed, page)
    size = min(4096, num_bytes // 2)
    for _ in range(50):
        one, other = (rng.randrange(num_bytes // size) * size for _ in range(2))
        lost, swapped = page.copy(), page.copy()
        lost[one : one + size] = 0
        swapped[one : one + size], swapped[other : other + size] = page[other : other + size], page[one : one + size]
        assert checksum(lost) != expected and (one == other or checksum(swapped) != expected)


# ---- kills -----------------------------------------------------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from tests.test_page_store import entry, is_found, put, store
it, first = store(Path(sys.argv[1]), limit=int(sys.argv[2])), int(sys.argv[3])
print("ready", flush=True)
for number in range(first, first + 10_000_000):
    put(it, number % 400)
    print(number % 400, flush=True)
    is_found(it, (number * 7) % 400)
"""


def writer(folder: Path, limit: int, first: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(folder), str(limit), str(first)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def killed(folder: Path, rng: random.Random, kills: int, limit: int) -> None:
    """Two processes write, one of which is killed at a random moment, and replaced. What it told to be written is there."""
    processes = [writer(folder, limit, rng.randrange(400))]
    for number in range(kills):
        if number + 1 < kills:
            processes.append(writer(folder, limit, rng.randrange(400)))
        time.sleep(rng.random() * 0.02)
        process = processes.pop(0)
        process.send_signal(signal.SIGKILL)
        told = [int(line) for line in process.communicate()[0].split("\n")[:-1]]
        it = store(folder, limit=limit)
        if limit > 400 * RECORD:
            assert all(is_found(it, number) for number in told), "a page that was written is lost"
        assert sum(file.num_bytes for file in _files(folder / "pages")) <= limit * 1.25, "the limit does not hold"
    found = [number for number in range(400) if is_found(it, number)]
    print(len(found), "pages")
    assert found and len(found) == len(list(folder.rglob("*.kv"))), "a damaged page was left"


@posix
@pytest.mark.parametrize("limit", [1 << 30, 100 * RECORD])
def test_kills_lose_and_corrupt_nothing(tmp_path: Path, limit: int) -> None:
    killed(tmp_path, random.Random(1), 4, limit)


@posix
@pytest.mark.full
@pytest.mark.parametrize("limit", [1 << 30, 100 * RECORD])
def test_a_thousand_kills_lose_and_corrupt_nothing(tmp_path: Path, limit: int) -> None:
    killed(tmp_path, random.Random(2), 500, limit)
