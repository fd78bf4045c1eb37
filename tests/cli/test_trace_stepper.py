"""puna trace in a terminal, as a person meets it: in a real pseudo-terminal, whose screen is read cell by cell."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("Windows has no pseudo-terminals of this kind", allow_module_level=True)

from tests.cli.conftest import Puna
from tests.cli.drawn_screen import drawn
from tests.cli.pty_chat import Terminal
from tests.models import bpe_tokenizer, random_tensors, tiny_config, write_gguf

PROGRAM = """
import os, sys, time
from puna.errors import PunaError
from puna.backends.reference import ReferenceBackend
step, pause = ReferenceBackend.step, float(os.environ.get("PAUSE", "0"))
def slow(*arguments):
    if "BROKEN" in os.environ:
        raise PunaError("the device fell off")
    time.sleep(pause)
    return step(*arguments)
ReferenceBackend.step = slow
from puna.cli import main
try:
    main.main(sys.argv[1:])
finally:
    if "FAKE_SHELL" in os.environ:
        print("the shell reads", repr(sys.stdin.readline()), flush=True)
"""
# A shell: it runs PROGRAM, tells when that stops, and lets it go on after a line. The system stops no program that has no shell.
SHELL = f"""
import os, signal, sys
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
pid = os.fork()
if pid == 0:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.executable, [sys.executable, "-c", {PROGRAM!r}, *sys.argv[1:]])
_, status = os.waitpid(pid, os.WUNTRACED)
os.tcsetpgrp(0, os.getpgrp())
print("stopped:", os.WIFSTOPPED(status), flush=True)
sys.stdin.readline()
os.tcsetpgrp(0, pid)
os.kill(pid, signal.SIGCONT)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
RIGHT, LEFT, UP, DOWN, HOME, END, ESC, ENTER = "\x1b[C", "\x1b[D", "\x1b[A", "\x1b[B", "\x1b[H", "\x1b[F", "\x1b", "\r"
CTRL_C, CTRL_D, CTRL_Z = "\x03", "\x04", "\x1a"
DRAWN = ("--temperature", "0.9", "--top-k", "20", "--seed", "3", "--ignore-eos", "--device", "reference", "--raw")


class Stepper(Terminal):
    """`puna trace` in a terminal of 24 lines."""

    program, rows = PROGRAM, 24
    columns = 80  # of the window now

    def lines(self) -> list[str]:
        return drawn(self.written, self.columns, self.rows)

    def until(self, is_so: Callable[[list[str]], bool]) -> list[str]:
        """The screen, once it is so."""
        self.wait_until(lambda: is_so(self.lines()))
        return self.lines()

    def shows(self, *texts: str) -> list[str]:
        """The screen, once all these texts are on it."""
        return self.until(lambda lines: all(text in "\n".join(lines) for text in texts))

    def grows(self, num_tokens: int) -> None:
        """Until the branch on its way has so many tokens."""

        def is_so(lines: list[str]) -> bool:
            found = re.search(r"The answer goes on: (\d+) tokens", "\n".join(lines))
            return found is not None and int(found[1]) >= num_tokens

        self.until(is_so)

    def size(self, columns: int, rows: int) -> None:
        """Another size, once the whole screen of the size before was written: the rest of it would not fit into the new one."""
        while self._read(wait_s=0.3):
            pass
        self.columns, self.rows, self._raw = columns, rows, b""
        self.resize(columns, rows)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    config = tiny_config()
    path = tmp_path_factory.mktemp("stepper") / "m.gguf"
    return str(write_gguf(path, config, random_tensors(config, 1), "F32", bpe_tokenizer(config.vocab_size)))


def trace(model: str, *arguments: str, length: int = 12, pause_s: float = 0.0, **environment: str) -> Stepper:
    words = ("trace", model, "the big", "-n", str(length), *DRAWN, *arguments)
    return Stepper(*words, columns=80, PAUSE=str(pause_s), **environment)


def test_a_person_steps_chooses_tries_forces_ranks_saves_and_leaves(model: str, tmp_path: Path) -> None:
    file = tmp_path / "branch.json"
    with trace(model) as terminal:
        first = terminal.shows("Token 1 of 12", "? help")
        assert first[0] == "puna trace  one branch" and "\x1b[?1049h" in terminal.written
        for keys, place in ((RIGHT, 2), ("n", 3), (LEFT, 2), ("b", 1), (END, 12), (HOME, 1), ("g5" + ENTER, 5)):
            terminal.type(keys)
            terminal.shows(f"Token {place} of 12")
        terminal.type("p0.3")
        terminal.shows("tried: temperature 0.9  top_p 0.3", "> 0.3", "top_p cuts")
        terminal.type(ESC)
        terminal.until(lambda lines: lines[-1].startswith("←→") and "tried" not in "\n".join(lines))
        terminal.type("t2" + ENTER)
        terminal.shows("tried: temperature 2 ", "with these settings")
        terminal.type(ESC)
        terminal.until(lambda lines: "tried" not in "\n".join(lines))
        terminal.type(DOWN * 3 + UP * 30 + ENTER)
        terminal.shows("branch 2, one of 2; it leaves branch 1 at token 5", "Branch 2: 8 new tokens.")
        terminal.type("f the llama" + ENTER)
        terminal.shows("branch 3, one of 3; it leaves branch 2 at token 5", " the llama")
        terminal.type("v")
        terminal.shows("The branches", "└ 2 at token 5", "└ 3 at token 5")
        terminal.type(UP * 5 + ENTER)
        terminal.shows("branch 1, one of 3")
        terminal.type("o the| a|zz" + ENTER)
        terminal.shows("Options in the place of", "3. ", "as a whole")
        terminal.type(ESC + "u")
        terminal.shows("branch 3, one of 3")
        terminal.type("u")
        terminal.shows("branch 2, one of 2")
        terminal.type(f"w{file}" + ENTER)
        terminal.shows("was saved as a trace")
        terminal.type("?")
        terminal.shows("Keys", "the next token of the answer")
        terminal.type(ESC + "q")
        assert terminal.exit_code() == 0 and terminal.echoes() and file.stat().st_size > 1000
        assert "\x1b[?1049l" in terminal.written


def test_ctrl_c_ends_only_the_branch_that_is_on_its_way(model: str) -> None:
    with trace(model, length=100, pause_s=0.02) as terminal:
        terminal.grows(5)
        terminal.type("1tf\x1b[C" + CTRL_C)
        terminal.shows("Token 1 of ")
        terminal.type("f big" + ENTER)
        terminal.grows(2)
        terminal.type(CTRL_C)
        terminal.shows("branch 2, one of 2")
        terminal.type("t" + CTRL_C)
        terminal.until(lambda lines: lines[-1].startswith("←→"))
        terminal.type(CTRL_C)
        terminal.shows("Press Ctrl-C again, or q, to leave.")
        terminal.type(RIGHT + CTRL_C)
        terminal.shows("Token 2 of", "Press Ctrl-C again")
        terminal.type(CTRL_C)
        assert terminal.exit_code() == 0 and terminal.echoes()


def test_a_person_can_leave_while_an_answer_is_on_its_way(model: str) -> None:
    with trace(model, length=100, pause_s=0.05, FAKE_SHELL="1") as terminal:
        terminal.grows(2)
        terminal.type(CTRL_D)
        terminal.wait_until(terminal.echoes)
        terminal.type("next\n")
        terminal.wait_for("the shell reads 'next\\n'")
        assert terminal.exit_code() == 0


def test_the_window_changes_its_size_and_nonsense_changes_nothing(model: str) -> None:
    with trace(model, NO_COLOR="1") as terminal:
        terminal.shows("Token 1 of 12")
        terminal.size(40, 24)
        terminal.shows("Token 1 of 12", "? help  q quit")
        for columns, rows in ((12, 4), (1, 1), (100, 50), (80, 24)):
            terminal.size(columns, rows)
        terminal.shows("Token 1 of 12", "tpkm settings")
        terminal.type("\x1b[Z\x00\x01\x02\x05\x1f\x1bOP\x7fxyzXYZ§日🦙\x1b[200~pasted q\x1b[201~" + RIGHT)
        terminal.shows("Token 2 of 12", "one branch")
        terminal.type("o\x1b[200~" + "x|" * (1 << 15) + "\x1b[201~" + ENTER)
        terminal.shows("options; 1 to 100 are ranked at once")
        terminal.type("f\x1b[200~\x1b[2J\x00 a\r\nb\x1b[201~" + ENTER)
        terminal.shows("branch 2, one of 2")
        terminal.type("q")
        assert terminal.exit_code() == 0 and re.search("\x1b\\[0;[39]", terminal.written) is None


class Shell(Stepper):
    program = SHELL


def test_it_can_be_stopped_and_goes_on(model: str) -> None:
    with Shell("trace", model, "the big", "-n", "12", *DRAWN) as terminal:
        terminal.shows("Token 1 of 12")
        terminal.type(CTRL_Z)
        terminal.wait_for("stopped: True")
        assert terminal.echoes()
        terminal.type("\n")
        terminal.wait_until(lambda: not terminal.echoes())
        terminal.type(RIGHT)
        terminal.shows("Token 2 of 12")
        terminal.type("q")
        assert terminal.exit_code() == 0 and terminal.echoes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_terminal_is_as_it_was_after_a_signal(model: str, number: int) -> None:
    with trace(model, pause_s=0.01) as terminal:
        terminal.shows("Token 1 of 12")
        os.kill(terminal.pid, number)
        if number == signal.SIGINT:
            terminal.shows("Press Ctrl-C again")
            os.kill(terminal.pid, number)
        terminal.exit_code()
        assert terminal.echoes() and "\x1b[?1049l" in terminal.written


def test_a_first_answer_that_fails_ends_it_in_words(model: str) -> None:
    with trace(model, BROKEN="1") as terminal:
        assert terminal.exit_code() == 1 and "puna: the device fell off" in terminal.screen and terminal.echoes()


def test_it_prints_in_a_terminal_if_asked(model: str) -> None:
    with trace(model, "--no-step") as terminal:
        assert terminal.exit_code() == 0 and "It ends because max_tokens is 12." in terminal.screen


def test_a_pipe_gets_the_printed_trace_and_step_needs_a_terminal(model: str, puna: Puna) -> None:
    asked = ("trace", model, "the big", "-n", "3", *DRAWN)
    assert "It ends because max_tokens is 3." in puna(*asked).out
    refused = puna(*asked, "--step")
    assert refused.code == 2 and "--step needs a terminal" in refused.err
    both = puna(*asked, "--step", "--json")
    assert both.code == 2 and "--step shows one answer on the screen" in both.err
