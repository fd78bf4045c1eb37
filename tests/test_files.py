"""Files and folders are written whole or not at all: who may delete unfinished ones, and what they may replace."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from puna import files
from puna.files import LOCK, PRIVATE, TEMPORARY, commit, read_small, temporary, write_whole
from puna.resources import ThisMachine

ROOT = Path(__file__).parents[1]
posix = pytest.mark.skipif(os.name != "posix", reason="modes, links and pipes as POSIX has them")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refusing(number: int) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return call


# ---- small files ----------------------------------------------------------------------------------------------------


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()


@posix
@pytest.mark.parametrize("make", [pipe, device, folder])
def test_what_is_no_regular_file_is_not_read(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "x")
    assert read_small(tmp_path / "x", 100) is None and ThisMachine().read(str(tmp_path / "x")) is None


@posix
def test_of_a_file_the_first_bytes_are_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"0123456789")
    (tmp_path / "link").symlink_to("x")
    assert read_small(tmp_path / "x", 4) == read_small(tmp_path / "link", 4) == b"0123"
    with pytest.raises(OSError, match="No such file"):
        read_small(tmp_path / "y", 4)


@posix
@pytest.mark.parametrize("make", [pipe, device])
def test_a_link_or_a_pipe_is_replaced_and_not_written_through(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "x")
    write_whole(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"new" and not (tmp_path / "x").is_symlink() and names(tmp_path) == ["x"]


def test_a_folder_is_not_replaced_by_a_small_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=r"directory|denied"):
        write_whole(tmp_path / "folder", b"new")
    assert names(tmp_path) == ["folder"]


@posix
@pytest.mark.parametrize(("mode", "expected"), [(PRIVATE, 0o600), (None, 0o640), (0o664, 0o664), (0o400, 0o400)])
def test_a_small_file_has_the_permissions_that_were_asked_for(mode: int | None, expected: int, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        for content in (b"first", b"second"):
            write_whole(tmp_path / "x", content, mode=mode)
            assert (tmp_path / "x").read_bytes() == content and (tmp_path / "x").stat().st_mode & 0o7777 == expected
    finally:
        os.umask(before)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_small_file_that_cannot_be_written_leaves_the_old_one(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_whole(tmp_path / "x", b"old")
    monkeypatch.setattr(os if call == "fsync" else Path, call, refusing(errno.ENOSPC))
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        write_whole(tmp_path / "x", b"new", flushed=True)
    assert names(tmp_path) == ["x"] and (tmp_path / "x").read_bytes() == b"old"


@posix
def test_a_full_disk_leaves_the_old_small_file(tmp_path: Path) -> None:
    """A limit on a file's size refuses the byte that is too many, as a full disk does."""
    code = (
        "import resource, sys; from pathlib import Path; from puna.files import write_whole\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "write_whole(Path(sys.argv[1]), bytes(1001))"
    )
    write_whole(tmp_path / "x", b"old")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x")], cwd=ROOT, capture_output=True, text=True)
    assert "File too large" in done.stderr and names(tmp_path) == ["x"] and (tmp_path / "x").read_bytes() == b"old"


def test_of_many_writers_each_leaves_a_whole_file(tmp_path: Path) -> None:
    contents = [bytes([number]) * 100_000 for number in range(8)]

    def write(content: bytes) -> None:
        for _ in range(20):
            write_whole(tmp_path / "x", content)
            assert (tmp_path / "x").read_bytes() in contents

    with ThreadPoolExecutor(len(contents)) as pool:
        list(pool.map(write, contents))
    assert names(tmp_path) == ["x"]


# ---- files of any size, and folders -----------------------------------------------------------------------------------


def test_two_that_are_in_use_leave_each_other_alone(tmp_path: Path) -> None:
    final = tmp_path / "m"
    with temporary(final) as one:
        one.write_text("one")
        with temporary(final) as other:
            other.write_text("other")
            assert one.read_text() == "one" and len(names(tmp_path)) == 2
    assert names(tmp_path) == []


def test_a_process_with_other_numbers_sweeps_nothing_that_is_in_use(tmp_path: Path) -> None:
    """Two containers on one volume: neither sees the other's processes."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rpf", "true"], capture_output=True).returncode:
        pytest.skip("this machine makes no namespaces")
    code = "import sys; from pathlib import Path; from puna.files import temporary\nwith temporary(Path(sys.argv[1])): pass"
    with temporary(tmp_path / "m") as made:
        made.write_text("mine")
        subprocess.run(["unshare", "-rpf", sys.executable, "-c", code, str(tmp_path / "m")], cwd=ROOT, check=True)
        assert made.read_text() == "mine"


@pytest.mark.parametrize("has_lock", [True, False])
def test_what_a_killed_process_left_is_swept(has_lock: bool, tmp_path: Path) -> None:
    with temporary(tmp_path / "m") as made:
        shutil.copytree(made.parent, tmp_path / f"{made.parent.name}-dead")
    dead = tmp_path / names(tmp_path)[0]
    (dead / "m").write_text("half")
    if not has_lock:
        (dead / LOCK).unlink()
    with temporary(tmp_path / "another"):
        assert (dead / "m").is_file()
    with temporary(tmp_path / "m"):
        assert not dead.exists()
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["99999999999999999999999-abcd-m", "", "1-abcd-m"])
def test_a_file_that_is_only_called_like_one_stays(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{TEMPORARY}{name}").touch()
    with temporary(tmp_path / "m"):
        pass
    assert names(tmp_path) == [f"{TEMPORARY}{name}"]


def test_a_link_that_is_called_like_one_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    with temporary(tmp_path / "m") as made:
        link = tmp_path / f"{made.parent.name}-link"
    link.symlink_to(tmp_path / "precious")
    with temporary(tmp_path / "m"):
        pass
    assert names(tmp_path) == [link.name, "precious"] and names(tmp_path / "precious") == []


def test_one_that_is_swept_before_it_is_locked_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, calls = files._lock, 0

    def lock_late(folder: Path) -> int | None:
        nonlocal calls
        calls += 1
        if calls < 3:
            folder.rmdir()
        return lock(folder)

    monkeypatch.setattr(files, "_lock", lock_late)
    with temporary(tmp_path / "m") as made:
        assert calls == 3 and names(made.parent) == [LOCK]
    assert names(tmp_path) == []


def test_without_locks_things_are_made_and_nothing_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(fcntl, "flock", refusing(errno.ENOLCK))
    with temporary(tmp_path / "m") as one:
        one.write_text("one")
        with temporary(tmp_path / "m"):
            assert one.read_text() == "one"
    assert names(tmp_path) == []


@pytest.mark.parametrize("has_links", [True, False])
def test_a_file_takes_a_free_place_only(has_links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_links:
        monkeypatch.setattr(os, "link", refusing(errno.EPERM))
    final = tmp_path / "m"
    for text, overwrite in (("first", False), ("third", True)):
        with temporary(final) as made:
            made.write_text(text)
            assert commit(made, final, overwrite) == 5
        assert names(tmp_path) == ["m"] and final.read_text() == text and final.stat().st_nlink == 1
        with temporary(final) as made:
            made.write_text("second")
            with pytest.raises(FileExistsError):
                commit(made, final, overwrite=False)
        assert names(tmp_path) == ["m"] and final.read_text() == text


def test_a_place_that_was_reserved_is_free_again_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", refusing(errno.EOPNOTSUPP))
    monkeypatch.setattr(Path, "replace", refusing(errno.EIO))
    with temporary(tmp_path / "m") as made:
        made.touch()
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            commit(made, tmp_path / "m", overwrite=False)
    assert names(tmp_path) == []


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_a_folder_lets_only_an_empty_one_give_way(kind: str, tmp_path: Path) -> None:
    final = tmp_path / "m"
    with temporary(final) as made:
        made.mkdir()
        (made / "new").touch()
        if kind == "file":
            final.touch()
        elif kind == "link":
            final.symlink_to(tmp_path)
        else:
            (final / "old").mkdir(parents=True)
        with pytest.raises(FileExistsError):
            commit(made, final, overwrite=True)
        (final / "old").rmdir() if kind == "folder" else final.unlink()
        commit(made, final, overwrite=False)
        assert names(final) == ["new"]
