"""Streams one answer to stdout; at the end its statistics go to stderr."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from puna.cli.terminal import tell
from puna.cli.thoughts import Thoughts
from puna.cli.width import terminal_width
from puna.cli.word_wrap import WordWrap
from puna.detokenize import token_text
from puna.errors import PunaError
from puna.request import FinishReason
from puna.units import counted

if TYPE_CHECKING:
    from puna.cli.remote import RemoteLLM
    from puna.cli.remote_stream import RemoteStream
    from puna.completion import Completion
    from puna.llm import LLM, Stream
    from puna.request import TokenLogprob
    from puna.tokenizers.base import Tokenizer

    AnyLLM = LLM | RemoteLLM  # a model in this process, or in a running server
    AnyStream = Stream | RemoteStream

HALVES = "\ufffd\u200d"  # U+FFFD of an incomplete character, and the joiner of an incomplete emoji


@dataclass(slots=True)
class Heard:
    """Facts about an answer that was streamed."""

    first_token: float = 0.0  # time.perf_counter() of the first token; 0: there was none
    is_stopped: bool = False


def stream_text(
    stream: AnyStream,
    out: TextIO | None,
    is_stopped: Callable[[], bool] = lambda: False,
    on_text: Callable[[str], None] = lambda text: None,
) -> Heard:
    """Write an answer to `out` as it is made: wrapped at words on a terminal, else byte for byte. None: write nothing.

    Reasoning goes to stderr, if it is told apart.

    Ends early once `is_stopped` says so; it is asked between two steps. `on_text` receives each piece.
    """
    heard, thoughts = Heard(), Thoughts(is_shown=out is not None)
    wrap = None if out is None else wrap_for(out)
    try:
        for piece in stream:
            heard.first_token = heard.first_token or (time.perf_counter() if piece.token_ids else 0.0)
            text = whole_characters(piece.text, piece.finish_reason)
            on_text(text)
            thoughts.show(piece.reasoning)
            if text:
                thoughts.end()
            _write(out, text if wrap is None else wrap.feed(text))
            if is_stopped():
                heard.is_stopped = True
                break
    finally:
        thoughts.end()
        _write(out, "" if wrap is None else wrap.finish())
    return heard


def wrap_for(out: TextIO) -> WordWrap | None:
    """What wraps an answer at words; None where `out` is no terminal, and gets it byte for byte."""
    return WordWrap(lambda: terminal_width(out)) if out.isatty() else None


def write_whole(out: TextIO, text: str) -> None:
    """Write an answer that is complete, as `stream_text` writes its pieces, and end the line."""
    wrap = wrap_for(out)
    _write(out, text if wrap is None else wrap.feed(text) + wrap.finish())
    _write(out, "\n")


def _write(out: TextIO | None, text: str) -> None:
    if out is not None and text:
        out.write(text)
        out.flush()


CUT = (FinishReason.LENGTH, FinishReason.ABORT, FinishReason.TIMEOUT)  # the text may end within a character


def whole_characters(text: str, reason: FinishReason | None) -> str:
    """The end of an answer without half a character, which a limit on tokens can leave.

    >>> whole_characters("a llama \ufffd", FinishReason.LENGTH), whole_characters("\ufffd", FinishReason.STOP)
    ('a llama ', '\ufffd')
    """
    return text.rstrip(HALVES) if reason in CUT else text


def require_success(completion: Completion) -> None:
    """PunaError if the sequence failed."""
    if completion.finish_reason is FinishReason.ERROR:
        raise PunaError(f"the answer broke off: {completion.error}")


def interrupted(completion: Completion) -> str:
    """What to say of an answer that Ctrl-C ended."""
    count = len(completion.token_ids)
    return (
        f"puna: interrupted: the answer ends after {counted(count, 'token')}"
        if count
        else "puna: interrupted before the answer began"
    )


def told_of_reasoning(completion: Completion) -> str:
    """What to say of reasoning that a limit ended; "" of none."""
    count = counted(completion.num_reasoning_tokens, "token")
    if completion.is_reasoning_cut:
        return f"the budget ended the thinking after {count}"
    is_unfinished = completion.reasoning is not None and not completion.text and completion.finish_reason is FinishReason.LENGTH
    return f"the model was still thinking: {count}" if is_unfinished else ""


def told_of_shift(completion: Completion) -> str:
    """What to say of a context that was shifted; "" if it was not."""
    count = counted(completion.num_dropped, "token")
    return f"the context was full: the answer goes on without {count} of its beginning" if completion.num_dropped else ""


CONTEXT_IS_FULL = "cut: the context is full"
LONGER, LARGER = "-n {} (--max-tokens)", "--max-context {}"  # what allows a longer answer, a larger context


def cut_short(completion: Completion, llm: AnyLLM, longer: str = LONGER, larger: str = LARGER) -> str:
    """Why an answer ends before the model ended it, and what allows more of it; "" if the model ended it."""
    if completion.finish_reason is FinishReason.TIMEOUT:
        return f"cut after {counted(len(completion.token_ids), 'token')}: the seconds of --timeout have passed"
    if completion.finish_reason is not FinishReason.LENGTH:
        return ""
    count, limit, largest = len(completion.token_ids), llm.plan.max_context, llm.model.max_context
    used = len(completion.prompt_ids) + count
    if used < limit:
        return f"cut after {counted(count, 'token')}: {longer.format(2 * count)} allows more"
    why = f"{CONTEXT_IS_FULL}, {used} of {limit} tokens"
    if limit == largest:
        return f"{why}, and the model has no larger one"
    return f"{why}: {larger.format(min(2 * limit, largest))} allows more" if larger else why


def process_started() -> float:
    """When this process began, on the clock of time.perf_counter(): exact to 10 ms on Linux; elsewhere the current time."""
    try:
        stat = Path("/proc/self/stat").read_text("ascii", errors="replace")
        began = int(stat.rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")  # field 22, since boot
        up = float(Path("/proc/uptime").read_text("ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return time.perf_counter()
    return time.perf_counter() - (up - began)


def speeds(completion: Completion, load_s: float, first_after_start_s: float | None) -> dict[str, Any]:
    """The statistics of a run as JSON types; None for an event that did not happen."""
    timing = completion.timing
    return {
        "load_s": round(load_s, 4),
        "prompt_tokens": len(completion.prompt_ids),
        "cached_tokens": completion.num_cached,
        "prefill_tokens_per_s": round(timing.prefill_per_s, 2),
        "output_tokens": len(completion.token_ids),
        "drafted_tokens": timing.num_drafted,
        "accepted_tokens": timing.num_accepted,
        "decode_tokens_per_s": round(timing.decode_per_s, 2),
        "time_to_first_token_s": round(timing.first_token_s, 4) if completion.token_ids else None,
        "first_token_after_process_start_s": None if first_after_start_s is None else round(first_after_start_s, 4),
    }


def speeds_of_several(choices: Sequence[Completion]) -> dict[str, Any]:
    """Of the statistics, those that several answers have together."""
    total_s = max(one.timing.total_s for one in choices) - min(one.timing.first_token_s for one in choices)
    after_first = sum(len(one.token_ids) for one in choices) - len(choices)
    return {
        "prefill_tokens_per_s": round(max(one.timing.prefill_per_s for one in choices), 2),  # of the one that computed the prompt
        "output_tokens": after_first + len(choices),
        "drafted_tokens": sum(one.timing.num_drafted for one in choices),
        "accepted_tokens": sum(one.timing.num_accepted for one in choices),
        "decode_tokens_per_s": round(after_first / total_s, 2) if total_s > 0 else 0.0,
    }


def speeds_lines(facts: dict[str, Any]) -> tuple[str, ...]:
    """The statistics as text."""
    first, drafted = facts["first_token_after_process_start_s"], facts["drafted_tokens"]
    return (
        f"load {facts['load_s']:.2f} s" + ("" if first is None else f" | first token {first:.2f} s after process start"),
        f"prompt {counted(facts['prompt_tokens'], 'token')}{rate(facts['prefill_tokens_per_s'], 0)} | "
        f"answer {counted(facts['output_tokens'], 'token')}{rate(facts['decode_tokens_per_s'], 1)}",
        *([f"of {counted(drafted, 'guessed token')}, {_right(facts['accepted_tokens'])}"] if drafted else []),
    )


def _right(count: int) -> str:
    return f"{count} {'was' if count == 1 else 'were'} right"


def rate(per_s: float, digits: int) -> str:
    """A speed behind a count; "" where none was measured: one token, all at once, or an answer of a server that was stopped.

    >>> rate(42.26, 1), rate(0.0, 1)
    (', 42.3 tok/s', '')
    """
    return f", {per_s:.{digits}f} tok/s" if per_s else ""


def completion_facts(completion: Completion, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """A completion as JSON types."""
    return {
        "text": completion.text,
        "reasoning": completion.reasoning,
        "finish_reason": completion.finish_reason.value,
        "stop_reason": completion.stop_reason,
        "token_ids": list(completion.token_ids),
        "token_texts": [token_text(tokenizer, i) for i in completion.token_ids],
        "logprobs": [_logprob_facts(entry) for entry in completion.logprobs] or None,
        "seed": completion.seed,
    }


def _logprob_facts(entry: TokenLogprob) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "id": entry.token_id,
        "text": entry.text,
        "bytes": list(entry.bytes),
        "logprob": entry.logprob if math.isfinite(entry.logprob) else None,  # of a token that a budget forced on the filters
        "top": [
            {"id": token_id, "text": text, "bytes": list(data), "logprob": logprob}
            for (token_id, logprob), text, data in zip(entry.top, entry.top_texts, entry.top_bytes, strict=True)
        ],
    }
    return facts if entry.processed is None else facts | {"processed": _logprob_facts(entry.processed)}


def tell_logprobs(completion: Completion, tokenizer: Tokenizer | None) -> None:
    """One line per token on stderr: the sampled one, and the most likely ones."""
    for entry in completion.logprobs:
        for line, mark in ((entry, ""), (entry.processed, "  after the filters: ")):
            if line is not None:
                entries = [(line.token_id, line.logprob), *line.top]
                names = map(partial(_spelled, tokenizer), entries, (line.text, *line.top_texts), (line.bytes, *line.top_bytes))
                tell(mark + "  | ".join(names))


def _spelled(tokenizer: Tokenizer | None, entry: tuple[int, float], text: str, data: bytes) -> str:
    """A token for people, by its text, or its bytes if these are no whole characters; and its log-probability."""
    name = str(entry[0]) if tokenizer is None else repr(data if "\ufffd" in text else text)
    return f"{name} {entry[1]:.4f}"


def end_line() -> None:
    """The newline after an answer."""
    sys.stdout.write("\n")
    sys.stdout.flush()
