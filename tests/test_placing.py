"""Files made next to their target: who may delete them, and what they may replace."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from puna import placing
from puna.placing import LOCK, TEMPORARY, flush, place, temporary

ROOT = Path(__file__).parents[1]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refusing(number: int) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return call


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
    code = "import sys; from pathlib import Path; from puna.placing import temporary\nwith temporary(Path(sys.argv[1])): pass"
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
    lock, calls = placing._lock, 0

    def lock_late(folder: Path) -> int | None:
        nonlocal calls
        calls += 1
        if calls < 3:
            folder.rmdir()
        return lock(folder)

    monkeypatch.setattr(placing, "_lock", lock_late)
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
            assert flush(made) == 5
            place(made, final, overwrite)
        assert names(tmp_path) == ["m"] and final.read_text() == text and final.stat().st_nlink == 1
        with temporary(final) as made:
            made.write_text("second")
            with pytest.raises(FileExistsError):
                place(made, final, overwrite=False)
        assert names(tmp_path) == ["m"] and final.read_text() == text


def test_a_place_that_was_reserved_is_free_again_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", refusing(errno.EOPNOTSUPP))
    monkeypatch.setattr(Path, "replace", refusing(errno.EIO))
    with temporary(tmp_path / "m") as made:
        made.touch()
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            place(made, tmp_path / "m", overwrite=False)
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
            place(made, final, overwrite=True)
        (final / "old").rmdir() if kind == "folder" else final.unlink()
        place(made, final, overwrite=False)
        assert names(final) == ["new"]
