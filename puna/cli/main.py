"""The command `puna`: a table of commands, each imported only when it is called, and one place where errors become words.

Click is used directly: with typer the process needed 205 ms until the command ran, with click 55 ms (docs/LOG.md), and the
first token is due soon after.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from types import TracebackType

import click

import puna
from puna.cli.terminal import discard, setup_streams, tell
from puna.errors import DeviceError, PunaError

# name -> (module, what `puna --help` says of it)
COMMANDS = {
    "pull": ("puna.cli.pull", "Fetch a model into the cache."),
    "run": ("puna.cli.run", "One answer, streamed."),
    "chat": ("puna.cli.chat", "A conversation in the terminal."),
    "bench": ("puna.cli.bench", "Speed, and its share of what the machine can do."),
    "models": ("puna.cli.models", "Models that are here, and the best for this machine."),
    "plan": ("puna.cli.plan", "Will it fit, how, and how fast."),
    "doctor": ("puna.cli.doctor", "Whether this machine runs models, and what mends it."),
    "why": ("puna.cli.why", "An error text or a log: its cause, and the cure."),
    "inspect": ("puna.cli.inspect", "What is in a model: sizes, tensors, tokenizer, template."),
    "convert": ("puna.cli.convert", "A model into another format, with or without quantisation."),
    "tokenize": ("puna.cli.tokenize", "Token ids, pieces and bytes of a text."),
}

SIGNALLED = 128  # + the number of the signal, as a shell reports it
INTERRUPTED = SIGNALLED + signal.SIGINT


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(puna.__version__, prog_name="puna", message="%(prog)s %(version)s")
def app() -> None:
    """Runs LLaMA-family models on this machine.

    MODEL is a file, a folder, a name in the cache or on the Hub (hf:OWNER/REPO/FILE.gguf). Left out, it is a small
    default model, fetched at first use. Every command takes --json and --help.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 the work failed, 2 wrong usage, 130 interrupted, 143 told to end."""
    sys.excepthook = _report_bug
    _unwind_when_told_to_end()
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code. What a person can act on is told in one or two lines."""
    try:
        setup_streams()
        if _speaks_elsewhere(sys.argv[1:] if arguments is None else arguments):
            if TORCHRUN not in os.environ:
                tell(
                    f"puna: RANK is {_place()}, so this is left to the first of {os.environ['WORLD_SIZE']} processes; unset RANK?"
                )
            return 0
        code = app.main(arguments, prog_name="puna", standalone_mode=False)
        sys.stdout.flush()
    except click.Abort as abort:
        if isinstance(abort.__cause__, EOFError):  # click takes it for Ctrl-C; it is a bug
            raise abort.__cause__ from None
        return explain(abort)
    except (PunaError, click.ClickException, KeyboardInterrupt, OSError, MemoryError, UnicodeError) as error:
        return explain(error)
    return code if isinstance(code, int) else 0


def _unwind_when_told_to_end() -> None:
    """SIGTERM and SIGHUP end the process as an exception does: what is half done is cleaned up. Ignored ones (nohup) stay so."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, lambda received, _: sys.exit(SIGNALLED + received))


def explain(error: BaseException) -> int:
    """Print the words for an error; return the exit code."""
    match error:
        case PunaError():
            if not _is_told_elsewhere(error):
                tell(f"puna{_rank()}: {error.message}", error.hint)
            return error.exit_code
        case click.exceptions.NoArgsIsHelpError():
            tell(error.message)
            return 2
        case click.UsageError():
            tell(f"puna: {error.format_message()}", f"Try: {error.ctx.command_path} --help" if error.ctx else "Try: puna --help")
            return 2
        case click.ClickException():
            tell(f"puna: {error.format_message()}")
            return 2
        case KeyboardInterrupt() | click.Abort():
            tell("")  # the shell's prompt begins on a line of its own
            return INTERRUPTED
        case BrokenPipeError():
            discard(sys.stdout)
        case MemoryError():
            tell("puna: out of memory", "Close other programs, or take a smaller model or a smaller --max-context.")
        case OSError():
            tell(f"puna: {error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
            if error.filename is None:
                discard(sys.stdout)
        case _:
            tell(f"puna: {error}")
    return 1


SHARING = ("run", "chat", "bench", "doctor")  # commands for which several processes share a model, or look at their machines


TORCHRUN = "TORCHELASTIC_RUN_ID"  # which torchrun sets


def _place(name: str = "RANK") -> str:
    """Which of several processes that torchrun started this one is, as a number; "0" of one alone, whatever else says RANK."""
    return os.environ.get(name, "0") if os.environ.get("WORLD_SIZE", "1") != "1" else "0"


def _speaks_elsewhere(arguments: list[str]) -> bool:
    """Whether the first process does this alone."""
    return _place() != "0" and not any(word in SHARING for word in arguments[:1])


def _is_told_elsewhere(error: PunaError) -> bool:
    """What every process of a machine meets alike, its first one tells."""
    return _place("LOCAL_RANK") != "0" and not isinstance(error, DeviceError)


def _rank() -> str:
    """Which process speaks; the first speaks for all."""
    return "" if _place() == "0" else f" (rank {_place()})"


def _report_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """An exception that nobody foresaw is a bug of puna: one line, and the traceback for those who ask."""
    if os.environ.get("PUNA_DEBUG") == "1":
        sys.__excepthook__(kind, error, trace)
        return
    words = (str(error).splitlines() or [""])[0]
    tell(
        f"puna: internal error: {kind.__name__}: {words}",
        "This is a bug of puna. Please report it with what PUNA_DEBUG=1 prints.",
    )
