"""What is typed by people who come from llama.cpp, Ollama or vLLM: each hint holds a command line that works."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import click
import pytest

from puna.cli import foreign, main
from puna.cli.options import Sampling, Size, Whole, typed_range
from tests.cli.conftest import FakeLLM, Puna

NAMED = ("run", "chat", "serve", "bench", "plan", "perplexity", "embed", "inspect", "tokenize")
CALLED = [name for name in NAMED if name in main.COMMANDS]  # a puna may lack serve (test_without_server.py)


def command(name: str) -> click.Command:
    found = main.app.get_command(click.Context(main.app), name)
    assert found is not None
    return found


def value_of(name: str, flag: str) -> str:
    """A value that our flag takes."""
    option = next(one for one in command(name).params if flag in one.opts)
    if isinstance(option.type, Sampling) and option.name is not None:
        low, _ = typed_range(option.name)
        return str(max(low, 1))
    return "1" if isinstance(option.type, Whole) else "1GiB" if isinstance(option.type, Size) else "x"


def line_of(error: Exception) -> list[str]:
    """The words that a hint says to type, behind "puna NAME"."""
    hint = getattr(error, "typed").hint  # noqa: B009
    return shlex.split(hint[hint.rindex(": puna ") + len(": puna ") :].partition(" < ")[0])


def cases() -> Iterator[tuple[str, str]]:
    for name in CALLED:
        yield from ((name, flag) for flag in foreign.FLAGS if foreign.Theirs(command(name)).meant(flag) is not None)


def test_every_hint_is_a_command_line_that_click_takes() -> None:
    tried = list(cases())
    known = {flag for _, flag in tried}
    assert known == foreign.FLAGS.keys() if len(CALLED) == len(NAMED) else known < foreign.FLAGS.keys()
    assert len(tried) > 200
    for name, flag in tried:
        meant = foreign.Theirs(command(name)).meant(flag)
        assert meant is not None
        value = [value_of(name, meant.own) if meant.own.startswith("--") else "1"] if meant.has_value else []
        given = "MODEL" in foreign.Theirs(command(name))._words and meant.own not in (foreign.MODEL, foreign.REPOSITORY)
        words = ["m.gguf"] * given + ["Hi"] * (name in ("run", "tokenize", "embed", "perplexity"))
        error = foreign.refused(command(name), name, [*words, flag, *value])
        assert error is not None and flag in error.typed.message
        called, *typed = line_of(error)
        assert called == name and flag not in typed
        command(name).make_context(name, typed)  # raises for what click refuses
        assert foreign.refused(command(name), name, typed) is None


def test_no_flag_of_others_is_one_of_ours_with_another_meaning() -> None:
    """A flag that a command of ours has is never taken for theirs."""
    for name in CALLED:
        own = {flag for one in command(name).params for flag in one.opts}
        assert all(foreign.Theirs(command(name)).meant(flag) is None for flag in own)


@pytest.mark.parametrize(
    ("typed", "said", "right"),
    [
        ("run hi --temp 0.7", "puna says --temperature", "puna run hi --temperature 0.7"),
        ("run hi --temp=0.7", "puna says --temperature", "puna run hi --temperature 0.7"),
        ("run hi -t 4 -c 512", "puna says --threads, --max-context", "puna run hi --threads 4 --max-context 512"),
        ("run hi -t4", "puna says --threads", "puna run hi --threads 4"),
        ("run m.gguf hi -ngl 99", "puna puts as many layers on the GPU as fit", "puna run m.gguf hi"),
        ("run m.gguf hi -fa on -ngl 9", "puna's attention needs no switch", "puna run m.gguf hi"),
        ("run -hf o/r:Q4_K_M -p hi", "The model stands without a flag; The prompt", "puna run hf:o/r hi"),
        ("-hf o/r", "The model stands without a flag", "puna chat hf:o/r"),
        ("-m m.gguf -p hi --n-predict 9", "The model", "puna run m.gguf --max-tokens 9 hi"),
        ("Why? --temp 0", "puna says --temperature", "puna run 'Why?' --temperature 0"),
        ("chat m.gguf -p Be_short", "puna says --system", "puna chat m.gguf --system Be_short"),
        ("serve m.gguf --max-model-len 512", "puna says --max-context", "puna serve m.gguf --max-context 512"),
        ("serve m.gguf --tensor-parallel-size 2", "several GPUs share a model by torchrun", "puna serve m.gguf"),
        ("perplexity -m m.gguf -f t.txt", "The file stands without a flag", "puna perplexity m.gguf t.txt"),
        ("run -f t.txt", "The prompt stands without a flag", "puna run - < t.txt"),
        ("tokenize -m m.gguf -p hi", "The prompt stands without a flag", "puna tokenize m.gguf hi"),
        ("embed -m m.gguf -f t.txt", "The prompt stands without a flag", "puna embed m.gguf - < t.txt"),
        ("run hi -no-cnv", "puna says --raw", "puna run hi --raw"),
    ],
)
def test_flags_of_others_are_told_as_ours_in_a_whole_command_line(
    fake: FakeLLM, puna: Puna, typed: str, said: str, right: str
) -> None:
    done = puna(*typed.split())
    assert done.code == 2 and done.out == "" and fake.loaded == []
    first, second = done.err.splitlines()
    assert re.match(r"puna: there (is no option|are no options) -", first) and said in second and second.endswith(f": {right}")


@pytest.mark.parametrize(
    "typed", [("hi", "--stop", "-t"), ("hi", "--stop=--temp"), ("--", "--temp"), ("-n5", "hi"), ("hi", "--system", "-hf")]
)
def test_what_stands_as_a_value_is_no_flag(fake: FakeLLM, puna: Puna, typed: tuple[str, ...]) -> None:
    assert puna("run", *typed).code == 0 and len(fake.asked) == 1


def test_a_flag_that_means_nothing_to_a_command_gets_its_help(puna: Puna) -> None:
    assert puna("models", "--temp", "1").err == "puna: there is no option --temp\nTry: puna models --help\n"


def test_a_switch_alone_is_no_conversation(puna: Puna) -> None:
    assert puna("-v").err == "puna: there is no option -v\nTry: puna --help\n"


def test_commands_of_others_are_none_of_ours_and_get_their_line(puna: Puna) -> None:
    """tests/test_commands.py checks the commands that these lines name."""
    assert not foreign.COMMANDS.keys() & main.COMMANDS.keys()
    for name, told in foreign.COMMANDS.items():
        assert puna(name).err == f"puna: there is no command {name!r}\n{told}\n"
