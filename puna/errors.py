"""Every error that puna shows to a person.

Each says what was given, what is allowed and what to do. The command line prints `message`, and `hint` on a second
line, and ends with `exit_code`; a server answers with `http_status`. An error that is not a `PunaError` is a bug of puna.

An error is written with flags ("--device cpu"), as a command line has them: `typed` and `line` say it so. To Python, which reads
`message`, `hint`, `str(error)` or a traceback, it names the keywords (device="cpu").
"""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from typing import ClassVar, NamedTuple, Self

from puna.keywords import in_python


class ErrorLines(NamedTuple):
    """An error in the words of a command line."""

    message: str
    hint: str


class PunaError(Exception):
    """Something a person can act on.

    >>> str(PunaError("no such file: x.gguf", hint="Check the path."))
    'no such file: x.gguf'
    """

    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500
    default_hint: ClassVar[str] = ""  # what to do, unless the caller gives a hint

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(in_python(message))
        self.typed = ErrorLines(message, "")
        self.give_hint(hint or self.default_hint)

    @property
    def message(self) -> str:
        """What was given, and what is allowed."""
        return in_python(self.typed.message)

    @property
    def hint(self) -> str:
        """What to do; "" if there is nothing to say."""
        return in_python(self.typed.hint)

    def give_hint(self, hint: str) -> None:
        """Say what to do. A traceback shows it too."""
        self.typed = self.typed._replace(hint=hint)
        if hint:
            self.add_note(in_python(hint))

    def reword(self, message: str) -> None:
        """Give the error another message."""
        self.typed = self.typed._replace(message=message)
        self.args = (in_python(message), *self.args[1:])

    @property
    def line(self) -> str:
        """Message and hint as one line, as a command line has them.

        >>> PunaError("no such file: x.gguf", hint="Check the path.").line
        'no such file: x.gguf. Check the path.'
        """
        return f"{self.typed.message}. {self.typed.hint}" if self.typed.hint else self.typed.message


class UsageError(PunaError):
    """An argument that is wrong for every model and machine."""

    exit_code = 2
    http_status = 400


class ConfigError(UsageError):
    """A size or setting outside its range; `field` names it."""

    def __init__(self, name: str, problem: str, *, hint: str = "") -> None:
        super().__init__(f"{name} {problem}", hint=hint)
        self.field = name


class ModelNotFoundError(PunaError):
    """A path or a name that leads to no model."""

    exit_code = 2
    http_status = 404
    default_hint = "Give a model file that you may read, a folder that holds one, or hf:OWNER/REPO/FILE.gguf."


class ModelFormatError(PunaError):
    """A model file that puna refuses because it contradicts itself or holds an impossible value. Names the file, the field and
    the byte offset. The bytes may be as they were written; if they are not, the error is a DamagedFileError.

    >>> str(ModelFormatError("m.gguf", "llama.block_count", 16, "is 0; it must lie in 1..65536"))
    'm.gguf: llama.block_count at byte 16: is 0; it must lie in 1..65536'
    """

    http_status = 422
    default_hint = "Correct this in the file, or take another conversion of the model."

    def __init__(self, file: str | PathLike[str], field: str, offset: int | None, problem: str, *, hint: str = "") -> None:
        where = f"{field} at byte {offset}" if offset is not None else field
        super().__init__(f"{file}: {where}: {problem}", hint=hint)
        self.file = str(file)
        self.field = field
        self.offset = offset


class DamagedFileError(ModelFormatError):
    """A file whose bytes have changed: it is cut short, an offset points outside, or a checksum differs.

    >>> str(DamagedFileError("m.gguf", "kv_count", 16, "is 2**63, but 40 bytes remain"))
    'm.gguf: kv_count at byte 16: is 2**63, but 40 bytes remain'
    """

    default_hint = "The file is damaged or was cut short: fetch it again, and compare its size and sha256 with the source's."


class UnsupportedModelError(PunaError):
    """A well-formed model that puna does not run: an architecture, a tensor type, a tokenizer kind."""

    http_status = 422
    default_hint = "Take another conversion of the model, or a newer puna."


class ContextLengthError(PunaError):
    """A prompt that does not fit into the context. Names both numbers.

    >>> str(ContextLengthError.of("at least 300", 128))
    'the prompt has at least 300 tokens; the context holds 128, including the answer'
    """

    exit_code = 2
    http_status = 400
    default_hint = "Shorten the prompt, or load the model with a larger --max-context if it allows that."

    @classmethod
    def of(cls, num_tokens: str, max_context: int) -> Self:
        return cls(f"the prompt has {num_tokens} tokens; the context holds {max_context}, including the answer")


class InsufficientMemoryError(PunaError):
    """A model that does not fit into the free memory. Raised before anything is allocated, or when an allocation fails.

    `needed_bytes`: with the settings that need least; 0: not known.
    """

    http_status = 507

    def __init__(self, message: str, *, hint: str = "", needed_bytes: int = 0) -> None:
        super().__init__(message, hint=hint)
        self.needed_bytes = needed_bytes


class QueueFullError(PunaError):
    """As many requests wait as may (EngineConfig.max_queue). The same call may be taken a moment later.

    >>> QueueFullError.of(32).line
    '32 requests wait, and no more may. Try again in a moment, or raise max_queue'
    """

    http_status = 429
    default_hint = "Try again in a moment, or raise max_queue"

    @classmethod
    def of(cls, num_waiting: int) -> Self:
        return cls(f"{num_waiting} requests wait, and no more may")


class DownloadError(PunaError):
    """A model that could not be fetched, or whose bytes are not the expected ones."""

    http_status = 502


class TemplateError(PunaError):
    """A chat template that is wrong, refuses the messages, or exceeds its limits."""

    http_status = 400


class DeviceError(PunaError):
    """A device that is missing or cannot run the model."""


class ConstraintError(PunaError):
    """An answer that cannot follow its constraint: the request ends, the others continue. Or one that was cut before its end."""

    http_status = 422


class NumericalError(PunaError):
    """Logits that are not finite: the request ends, the others continue."""


class Terminated(SystemExit):
    """The process was told to end: by SIGTERM, or because its terminal is gone. A SystemExit of another package is not this."""


MAX_LINE = 300  # characters of a foreign error that puna repeats


def first_line(error: BaseException, *, with_kind: bool = False) -> str:
    """The first line of an error's text, shortened. Before it, or instead of an empty one, the error's class.

    >>> first_line(OSError("disk full\\nat x.c:1")), first_line(KeyError()), first_line(ImportError("no x.so"), with_kind=True)
    ('disk full', 'KeyError', 'ImportError: no x.so')
    """
    kind, text = type(error).__name__, str(error).strip().splitlines()[:1]
    line = ": ".join([kind, *text] if with_kind or not text else text)
    return line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]} ..."


MAX_SPELLED = 200  # characters of a name that can be a misspelling; to compare a megabyte takes minutes


def did_you_mean(given: str, names: Iterable[str], prefix: str = "") -> str:
    """A sentence with the names that begin with `given`, then those spelled like it, the nearest first; "" if there are none.

    A `prefix` that many names have makes none of them nearer.

    >>> did_you_mean("chta", ["chat", "run"]), did_you_mean("fly", ["chat", "run"])
    ('Did you mean chat?', '')
    >>> did_you_mean("temp", ["stream", "temperature"])
    'Did you mean temperature or stream?'
    """
    from difflib import get_close_matches  # only needed for errors

    if len(given) > MAX_SPELLED:
        return ""
    by_lower, wanted = {name.lower().removeprefix(prefix): name for name in names}, given.lower().removeprefix(prefix)
    begun = [lower for lower in by_lower if len(given) > 2 and lower.startswith(wanted)]
    near = [by_lower[name] for name in dict.fromkeys([*begun, *get_close_matches(wanted, by_lower, n=3, cutoff=0.6)])][:3]
    return f"Did you mean {' or '.join(near)}?" if near else ""
