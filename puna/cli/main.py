"""The command `puna`: a table of commands, each imported only when called, and the one place that prints errors.

It uses click directly: a command starts after 55 ms, with typer after 205 ms (docs/LOG.md).
"""

from __future__ import annotations

import importlib
import inspect
import os
import signal
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import NoReturn

import click

import puna
from puna.cli import foreign
from puna.cli.interrupts import INTERRUPTED, SIGNALLED
from puna.cli.terminal import discard, setup_streams, tell
from puna.cli.usage import in_flags, in_words, no_command
from puna.errors import DeviceError, PunaError, Terminated, first_line
from puna.variables import misspelt

# Name -> its module, and its line in `puna --help`.
COMMANDS = {
    "pull": ("puna.cli.pull", "Fetch a model into the cache."),
    "run": ("puna.cli.run", "Answer one prompt."),
    "chat": ("puna.cli.chat", "Talk with a model in the terminal."),
    "serve": ("puna.cli.serve", "Serve models to programs: the APIs of OpenAI, Anthropic, Ollama."),
    "trace": ("puna.cli.trace", "Answer one prompt, and show how each token came to be."),
    "replay": ("puna.cli.replay", "Run again what a receipt holds, and compare each token."),
    "explain": ("puna.cli.explain", "Take a tour of how it works, or take a source file apart."),
    "bench": ("puna.cli.bench", "Measure speed, and its share of what the machine can do."),
    "perplexity": ("puna.cli.perplexity", "Measure how surprised a model is by a text."),
    "models": ("puna.cli.models", "List the models that are here, and the best for this machine."),
    "rm": ("puna.cli.rm", "Remove a model from this machine."),
    "plan": ("puna.cli.plan", "Show whether a model fits, how, and how fast it will be."),
    "doctor": ("puna.cli.doctor", "Check whether this machine runs models, and how to fix it."),
    "why": ("puna.cli.why", "Explain an error text or a log: its cause and how to fix it."),
    "inspect": ("puna.cli.inspect", "Show what is in a model: sizes, tensors, tokenizer, template."),
    "convert": ("puna.cli.convert", "Write a model in another format, quantised or not."),
    "embed": ("puna.cli.embed", "Print the embeddings of texts: vectors for search."),
    "rerank": ("puna.cli.rerank", "Sort documents by how well they answer a query."),
    "score": ("puna.cli.score", "Show how likely each of several texts is after a prompt."),
    "cache": ("puna.cli.cache", "Show or empty what --cache-dir keeps."),
    "tokenize": ("puna.cli.tokenize", "Show the token ids, pieces and bytes of a text."),
}
# Commands that share a line of `puna --help`, which must fit a screen of 24 lines -> that line.
TOGETHER: dict[tuple[str, ...], str] = {("models", "rm"): "List the models that are here, and the best; or remove one."}
QUESTION = "run"  # the command for a question that is given instead of a command
CONVERSATION = "chat"


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[cmd_name][0]).command
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Flags of llama.cpp in the place of a command are those of `puna run` or, without a prompt, of `puna chat`."""
        if args and foreign.stands_for(args[:1]):
            name = QUESTION if foreign.stands_for(args, foreign.PROMPT, foreign.FILE) else CONVERSATION
            self._refuse_foreign(ctx, name, args)
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """`puna "question"` is `puna run "question"`. The error for an unknown command names similar commands, the one for flags
        of other programs names puna's."""
        name = args[0]
        if name not in COMMANDS and not is_question(name):
            raise no_command(args, COMMANDS)
        called, rest = (name, args[1:]) if name in COMMANDS else (QUESTION, args)
        self._refuse_foreign(ctx, called, rest)
        return called, self.get_command(ctx, called), rest

    def _refuse_foreign(self, ctx: click.Context, name: str, words: list[str]) -> None:
        command = self.get_command(ctx, name)
        if command is not None and (error := foreign.refused(command, name, words)) is not None:
            raise error

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Without an empty line above it: the help must fit a screen."""
        with formatter.indentation():
            formatter.write_text(inspect.cleandoc(self.help or ""))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Only the commands: the text above them names the two options, and the help must fit a screen."""
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Without a heading: the text above ends with a colon."""
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_dl(list(dict(map(help_line, COMMANDS)).items()))


def help_line(name: str) -> tuple[str, str]:
    """The names and the text of the line in which `puna --help` tells of a command."""
    names = next((names for names in TOGETHER if name in names), (name,))
    return ", ".join(names), TOGETHER.get(names, COMMANDS[name][1])


def is_question(word: str) -> bool:
    """Whether a word instead of a command is a prompt: it has spaces or ends like a question.

    >>> is_question("What is a llama?"), is_question("Why?"), is_question("rnu")
    (True, True, False)
    """
    return len(word.split()) > 1 or word.rstrip().endswith(("?", "？"))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(puna.__version__, prog_name="puna", message="%(prog)s %(version)s")
def app() -> None:
    """Run LLaMA-family models: puna "What is a llama?" MODEL is a path, a name, or hf:OWNER/REPO/FILE.gguf. Each command has
    --help and --json:
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 the work failed, 2 wrong usage, 130 interrupted, 143 terminated."""
    sys.excepthook = _report_bug
    _raise_on_termination()
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code. An error that a person can act on is one or two lines."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        setup_streams()
        if _is_left_to_rank_0(words):
            if TORCHRUN not in os.environ:
                tell(
                    f"puna: RANK is {_rank_number()}, so the first of {os.environ['WORLD_SIZE']} processes does this; unset RANK?"
                )
            return 0
        for line in misspelt():
            tell(f"puna: {line}")
        code = app.main(words, prog_name="puna", standalone_mode=False)
        sys.stdout.flush()
    except click.Abort as abort:
        if isinstance(abort.__cause__, EOFError):  # click takes it for Ctrl-C; it is a bug
            raise abort.__cause__ from None
        return explain(abort)
    except click.exceptions.NoArgsIsHelpError as error:
        return explain(error)
    except click.UsageError as error:
        return explain(in_words(error, *_called(words), words))
    except (PunaError, click.ClickException, KeyboardInterrupt, OSError, MemoryError, UnicodeError) as error:
        return explain(error, _called(words)[0])
    return code if isinstance(code, int) else 0


def _called(words: Sequence[str]) -> tuple[click.Command, str]:
    """The command that a command line calls, and how it is called."""
    name = words[0] if words and words[0] in COMMANDS else QUESTION if words and is_question(words[0]) else None
    command = None if name is None else app.get_command(click.Context(app), name)
    return (app, "puna") if command is None else (command, f"puna {name}")


def _raise_on_termination() -> None:
    """Make SIGTERM and SIGHUP raise Terminated, so that half-done work is cleaned up. Ignored signals (nohup) stay ignored."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)


def _end(number: int, _: object) -> NoReturn:
    raise Terminated(SIGNALLED + number)


MAX_MESSAGE = 2000  # characters: an error may quote what was typed, which may be anything


def _shortened(message: str) -> str:
    return message if len(message) <= MAX_MESSAGE else message[:MAX_MESSAGE] + " ..."


def explain(error: BaseException, command: click.Command | None = None) -> int:
    """Print an error of a command for a person; return the exit code."""
    match error:
        case PunaError():
            if not _is_printed_by_rank_0(error):
                message, hint = (in_flags(text, command) for text in error.typed)
                tell(f"puna{_rank_suffix()}: {_shortened(message)}", hint)
            return error.exit_code
        case click.exceptions.NoArgsIsHelpError():
            click.echo(error.message, err=True)
            return 2
        case click.ClickException():
            tell(f"puna: {_shortened(error.format_message())}")
            return 2
        case KeyboardInterrupt() | click.Abort():
            begins_line = isinstance(error.__cause__, KeyboardInterrupt)  # click has ended the line of the terminal's ^C
            tell(*([] if begins_line else [""]), "puna: interrupted")
            return INTERRUPTED
        case BrokenPipeError():
            discard(sys.stdout)
        case MemoryError():
            tell("puna: out of memory", "Close other programs, or use a smaller model or a smaller --max-context.")
        case OSError():
            tell(_shortened(f"puna: {error.strerror or error}" + (f": {error.filename}" if error.filename else "")))
            if error.filename is None:
                discard(sys.stdout)
        case _:
            tell(f"puna: {error}")
    return 1


SHARING = ("run", "chat", "bench", "perplexity", "doctor")  # commands that several processes run together
TORCHRUN = "TORCHELASTIC_RUN_ID"  # which torchrun sets


def _rank_number(name: str = "RANK") -> str:
    """The rank of this process among those that torchrun started; "0" for a single process, whatever RANK says."""
    return os.environ.get(name, "0") if os.environ.get("WORLD_SIZE", "1") != "1" else "0"


def _is_left_to_rank_0(arguments: list[str]) -> bool:
    """Whether only the first process runs this command, and this is another one."""
    return _rank_number() != "0" and not any(word in SHARING or is_question(word) for word in arguments[:1])


def _is_printed_by_rank_0(error: PunaError) -> bool:
    """Whether local rank 0 prints this error: all ranks share it, unless it is about their own device."""
    return _rank_number("LOCAL_RANK") != "0" and not isinstance(error, DeviceError)


def _rank_suffix() -> str:
    """Names the process in an error; rank 0 stays unnamed."""
    return "" if _rank_number() == "0" else f" (rank {_rank_number()})"


def _report_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an unexpected exception as a bug of puna: one line, or the traceback if PUNA_DEBUG=1."""
    if os.environ.get("PUNA_DEBUG") == "1":
        sys.__excepthook__(kind, error, trace)
        return
    tell(
        f"puna: internal error: {first_line(error, with_kind=True)}",
        "This is a bug of puna. Please report it with what PUNA_DEBUG=1 prints.",
    )
