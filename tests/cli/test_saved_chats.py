"""Saved conversations: written atomically, private, and limited in number."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from puna.chat import Message
from puna.cli import saved_chats
from puna.cli.saved_chats import Autosave, newest, read_chat

HELLO: list[Message] = [{"role": "user", "content": "héllo \u2028 🦙"}]
FOLDER = "conversations"


def test_each_change_is_saved_to_one_file_and_what_did_not_change_is_not_written(tmp_path: Path) -> None:
    autosave = Autosave(tmp_path / FOLDER)
    autosave.write("m.gguf", HELLO)
    assert autosave.path is not None and read_chat(autosave.path).said == HELLO
    before = autosave.path.stat().st_ino
    autosave.write("m.gguf", HELLO)
    assert autosave.path.stat().st_ino == before
    autosave.write("m.gguf", [*HELLO, {"role": "assistant", "content": "Hi"}])
    assert len(newest(tmp_path / FOLDER).said) == 2 and len(list((tmp_path / FOLDER).iterdir())) == 1


@pytest.mark.skipif(os.name != "posix", reason="modes as POSIX has them")
def test_nobody_else_can_read_them(tmp_path: Path) -> None:
    autosave = Autosave(tmp_path / FOLDER)
    autosave.write("m.gguf", HELLO)
    assert autosave.path is not None
    assert (autosave.path.stat().st_mode & 0o777, autosave.path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_the_oldest_make_room_and_what_a_killed_process_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saved_chats, "KEPT", 3)
    for number in range(6):
        autosave = Autosave(tmp_path / FOLDER)
        autosave.write(f"{number}.gguf", HELLO)
        assert autosave.path is not None
        os.utime(autosave.path, ns=(number, number))  # one after the other, whatever the clock of the disk
    left, young = tmp_path / FOLDER / ".puna-left", tmp_path / FOLDER / ".puna-young"
    left.touch()
    young.touch()
    os.utime(left, (0, 0))
    Autosave(tmp_path / FOLDER).write("last.gguf", HELLO)
    models = sorted(str(read_chat(file).model) for file in (tmp_path / FOLDER).glob("*.json"))
    assert models == ["4.gguf", "5.gguf", "last.gguf"] and young.exists() and not left.exists()


def test_a_disk_that_fills_keeps_the_last_whole_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    autosave = Autosave(tmp_path / FOLDER)
    autosave.write("m.gguf", HELLO)

    def full(_: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    autosave.write("m.gguf", [*HELLO, *HELLO])
    assert "No space left" in autosave.problem and newest(tmp_path / FOLDER).said == HELLO
