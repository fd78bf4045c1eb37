"""puna perplexity: how surprised a model is by a text."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from puna.cli.interrupts import ending_soon
from puna.cli.options import (
    MODEL,
    OUTPUT,
    HeadedCommand,
    Whole,
    engine_options,
    json_option,
    load_model,
    option,
    tokenizer_option,
    under,
)
from puna.cli.standard_input import read_all
from puna.cli.terminal import TerminalReporter, print_json, shown_path, tell
from puna.errors import UsageError
from puna.progress import EVERY_S, LINE_EVERY_S, StatusLine, bar_text
from puna.units import counted

if TYPE_CHECKING:
    from puna.perplexity import Perplexity


@click.command(cls=HeadedCommand)
@click.argument("words", nargs=-1, metavar="[MODEL] FILE")
@under(
    "Windows",
    option("--context", type=Whole(low=4), metavar="N", help="Tokens of a chunk or window [512]."),
    option("--stride", type=Whole(low=1), metavar="N", help="Slide a window by N, as transformers [chunks]."),
    option("--chunks", type=Whole(low=1), metavar="N", help="Score only the first N chunks or windows [all]."),
)
@engine_options
@under(MODEL, tokenizer_option)
@under(OUTPUT, json_option)
def command(
    words: tuple[str, ...], context: int | None, stride: int | None, chunks: int | None, as_json: bool, **flags: Any
) -> None:
    """Print the perplexity of the text in FILE (- reads standard input); lower is better.

    As llama-perplexity does, it cuts the text into chunks and scores the second half of each. --stride scores each token
    after a window of those before it, as transformers' documentation does.
    """
    from puna.perplexity import perplexity, window_size

    model, text = _given(words)
    text = text if stride else text.removesuffix("\n")  # which llama-perplexity drops
    with TerminalReporter() as report:
        llm = load_model(model, flags, report, needs_template=False)
    line, size = RunningValue(), window_size(llm) if context is None else context
    with ending_soon(), llm:
        try:
            found = perplexity(llm, text, context=size, stride=stride or 0, max_windows=chunks or 0, on_window=line.show)
        finally:
            line.clear()
    seconds = time.perf_counter() - line.started
    if as_json:
        print_json(
            {"model": shown_path(llm.path), **facts(found), "context": size, "stride": stride, "seconds": round(seconds, 3)}
        )
    else:
        print(f"perplexity {found.value:.4f} ± {found.error:.4f}")
    windows = counted(found.num_windows, "window" if stride else "chunk")
    tell(f"{windows} of {size} tokens, {counted(found.num_tokens, 'token')} scored, {seconds:.1f} s")


def facts(found: Perplexity) -> dict[str, Any]:
    """The figures as JSON types; None for a perplexity that no float holds."""
    is_finite = found.value < float("inf")
    return {
        "perplexity": found.value if is_finite else None,
        "error": found.error if is_finite else None,
        "mean_nll": found.mean_nll,
        "tokens_scored": found.num_tokens,
        "windows": found.num_windows,
    }


class RunningValue:
    """The perplexity so far on stderr: one line that is redrawn on a terminal, else a line every 10 s."""

    def __init__(self) -> None:
        self._line = StatusLine(sys.stderr)
        self.started = self._shown = time.perf_counter()

    def show(self, so_far: Perplexity, total: int) -> None:
        now = time.perf_counter()
        if now - self._shown < (EVERY_S if self._line.is_terminal else LINE_EVERY_S):
            return
        self._shown, text = now, running_text(so_far, total, now - self.started)
        self._line.draw(text) if self._line.is_terminal else self._line.end(text)

    def clear(self) -> None:
        self._line.clear()


def running_text(so_far: Perplexity, total: int, seconds: float) -> str:
    """
    >>> from puna.perplexity import Perplexity
    >>> running_text(Perplexity(num_tokens=100, num_windows=4, sum_nll=200.0, sum_squares=500.0), 10, 6.0)
    'puna: perplexity 7.389 ± 0.743 [########............] 4 of 10 | 0:09 left'
    """
    left = round(seconds / so_far.num_windows * (total - so_far.num_windows))
    stage = f"perplexity {so_far.value:.3f} ± {so_far.error:.3f}"
    return f"{bar_text(stage, so_far.num_windows, total)} | {left // 60}:{left % 60:02} left"


def _given(words: tuple[str, ...]) -> tuple[str | None, str]:
    """MODEL, and the text of FILE. UsageError for another number of words, and for a file that is not UTF-8."""
    if not 1 <= len(words) <= 2:
        what = "the FILE is missing" if not words else f"{len(words)} words were given; at most two are allowed: [MODEL] FILE"
        raise UsageError(what, hint="For example: puna perplexity README.md")
    name = words[-1]
    if len(words) == 1 and name != "-" and not Path(name).is_file():
        raise UsageError(
            f"there is no file {name}", hint=f"If it is a model, add the text: puna perplexity {shlex.quote(name)} FILE"
        )
    return (words[0] if len(words) == 2 else None), read_all() if name == "-" else _read(Path(name))


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{shown_path(path)} is not UTF-8 at byte {error.start}", hint="Give a text file in UTF-8.") from error
