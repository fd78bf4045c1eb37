"""llama2.c's `run`: the same flags, random numbers and output, for any model that puna reads.

    python -m puna.compat.llama2c stories15M.bin -t 0 -n 256 -i "Once upon a time"

For checkpoints of llama2.c it behaves the same: it prints the prompt too, ends a text at BOS only, and does not print a single
byte that is neither printable ASCII nor white space. A model of another format also ends at its own end-of-text ids, and all its
bytes are printed. Differences: it refuses a value that is not a number, a text may be longer than 512 bytes, and the end of
standard input ends a chat.
"""

from __future__ import annotations

import io
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from puna import formats, hub
from puna.compat.session import Session
from puna.errors import PunaError, UsageError
from puna.llm import LLM
from puna.progress import StderrReporter
from puna.sampling import require_finite
from puna.tokenizers.base import Tokenizer

Floats = npt.NDArray[np.float32]

HELP = ("-h", "--help")
USAGE = """\
usage: python -m puna.compat.llama2c CHECKPOINT [-FLAG VALUE]...
  -t NUMBER   temperature, 0 or more; 0 takes the most likely token [1.0]
  -p NUMBER   top-p, 0 to 1 [0.9]
  -s NUMBER   seed; 0 takes the time [the time]
  -n NUMBER   tokens, with those of the prompt; 0: as many as fit [256]
  -i TEXT     prompt
  -z FILE     tokenizer [tokenizer.bin here, else beside or in the model]
  -m MODE     generate or chat [generate]
  -y TEXT     system prompt of a chat
example: python -m puna.compat.llama2c stories15M.bin -i "Once upon a time"
"""


# ---- flags ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Options:
    """The flags, each with its default."""

    checkpoint: str
    temperature: float = 1.0
    top_p: float = 0.9
    seed: int = 0
    num_steps: int = 256
    prompt: str | None = None
    tokenizer: str | None = None
    mode: str = "generate"
    system: str | None = None


def parse(arguments: Sequence[str]) -> Options:
    """Flags are one letter and have a value. Numbers out of range become what `run` makes of them."""
    if not arguments:
        raise UsageError("CHECKPOINT is missing")
    values: dict[str, Any] = {}
    for i in range(1, len(arguments), 2):
        flag = arguments[i]
        if flag not in FLAGS:
            raise UsageError(f"there is no flag {flag!r}; the flags are {', '.join(FLAGS)}")
        if i + 1 == len(arguments):
            raise UsageError(f"{flag} needs a value")
        name, read = FLAGS[flag]
        values[name] = read(flag, arguments[i + 1])
    return _within_limits(Options(arguments[0], **values))


def _within_limits(options: Options) -> Options:
    return replace(
        options,
        temperature=max(0.0, options.temperature),
        top_p=options.top_p if 0 <= options.top_p <= 1 else 0.9,
        seed=options.seed % (1 << 64) or int(time.time()),  # a negative seed wraps modulo 2^64, as in C
        num_steps=max(0, options.num_steps),
    )


def _real(flag: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise UsageError(f"{flag} is {text!r}; a number is needed")
    return number


def _int32(flag: str, text: str) -> int:
    """A number as C's atoi reads it: 32 bits."""
    try:
        return (int(text) + (1 << 31)) % (1 << 32) - (1 << 31)
    except ValueError:
        raise UsageError(f"{flag} is {text!r}; a whole number is needed") from None


def _text(flag: str, text: str) -> str:
    try:
        return os.fsencode(text).decode("utf-8")
    except UnicodeError:
        raise UsageError(f"{flag} is not UTF-8: {text[:60]!a}", hint="Write it in UTF-8.") from None


def _mode(flag: str, text: str) -> str:
    if text not in MODES:
        raise UsageError(f"{flag} is {text!r}; {' or '.join(MODES)} is needed")
    return text


def _path(flag: str, text: str) -> str:
    return text


FLAGS: Mapping[str, tuple[str, Callable[[str, str], Any]]] = {
    "-t": ("temperature", _real),
    "-p": ("top_p", _real),
    "-s": ("seed", _int32),
    "-n": ("num_steps", _int32),
    "-i": ("prompt", _text),
    "-z": ("tokenizer", _path),
    "-m": ("mode", _mode),
    "-y": ("system", _text),
}


# ---- sampling -------------------------------------------------------------------------------------------------------


class XorShift:
    """The generator xorshift* (Vigna 2016, arXiv 1402.6246), 64 bits of state.

    >>> XorShift(1337).uint32()
    989205090
    """

    def __init__(self, seed: int) -> None:
        self.state = seed

    def uint32(self) -> int:
        state = self.state
        state ^= state >> 12
        state = (state ^ state << 25) & 0xFFFFFFFFFFFFFFFF
        self.state = state ^ state >> 27
        return (self.state * 0x2545F4914F6CDD1D & 0xFFFFFFFFFFFFFFFF) >> 32

    def uniform(self) -> np.float32:
        """A number in [0, 1): 24 bits."""
        return np.float32((self.uint32() >> 8) / (1 << 24))


class RunSampler:
    """Logits to a token id in `run`'s own arithmetic: float32, sums in index order, one draw per token."""

    def __init__(self, temperature: float, top_p: float, seed: int) -> None:
        self._temperature, self._top_p = np.float32(temperature), np.float32(top_p)
        self.random = XorShift(seed)

    def __call__(self, logits: Floats) -> int:  # (vocab_size,)
        require_finite(logits)
        if self._temperature == 0:
            return int(logits.argmax())
        probabilities = softmax(logits / self._temperature)
        coin = self.random.uniform()
        if 0 < self._top_p < 1:
            return draw_top_p(probabilities, self._top_p, coin)
        return draw(probabilities, coin)


def softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max())
    return np.asarray(powers / np.cumsum(powers, dtype=np.float32)[-1])


def draw(probabilities: Floats, coin: np.float32) -> int:
    """The first index at which the cumulative probability exceeds `coin`."""
    return min(int(np.searchsorted(np.cumsum(probabilities, dtype=np.float32), coin, side="right")), len(probabilities) - 1)


def draw_top_p(probabilities: Floats, top_p: np.float32, coin: np.float32) -> int:
    """Draw among the most likely that together exceed `top_p`. Tokens that cannot be among them are not sorted."""
    cutoff = (np.float32(1) - top_p) / np.float32(len(probabilities) - 1)
    ids = np.flatnonzero(probabilities >= cutoff)
    ids = ids[np.argsort(-probabilities[ids], kind="stable")]
    cumulative = np.cumsum(probabilities[ids], dtype=np.float32)
    last = min(int(np.searchsorted(cumulative, top_p, side="right")), len(ids) - 1)
    chosen = int(np.searchsorted(cumulative[: last + 1], coin * cumulative[last], side="right"))
    return int(ids[min(chosen, last)])


# ---- text -----------------------------------------------------------------------------------------------------------

WHITE_SPACE = b"\t\n\v\f\r"


class Printer:
    """Writes tokens as `run` does. `is_own`: a checkpoint of llama2.c."""

    def __init__(self, tokenizer: Tokenizer, out: BinaryIO, is_own: bool) -> None:
        self._tokenizer, self._out, self._is_own = tokenizer, out, is_own

    def token(self, before: int, token_id: int) -> None:
        """Print what `token_id` adds after the token `before`."""
        piece = self._bytes(token_id)
        if before == self._tokenizer.bos_id and self._tokenizer.strips_leading_space():
            piece = piece.removeprefix(b" ")
        if not self._is_own or len(piece) != 1 or 0x20 <= piece[0] < 0x7F or piece in WHITE_SPACE:
            self.write(piece)

    def write(self, piece: bytes) -> None:
        self._out.write(piece)
        self._out.flush()

    def _bytes(self, token_id: int) -> bytes:
        if token_id >= self._tokenizer.vocab_size:  # pads the model's vocabulary
            return b""
        piece = self._tokenizer.token_bytes(token_id)
        if piece or not self._is_own:
            return piece
        text = self._tokenizer.piece(token_id)  # in the tokenizer file's spelling: BOS and EOS have lines of their own
        return f"\n{text}\n".encode() if text in self._tokenizer.special_tokens else text.encode()


# ---- the two modes --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Program:
    """The state of both modes."""

    options: Options
    session: Session
    tokenizer: Tokenizer
    sample: RunSampler
    printer: Printer
    num_steps: int  # forward passes
    stop_ids: frozenset[int | None]
    input: BinaryIO

    def encode(self, text: str) -> list[int]:
        ids = self.tokenizer.encode(text, bos=self.tokenizer.bos_id is not None)
        if not ids:
            raise UsageError("the model's tokenizer has no BOS, so the prompt must not be empty", hint="Give one with -i.")
        return ids


def generate(program: Program) -> None:
    """Continue the prompt. The clock starts after the first token, as in `run`."""
    session, printer = program.session, program.printer
    ids = program.encode(program.options.prompt or "")[: program.num_steps + 1]
    logits = session.feed(ids[:1])
    started = time.perf_counter()
    for before, token_id in pairwise(ids):
        printer.token(before, token_id)
    if given := ids[1 : program.num_steps]:
        logits = session.feed(given)
    if len(ids) <= program.num_steps:
        _continue(program, ids[-1], logits)
    printer.write(b"\n")
    if session.num_tokens > 1:
        speed = (session.num_tokens - 1) / (time.perf_counter() - started)
        sys.stderr.write(f"achieved tok/s: {speed:f}\n")


def _continue(program: Program, token_id: int, logits: Floats) -> None:
    """Draw, print and feed until a stop id or the last step."""
    while True:
        before, token_id = token_id, program.sample(logits[-1])
        if token_id in program.stop_ids:
            return
        program.printer.token(before, token_id)
        if program.session.num_tokens == program.num_steps:
            return
        logits = program.session.feed([token_id])


def chat(program: Program) -> None:
    """A conversation in Llama 2's template. A token is drawn at every step, those of the prompt included, as in `run`."""
    system = _ask(program, b"Enter system prompt (optional): ", program.options.system)
    message = _ask(program, b"User: ", program.options.prompt) if system is not None else None
    if message is not None and system:
        message = f"<<SYS>>\n{system}\n<</SYS>>\n\n{message}"
    while message is not None and _turn(program, message):
        message = _ask(program, b"User: ")
    program.printer.write(b"\n")


def _turn(program: Program, message: str) -> bool:
    """One message and its answer; False if the steps are used up."""
    session, eos = program.session, program.tokenizer.eos_id
    program.printer.write(b"Assistant: ")
    ids = program.encode(f"[INST] {message} [/INST]")
    given = ids[: program.num_steps - session.num_tokens]
    drawn = [program.sample(row) for row in session.feed(given, every=True)]
    program.printer.write(b"\n" * drawn[:-1].count(eos if eos is not None else -1))
    before, token_id, is_answer = given[-1], drawn[-1], len(given) == len(ids)
    while True:
        if token_id == eos:
            program.printer.write(b"\n")
        elif is_answer:
            program.printer.token(before, token_id)
        if before == eos or session.num_tokens == program.num_steps:
            return session.num_tokens < program.num_steps
        before, token_id = token_id, program.sample(session.feed([token_id])[-1])


def _ask(program: Program, question: bytes, given: str | None = None) -> str | None:
    """Read a line of standard input; None at its end."""
    if given is not None:
        return given
    program.printer.write(question)
    line = program.input.readline()
    return line.decode("utf-8", "replace").rstrip("\r\n") if line else None


MODES: Mapping[str, Callable[[Program], None]] = {"generate": generate, "chat": chat}


# ---- main -----------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> int:
    """Run the program; return its exit code: 0, or 1 for any error, as in llama2.c."""
    if arguments and arguments[0] in HELP:
        sys.stdout.write(USAGE)
        return 0
    try:
        options = parse(arguments)
    except UsageError as error:
        sys.stderr.write(f"{error.line}\n{USAGE}")
        return 1
    try:
        run(options)
    except PunaError as error:
        sys.stderr.write("".join(f"{line}\n" for line in error.typed))
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader is gone
        return 1
    except OSError as error:  # a full disk
        sys.stderr.write(f"standard output cannot be written: {error.strerror or error}\n")
        return 1
    return 0


def run(options: Options) -> None:
    """Load the model and run. Raises PunaError for what a user can fix."""
    if sys.stdout is None:
        raise PunaError("standard output is closed", hint=f"Give it a place: > FILE, or > {os.devnull}")
    path = hub.resolve(options.checkpoint)
    is_own = formats.open_checkpoint(path).format == "llama2c"
    tokenizer = options.tokenizer
    if tokenizer is None and is_own and Path("tokenizer.bin").is_file():
        tokenizer = "tokenizer.bin"
    settings: dict[str, Any] = {"kv_type": "f32", "max_batch": 1, "prefix_cache": False}
    with LLM.load(path, tokenizer=tokenizer, report=StderrReporter(), **settings) as llm:
        if llm.tokenizer is None:
            raise UsageError(f"{path} has no tokenizer, and there is no tokenizer.bin here", hint="Name one with -z.")
        session = Session(llm)
        program = Program(
            options=options,
            session=session,
            tokenizer=llm.tokenizer,
            sample=RunSampler(options.temperature, options.top_p, options.seed),
            printer=Printer(llm.tokenizer, sys.stdout.buffer, is_own),
            num_steps=min(options.num_steps, session.max_context) or session.max_context,
            stop_ids=frozenset({llm.tokenizer.bos_id}) | (frozenset() if is_own else llm.tokenizer.stop_ids),
            input=io.BytesIO() if sys.stdin is None else sys.stdin.buffer,  # None: it is closed
        )
        MODES[options.mode](program)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    try:
        sys.stdout.flush()
    except (OSError, AttributeError):  # the reader is gone, the disk is full, or it was closed: reported above
        os._exit(code or 1)
    sys.exit(code)
