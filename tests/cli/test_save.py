"""What /save may write over, what it must not, and what it leaves."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from puna.cli.save import require_writable, save_text
from puna.errors import PunaError, UsageError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="modes, links and FIFOs as POSIX has them")


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_a_new_file_gets_what_the_umask_leaves(tmp_path: Path) -> None:
    save_text(tmp_path / "x", "é", overwrite=False)
    assert (tmp_path / "x").read_text("utf-8") == "é" and mode(tmp_path / "x") == 0o640


def test_a_file_that_is_replaced_keeps_its_mode(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text("old")
    file.chmod(0o604)
    save_text(file, "new", overwrite=True)
    assert file.read_text() == "new" and mode(file) == 0o604
    assert list(tmp_path.iterdir()) == [file]


def test_a_link_stays_and_its_target_is_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    link = tmp_path / "link"
    link.symlink_to("folder/target")
    for text in ("first", "second"):
        save_text(link, text, overwrite=True)
        assert link.is_symlink() and (tmp_path / "folder" / "target").read_text() == text


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


KINDS = {"a FIFO": lambda path: os.mkfifo(path), "a folder": os.mkdir, "a socket": make_socket}


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("through_link", [False, True])
@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_but_a_regular_file_is_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, through_link: bool, overwrite: bool
) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    there, link = Path("there"), Path("link")
    KINDS[kind](there)
    link.symlink_to(there)
    before = there.stat()
    with pytest.raises(UsageError, match=f"is {kind}; puna overwrites only regular files"):
        save_text(link if through_link else there, "x", overwrite=overwrite)
    assert os.path.samestat(before, there.stat()) and sorted(p.name for p in tmp_path.iterdir()) == ["link", "there"]


def test_a_file_that_exists_is_not_written_over_unasked(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text("old")
    with pytest.raises(UsageError, match="exists") as caught:
        save_text(file, "new", overwrite=False)
    assert file.read_text() == "old" and caught.value.hint == f"/save! {file} overwrites it."


def test_what_is_told_names_the_file_that_was_given(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for path, words in (
        (tmp_path / "no" / "x", "there is no folder"),
        (loop, "symbolic links"),
        (tmp_path / ("x" * 300), "long"),
    ):
        with pytest.raises(PunaError, match=words) as caught:
            save_text(path, "x", overwrite=True)
        assert f"cannot write {path}" in caught.value.message and ".puna-" not in caught.value.message


def test_a_disk_that_fills_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, os.strerror(28))

    file = tmp_path / "x"
    file.write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PunaError, match="No space left"):
        save_text(file, "new", overwrite=True)
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]


def test_a_file_that_cannot_be_written_is_told_of_before_the_work(tmp_path: Path) -> None:
    require_writable(tmp_path / "new.json")
    (tmp_path / "old.json").write_text("old")
    require_writable(tmp_path / "old.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old.json"] and (tmp_path / "old.json").read_text() == "old"
    with pytest.raises(UsageError, match="there is no folder"):
        require_writable(tmp_path / "none" / "new.json")
    with pytest.raises(UsageError, match="folder"):
        require_writable(tmp_path)
    with pytest.raises(PunaError, match="cannot write"):
        require_writable(tmp_path / "a\0b")
