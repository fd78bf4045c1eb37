"""Help, exit codes, and errors in words; through a process where the process matters."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from puna.cli import main
from puna.errors import InsufficientMemoryError, ModelNotFoundError, UsageError
from tests.cli.conftest import FakeLLM, Puna


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "puna", *arguments], capture_output=True, env=os.environ | environment, timeout=60, check=False
    )


def test_help_fits_a_screen_and_loads_nothing_heavy() -> None:
    code = "import sys; from puna.cli import main; main.run(['--help']); print(sorted({m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *screen, modules = done.stdout.splitlines()
    assert len(screen) <= 24 and max(map(len, screen)) <= 80
    for heavy in (
        "numpy",
        "numba",
        "rich",
        "prompt_toolkit",
        "huggingface_hub",
        "jinja2",
        "tokenizers",
        "sentencepiece",
        "filelock",
    ):
        assert repr(heavy) not in modules


def test_puna_alone_prints_its_help_line_by_line(puna: Puna) -> None:
    done = puna()
    assert done.code == 2 and done.err.startswith("Usage: puna") and "\\n" not in done.err and done.err.count("\n") > 15


def test_an_endless_argument_is_not_printed_whole(puna: Puna) -> None:
    assert all(
        len(puna(*words).err) < 3000 for words in (["x" * 100_000], ["run", "hi", "-n", "1" * 100_000], ["why", "x" * 100_000])
    )


@pytest.mark.parametrize("name", list(main.COMMANDS))
def test_every_command_has_help_and_json(puna: Puna, name: str) -> None:
    done = puna(name, "--help")
    assert done.code == 0 and "--json" in done.out


def test_version(puna: Puna) -> None:
    assert puna("--version").out.startswith("puna 0.")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("fly",),
        ("run",),
        ("run", "a", "b", "c"),
        ("run", "--wings", "x"),
        ("run", "x", "-n", "many"),
        ("chat", "a", "b"),
        ("tokenize",),
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2_and_one_or_two_lines(fake: FakeLLM, puna: Puna, arguments: tuple[str, ...]) -> None:
    done = puna(*arguments)
    assert done.code == 2 and fake.asked == []
    if arguments:  # alone, `puna` prints its help
        assert done.out == "" and done.err.startswith("puna: ") and len(done.err.splitlines()) <= 2


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UsageError("a", hint="b"), 2, "puna: a\nb\n"),
        (ModelNotFoundError("gone"), 2, "puna: gone\n"),
        (InsufficientMemoryError("needs 2, 1 free"), 1, "puna: needs 2, 1 free\n"),
        (MemoryError(), 1, "puna: out of memory\n"),
        (PermissionError(13, "Permission denied", "m.gguf"), 1, "puna: Permission denied: m.gguf\n"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), 1, "puna: 'utf-8' codec"),
        (KeyboardInterrupt(), 130, "\npuna: interrupted\n"),
        (click.Abort(), 130, "\npuna: interrupted\n"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_becomes_words_and_an_exit_code(fake: FakeLLM, puna: Puna, error: BaseException, code: int, words: str) -> None:
    fake.error = error
    done = puna("run", "hello")
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith(words)


def test_an_end_of_file_that_nobody_foresaw_is_a_bug_and_no_ctrl_c(fake: FakeLLM, puna: Puna) -> None:
    fake.error = EOFError("unexpected end")
    with pytest.raises(EOFError, match="unexpected end"):
        puna("run", "hello")


def test_a_bug_is_one_line_and_a_traceback_only_when_asked(tmp_path: Path) -> None:
    code = "import sys; from puna.cli import main; main.COMMANDS['pull'] = ('no_such_module', ''); main.main(['pull'])"
    for debug, expected in (("0", False), ("1", True)):
        environment = os.environ | {"PUNA_DEBUG": debug}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 1
        assert ("Traceback" in done.stderr) is expected
        assert expected or "internal error: ModuleNotFoundError: No module named 'no_such_module'" in done.stderr


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # Python takes arguments for ASCII
ECHO = """
import os, sys
from puna.cli import main
from tests.cli.conftest import FakeLLM
fake = FakeLLM()
sys.modules["puna.llm"] = type("llm", (), {"LLM": fake})
code = main.run(sys.argv[1:])
sys.stderr.write(ascii([fake.asked[0][0], fake.asked[0][1].stop, os.path.exists(fake.loaded[0][0])]))
"""


def test_arguments_are_utf8_whatever_the_locale(tmp_path: Path) -> None:
    model = tmp_path / "é.gguf"
    model.touch()
    arguments = ["run", str(model), "ü", "--system", "ß", "--stop", "ø", "--json"]
    environment = os.environ | ASCII | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", ECHO, *arguments], capture_output=True, text=True, env=environment, check=True)
    asked = [[{"role": "system", "content": "ß"}, {"role": "user", "content": "ü"}], ("ø",), True]
    assert done.stderr.endswith(ascii(asked))


def test_a_closed_pipe_is_no_error() -> None:
    process = subprocess.Popen([sys.executable, "-m", "puna", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(30) == 1
    process.stderr.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_behind_stdout_is_one_line() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([sys.executable, "-m", "puna", "--help"], stdout=full, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (1, b"puna: No space left on device\n")


def shell(line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", line, sys.executable], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.skipif(os.name != "posix", reason="only a POSIX shell closes streams like this")
@pytest.mark.parametrize(
    ("line", "code", "out", "err"),
    [
        ('"$0" -m puna run no/such.gguf hi 2>&-', 2, "", ""),
        ('"$0" -m puna --version 2>&-', 0, "puna", ""),
        ('"$0" -m puna --version >&-', 1, "", "puna: standard output is closed"),
        ('"$0" -m puna chat no/such.gguf >&-', 1, "", "puna: standard output is closed"),
        ('"$0" -m puna run --raw no/such.gguf - <&-', 2, "", "puna: no such file"),
        ('"$0" -m puna chat no/such.gguf <&-', 2, "", "puna: no such file"),
        ('"$0" -m puna chat no/such.gguf <&- >&- 2>&-', 1, "", ""),
    ],
)
def test_a_closed_stream_is_no_internal_error(line: str, code: int, out: str, err: str) -> None:
    done = shell(line)
    assert done.returncode == code
    assert done.stdout.startswith(out) and bool(done.stdout) == bool(out)
    assert done.stderr.startswith(err) and bool(done.stderr) == bool(err) and "internal error" not in done.stderr


def test_a_chat_without_standard_input_ends_at_once(fake: FakeLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    assert main.run(["chat"]) == 0 and fake.asked == []


@pytest.mark.parametrize("locale", ["C", "POSIX", "en_US.ISO-8859-1"])
def test_output_is_utf8_whatever_the_locale(locale: str) -> None:
    done = command("run", "é/ü.gguf", "x", LC_ALL=locale, PYTHONIOENCODING="ascii", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert done.returncode == 2
    assert b"no such file" in done.stderr and b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments", [("run", "no/such.gguf", "hi"), ("inspect", "no/such.gguf"), ("tokenize", "x.gguf", "hi"), ("chat", "x.gguf")]
)
def test_an_absent_file_is_told_without_a_traceback(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("puna: no such file or folder") and err.count("\n") == 2


SLEEPER = """
import time
from puna.cli import main
main.app.main = lambda *args, **kwargs: (print(flush=True), time.sleep(30))
main.main()
"""


# Signals may be ignored where the tests run (nohup, a background job of a shell without job control), and a child inherits that.
HEAR_SIGNALS = "import signal; [signal.signal(s, signal.SIG_DFL) for s in (1, 15)]; signal.signal(2, signal.default_int_handler)"

# The import of the command line takes its time; a signal comes while it does.
SLOW_IMPORT = """
import sys, time
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "click":
            print(flush=True)
            time.sleep(30)
sys.meta_path.insert(0, Slow())
from puna.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("code", "number", "expected", "told"),
    [
        (SLEEPER, signal.SIGINT, 130, b"puna: interrupted"),
        (SLOW_IMPORT, signal.SIGINT, 130, b""),  # nothing was begun
        (SLEEPER, signal.SIGTERM, 143, b""),
        (SLEEPER, signal.SIGHUP, 129, b""),
    ],
)
def test_a_signal_ends_without_a_traceback(code: str, number: int, expected: int, told: bytes) -> None:
    program = [sys.executable, "-c", HEAR_SIGNALS + "\n" + code]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            process.send_signal(number)
            _, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == expected and err.strip() == told


def test_a_rank_without_a_world_is_no_reason_to_be_silent(puna: Puna, monkeypatch: pytest.MonkeyPatch) -> None:
    """Schedulers of clusters set RANK, too."""
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    done = puna("inspect", "no-such.gguf")
    assert done.code == 2 and "puna: no such file" in done.err
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    done = puna("inspect", "no-such.gguf")
    assert (done.code, done.out, done.err) == (0, "", "")


def test_variables_that_torchrun_did_not_set_are_told_when_they_silence(puna: Puna, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    done = puna("inspect", "no-such.gguf")
    assert (done.code, done.out) == (0, "") and "RANK is 1" in done.err and "unset RANK" in done.err


# ---- what is nearly right


def test_a_question_needs_no_command(fake: FakeLLM, puna: Puna) -> None:
    done = puna("What is a llama?", "-n", "3")
    assert (done.code, done.out) == (0, "Paris.\n")
    assert fake.asked[0][0][-1]["content"] == "What is a llama?" and fake.asked[0][1].max_tokens == 3
    assert puna("Why?").code == 0 and puna("two words").code == 0


@pytest.mark.parametrize(("given", "meant"), [("rnu", "run"), ("chatt", "chat"), ("Doctor", "doctor"), ("tok", "tokenize")])
def test_a_mistyped_command_is_told_the_near_one(fake: FakeLLM, puna: Puna, given: str, meant: str) -> None:
    done = puna(given)
    assert done.code == 2 and f"there is no command '{given}'\nDid you mean {meant}" in done.err and fake.loaded == []


def test_a_model_in_the_place_of_a_command_is_told_what_to_type(fake: FakeLLM, puna: Puna) -> None:
    done = puna("llama.gguf")
    assert done.code == 2 and 'Try: puna run llama.gguf "..." or: puna chat llama.gguf' in done.err


def test_a_mistyped_flag_is_told_the_near_one(fake: FakeLLM, puna: Puna) -> None:
    done = puna("run", "hi", "--temprature", "1")
    assert done.code == 2 and done.err.startswith("puna: there is no option --temprature\nDid you mean --temperature")
    assert puna("chat", "--frobnicate").err == "puna: there is no option --frobnicate\nTry: puna chat --help\n"


@pytest.mark.parametrize(
    ("typed", "right"),
    [
        ("chat --modle m.gguf", "puna chat m.gguf"),
        ("chat --model=m.gguf --raw", "puna chat m.gguf --raw"),
        ("chat --model", "puna chat MODEL"),
        ("run -m m.gguf -n 3 hi", "puna run m.gguf -n 3 hi"),
        ("run -mm.gguf hi", "puna run m.gguf hi"),
        ("Why? --model m.gguf", "puna run m.gguf 'Why?'"),
    ],
)
def test_a_model_behind_a_flag_is_told_what_to_type(fake: FakeLLM, puna: Puna, typed: str, right: str) -> None:
    done = puna(*typed.split())
    assert done.code == 2 and fake.loaded == []
    assert done.err.splitlines()[1:] == [f"The model stands without a flag: {right}"]
    assert puna(*shlex.split(right)[1:]).code == 0 and fake.loaded[0][0] == right.split()[2]


@pytest.mark.parametrize(
    ("typed", "right"),
    [
        (("hello",), "puna run hello"),
        (("What is a llama?",), "puna run 'What is a llama?'"),
        (("hello", "there"), "puna run 'hello there'"),
        (("m.gguf", "hello", "there"), "puna run m.gguf 'hello there'"),
    ],
)
def test_a_message_in_the_place_of_a_model_is_told_what_to_type(
    fake: FakeLLM, puna: Puna, typed: tuple[str, ...], right: str
) -> None:
    fake.error = ModelNotFoundError(f"no model is named {typed[0]!r}", hint="`puna models` lists more.")
    done = puna("chat", *typed)
    assert done.code == 2 and len(done.err.splitlines()) == 2 and done.err.endswith(f": {right}\n")
    fake.error = None
    assert puna(*shlex.split(right)[1:]).code == 0
    fake.error = ModelNotFoundError("no model is named 'llama-9b'", hint="`puna models` lists more.")
    assert "puna run" not in puna("chat", "llama-9b").err


def test_a_mistyped_model_is_told_the_near_one_of_the_catalogue_and_of_the_folder(
    puna: Puna, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUNA_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "llama-7b.Q4_0.gguf").touch()
    for given, meant in (
        ("smolm2-135m-instruct", "smollm2-135m-instruct"),
        ("llama-7b.Q4_O.gguf", "llama-7b.Q4_0.gguf"),
        (f"{tmp_path}/lama-7b.Q4_0.gguf", f"{tmp_path}/llama-7b.Q4_0.gguf"),
    ):
        done = puna("inspect", given)
        assert done.code == 2 and re.search(rf"Did you mean {re.escape(meant)}(\?| or )", done.err), done.err


@pytest.mark.parametrize("command", [("run", "hi"), ("chat",), ("bench",), ("plan", "--device", "cpu")])
def test_a_limit_on_gpu_memory_is_refused_on_a_cpu(fake: FakeLLM, puna: Puna, command: tuple[str, ...]) -> None:
    done = puna(*command, "--vram", "1GiB", "--device", "cpu")
    assert done.code == 2 and "--vram limits the memory of a GPU, but the device is cpu" in done.err and fake.loaded == []


def test_a_mistyped_command_with_an_argument_is_told_the_near_one_too(puna: Puna) -> None:
    assert puna("rnu", "hello").err.endswith('Did you mean run? To ask that, put it in quotes: puna "rnu hello"\n')


@pytest.mark.parametrize(
    ("typed", "right"),
    [
        ("what is gravity", '"what is gravity"'),
        ("What is gravity", '"What is gravity"'),
        ("What is 2+2?", '"What is 2+2?"'),
        ("Chat with me -n 5", '"Chat with me"'),
        ("it costs $5", "'it costs $5'"),
        ("show me the llama", '"show me the llama"'),
    ],
)
def test_words_without_quotes_get_the_question_in_quotes(puna: Puna, typed: str, right: str) -> None:
    assert puna(*typed.split()).err.splitlines()[1:] == [f"To ask that, put it in quotes: puna {right}"]


def test_words_without_quotes_after_run_get_them_too(puna: Puna) -> None:
    assert '"what is gravity"' in puna("run", "what", "is", "gravity").err


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("plan --gpu", "--gpu needs a value\nWrite --gpu NAME. Try: puna plan --help"),
        ("plan qwen3-4b --vram", "--vram needs a value\nWrite --vram SIZE. Try: puna plan --help"),
        ("run hi -n", "-n needs a value\nWrite -n N. Try: puna run --help"),
        ("why --ask", "--ask needs a value\nWrite --ask MODEL. Try: puna why --help"),
        ("why --json=1", "--json takes no value\nWrite --json alone. Try: puna why --help"),
        ("convert", "SRC is missing\nThe form is: puna convert SRC DST. Try: puna convert --help"),
        ("convert a", "DST is missing\nThe form is: puna convert SRC DST. Try: puna convert --help"),
        ("pull a b", "too many arguments: b\nThe form is: puna pull [NAME]. Try: puna pull --help"),
        ("doctor a b", "too many arguments: a b\nThe form is: puna doctor. Try: puna doctor --help"),
        ("--wings", "there is no option --wings\nTry: puna --help"),
    ],
)
def test_wrong_usage_of_a_command_names_its_form_and_its_help(puna: Puna, typed: str, told: str) -> None:
    done = puna(*typed.split())
    assert (done.code, done.out, done.err) == (2, "", f"puna: {told}\n")


def test_a_question_with_an_option_without_value_gets_the_help_of_run(puna: Puna) -> None:
    assert puna("What is a llama?", "-n").err.endswith("Write -n N. Try: puna run --help\n")


def test_commands_of_other_programs_get_punas_word_for_them(puna: Puna) -> None:
    for typed, told in (
        ("help", "puna --help"),
        ("list", "puna models"),
        ("ls", "puna models"),
        ("show x.gguf", "puna inspect MODEL"),
    ):
        assert puna(*typed.split()).err.splitlines()[1].startswith(told)
    assert "no model loaded after a command" in puna("ps").err
    assert puna("help", "run").err.endswith("\npuna run --help explains it.\n")
