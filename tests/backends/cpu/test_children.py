"""Kernels compiled in child processes: messages, leftovers of a dead child, and how processes end each other."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psutil
import pytest

from puna.backends.cpu import children, compiled, host
from puna.errors import DeviceError
from puna.progress import KeepingReporter
from tests.models import bpe_tokenizer, random_tensors, tiny_config, write_gguf

NAMES = ["write_kv_f32", "dequantize_row_f32"]  # the smallest entries
READY = "import os, signal, sys, time\nsys.stdout.buffer.write(b'puna compiles kernels\\n')\nsys.stdout.flush()\n"
ROUNDS = 20  # of the long test
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


class Progress(KeepingReporter):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, int, int]] = []

    def progress(self, stage: str, done: int, total: int, unit: str = "") -> None:
        if not self.seen or self.seen[-1] != (stage, done, total):
            self.seen.append((stage, done, total))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for kernels, which this process does not compile by itself."""
    folder = tmp_path / "kernels" / "key"
    monkeypatch.setattr(host, "kernel_folder", lambda: folder)
    monkeypatch.setattr(compiled, "compile_entry", lambda name: pytest.fail(f"{name} was compiled in this process"))
    monkeypatch.setattr(compiled, "load_entry", cache(compiled.load_entry.__wrapped__))
    return folder


def test_children_compile_and_the_share_is_told(folder: Path) -> None:
    report = Progress()
    compiled.prepare(NAMES, report)
    assert sorted(path.stem for path in folder.iterdir()) == sorted(NAMES)
    stages = [seen for seen in report.seen if seen[0] == compiled.STAGE]
    assert stages[-1] == (compiled.STAGE, 2, 2) and [done for _, done, _ in stages] == sorted(done for _, done, _ in stages)
    assert report.texts == []


def test_what_was_begun_early_is_waited_for_and_not_compiled_twice(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled.begin(NAMES)
    monkeypatch.setattr(compiled, "Compilation", lambda *_: pytest.fail("begun twice"))
    compiled.prepare(NAMES)
    assert compiled.load_entry(NAMES[0]).address


@posix
@pytest.mark.parametrize(
    ("ending", "told"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "ended: SIGKILL"),
        ("sys.stdin.readline(); os.kill(os.getpid(), signal.SIGSEGV)", "ended: SIGSEGV"),
        ("sys.stdin.readline(); raise SystemExit('no memory')", "ended: exit code 1, no memory"),
    ],
)
def test_a_child_that_dies_is_told_with_its_end(folder: Path, monkeypatch: pytest.MonkeyPatch, ending: str, told: str) -> None:
    monkeypatch.setattr(children, "START", READY + ending)
    with pytest.raises(DeviceError, match=f"compiled the kernel .* {told}"):
        compiled.prepare(NAMES)
    assert not folder.exists()


def test_what_fails_in_a_child_is_told_with_its_traceback(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start, _, run = children.START.rpartition(" ")
    fail = "compiled.compile_entry = lambda name: float(name + ' is amiss')"
    monkeypatch.setattr(children, "START", f"{start} from puna.backends.cpu import compiled; {fail}; {run}")
    with pytest.raises(RuntimeError, match=r"cannot be compiled: ValueError: .* is amiss") as caught:
        compiled.prepare(NAMES)
    assert "Traceback" in "".join(caught.value.__notes__)


@pytest.mark.parametrize("start", ["raise SystemExit('no module named puna')", None])
def test_where_no_child_can_be_had_this_process_compiles(
    folder: Path, monkeypatch: pytest.MonkeyPatch, start: str | None
) -> None:
    done: list[str] = []

    def compile_entry(name: str) -> compiled.MachineCode:
        done.append(name)
        return compiled.MachineCode(name, b"code")

    monkeypatch.setattr(compiled, "compile_entry", compile_entry)
    monkeypatch.setattr(compiled, "load_entry", lambda name: None)
    if start is None:
        monkeypatch.setattr(sys, "executable", "/nowhere/python")
    else:
        monkeypatch.setattr(children, "START", start)
    compiled.prepare(NAMES)
    assert sorted(done) == sorted(path.stem for path in folder.iterdir()) == sorted(NAMES)


def test_noise_before_the_answers_does_no_harm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "START", "print('a word of sitecustomize')\n" + children.START)
    compiled.prepare(NAMES[:1])
    assert [path.stem for path in folder.iterdir()] == NAMES[:1]


def test_an_interrupt_while_waiting_ends_the_children(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupting(KeepingReporter):
        def progress(self, stage: str, done: int, total: int, unit: str = "") -> None:
            if done < total and len(running()) == 2:
                raise KeyboardInterrupt

    before = set(psutil.Process().children())

    def running() -> set[psutil.Process]:
        return set(psutil.Process().children()) - before

    monkeypatch.setattr(children, "START", READY + "time.sleep(60)")
    monkeypatch.setattr(compiled, "usable_cores", lambda: 2)
    with pytest.raises(KeyboardInterrupt):
        compiled.prepare(NAMES, Interrupting())
    assert running() == set()
    assert not folder.exists()


def test_a_child_ends_with_the_process_that_started_it() -> None:
    """The child notices any end of its parent: the system closes the pipe."""
    command = [sys.executable, "-P", "-c", children.START, *sys.path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        child.stdin.write(b"run\n")  # the longest
        child.stdin.close()
        assert child.wait(timeout=30) == 0


def test_a_process_waits_for_another_that_compiles_and_finds_its_kernels(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "START", "raise SystemExit('compiled twice')")
    monkeypatch.setattr(compiled, "load_entry", lambda name: None)
    report = Progress()
    with host.sole_compiler(lambda: False):
        waiting = threading.Thread(target=compiled.prepare, args=(NAMES, report))
        waiting.start()
        while not report.seen:
            time.sleep(0.01)
        for name in NAMES:
            compiled._keep(name, compiled.encode(compiled.MachineCode(name, b"of the other process")))
    waiting.join(timeout=30)
    assert not waiting.is_alive()
    assert report.seen[0] == (compiled.WAITING, 0, 2) and report.seen[-1] == (compiled.STAGE, 2, 2)


def test_waiting_for_another_process_can_be_given_up(folder: Path) -> None:
    with host.sole_compiler(lambda: False):
        started = time.monotonic()
        with host.sole_compiler(lambda: time.monotonic() > started + 0.1):
            assert time.monotonic() - started < 10


# ---- a real first start, and a signal ---------------------------------------------------------------------------------

FIRST_START = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # may be ignored where the tests run, and a child inherits that
signal.signal(signal.SIGTERM, signal.SIG_DFL)
from puna.__main__ import main
main()
"""


@contextmanager
def first_start(cache: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`puna run` of a small model with no kernels yet. Afterwards nothing of it may be left."""
    cache.mkdir()
    model = cache / "tiny.gguf"
    config = tiny_config()
    write_gguf(model, config, random_tensors(config, seed=1), "F32", bpe_tokenizer())
    command = [sys.executable, "-c", FIRST_START, "run", str(model), "--raw", "hello", "-n", "2", "--device", "cpu"]
    env = os.environ | {"PUNA_CACHE": str(cache)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def end(process: subprocess.Popen[bytes], number: int, cache: Path) -> tuple[int, bytes]:
    """Send a signal; the exit code and stdout. Children are gone, and kernels that were kept are whole."""
    offspring: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        offspring = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    _, alive = psutil.wait_procs(offspring, timeout=10)
    assert not alive, f"still running: {alive}"
    assert b"Traceback" not in errors and b"bug" not in errors, errors.decode()
    files = [path for path in cache.glob("kernels/*/*") if path.is_file()]
    assert all(path.suffix == ".o" for path in files), files
    assert all(compiled._decoded(path.read_bytes()) for path in files), files
    return process.returncode, output


def wait_until(process: subprocess.Popen[bytes], is_reached: Callable[[], bool]) -> None:
    while process.poll() is None and not is_reached():
        time.sleep(0.01)


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_kernels_are_compiled_ends_the_first_start_cleanly(number: int, tmp_path: Path) -> None:
    """SIGINT once a child is there, SIGTERM once a kernel is."""
    cache = tmp_path / "cache"
    with first_start(cache) as process:
        if number == signal.SIGINT:
            wait_until(process, lambda: bool(psutil.Process(process.pid).children()))
        else:
            wait_until(process, lambda: any(cache.glob("kernels/*/*.o")))
        assert end(process, number, cache)[0] == 128 + number


@posix
@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_moment_ends_the_first_start_cleanly(number: int, tmp_path: Path) -> None:
    started = time.monotonic()
    with first_start(tmp_path / "whole") as process:
        process.communicate(timeout=300)
        whole = time.monotonic() - started
    for turn in range(ROUNDS):
        cache = tmp_path / str(turn)
        with first_start(cache) as process:
            time.sleep(0.2 + whole * turn / ROUNDS)
            code, output = end(process, number, cache)
        # Python itself has no handler yet while it starts, and none any more when it ends, after the answer.
        is_python = code == -number and (turn < 2 or output)
        assert code in (128 + number, 0) or is_python, (turn, code)
