"""Programs that print without end, hang, or leave others behind: they are ended, with all that they started, and so are they by
the end of puna.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from puna.machine import children
from puna.machine.child import ask
from puna.machine.children import MAX_OUTPUT_BYTES, Children
from puna.machine.host import ThisHost
from puna.machine.nvidia_smi import query

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(os.name == "nt", reason="the programs are of POSIX")


def is_gone(pid: int, within_s: float = 3.0) -> bool:
    """Whether a process ends soon. A zombie counts as ended."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("line", ["exec cat /dev/zero", "exec cat /dev/zero >&2", "yes", "yes & yes >&2"])
def test_what_prints_without_end_is_ended_at_four_mebibytes(line: str) -> None:
    started = time.monotonic()
    output = ThisHost().run("sh", "-c", line, limit_s=20)
    assert output is not None and output.too_long and not output.timed_out
    assert max(len(output.text), len(output.errors)) == MAX_OUTPUT_BYTES
    assert time.monotonic() - started < 10


def test_what_hangs_is_ended_with_all_that_it_started() -> None:
    started = time.monotonic()
    assert children.CHILDREN.run(("sh", "-c", "exit 3"), os.environ, 5.0) is not None
    child = children.CHILDREN.run(("sh", "-c", "sleep 60 & echo $!; sleep 60"), os.environ, 0.4)
    assert child is not None and child.timed_out
    assert is_gone(child.process.pid) and is_gone(int(child.stdout))
    assert time.monotonic() - started < 5


def test_a_grandchild_that_holds_the_pipes_is_not_waited_for() -> None:
    started = time.monotonic()
    output = ThisHost().run("sh", "-c", "sleep 60 & echo $!; echo err >&2; exit 7", limit_s=10)
    assert output is not None
    assert (output.code, output.errors, output.timed_out, output.too_long) == (7, "err\n", False, False)
    assert is_gone(int(output.text))
    assert time.monotonic() - started < 5


def test_a_program_that_closes_its_pipes_and_goes_on_has_its_time_limit() -> None:
    output = ThisHost().run("sh", "-c", "exec >&- 2>&-; exec sleep 60", limit_s=0.3)
    assert output is not None and output.timed_out


def test_what_it_printed_and_its_code_are_told() -> None:
    output = ThisHost().run("sh", "-c", "printf 'a\\377'; printf b >&2; kill -9 $$")
    assert output is not None
    assert (output.code, output.text, output.errors) == (-9, "a\ufffd", "b")
    assert ThisHost().run("no-such-program-here") is None
    assert ThisHost().run("echo", "a\0b") is None


def test_after_the_end_no_program_is_started_and_none_runs() -> None:
    some = Children()
    thread = threading.Thread(target=some.run, args=(("sh", "-c", "sleep 60 & wait"), os.environ, 60.0))
    thread.start()
    while not some._running:
        time.sleep(0.01)
    (child,) = some._running
    some.end_all()
    thread.join(5)
    assert not thread.is_alive() and is_gone(child.process.pid) and not some._running
    assert some.run(("true",), os.environ, 5) is None


def fake_smi(folder: Path, line: str) -> dict[str, str]:
    """Variables with a folder in PATH that holds an nvidia-smi."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{line}\n")
    program.chmod(0o755)
    return dict(os.environ) | {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "PUNA_CACHE": str(folder / "c")}


def test_an_nvidia_smi_without_end_is_told_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", fake_smi(tmp_path, "yes 'Field \"pstate\" is not a valid field'")["PATH"])
    started = time.monotonic()
    trouble = query(ThisHost()).trouble
    assert trouble is not None and trouble.words.startswith('it prints without end: Field "pstate"') and len(trouble.words) < 150
    assert time.monotonic() - started < 5


def test_a_module_that_prints_without_end_gives_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puna.machine.child.command_of", lambda *_: ("yes",))
    assert ask(ThisHost(), "x").problem == "it printed without end and was stopped"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_doctor_who_is_told_to_end_leaves_nobody_behind(tmp_path: Path, number: signal.Signals) -> None:
    pid_file = tmp_path / "pids"
    environment = fake_smi(tmp_path, f"sleep 61 & echo $$ $! >> {pid_file}; wait")
    command = [sys.executable, "-m", "puna", "doctor", "--device", "cuda"]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet, preexec_fn=_heed_interrupts) as doctor:
        until = time.monotonic() + 20
        while not (pid_file.exists() and pid_file.read_text().endswith("\n")) and time.monotonic() < until:
            time.sleep(0.02)
        mine = [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/stat") if _parent(path) == doctor.pid]
        doctor.send_signal(number)
        assert doctor.wait(5) == 128 + number
    assert all(is_gone(pid) for pid in [*mine, *map(int, pid_file.read_text().split())])


def _heed_interrupts() -> None:
    """A shell's background jobs ignore them, and so would what they start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _parent(stat: Path) -> int:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return -1
