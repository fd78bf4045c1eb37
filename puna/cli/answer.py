"""One answer: streamed to stdout as it comes, told about on stderr when it has ended."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from puna.cli.terminal import printable, tell
from puna.detokenize import token_text
from puna.errors import PunaError
from puna.request import FinishReason

if TYPE_CHECKING:
    from puna.llm import LLM, Completion, Stream
    from puna.request import TokenLogprob
    from puna.tokenizers.base import Tokenizer


def stream_text(stream: Stream, out: TextIO | None) -> float:
    """Write the pieces of an answer to `out` as they come; return the time.perf_counter() of the first token (0: none came)."""
    first = 0.0
    for piece in stream:
        if piece.token_ids and not first:
            first = time.perf_counter()
        if out is not None and piece.text:
            out.write(piece.text)
            out.flush()
    return first


def require_success(completion: Completion) -> None:
    """PunaError where the sequence failed."""
    if completion.finish_reason is FinishReason.ERROR:
        raise PunaError(f"the answer broke off: {completion.error}")


def cut_short(completion: Completion, llm: LLM) -> str:
    """Why an answer ends where the model would have gone on; "" where the model ended it."""
    if completion.finish_reason is not FinishReason.LENGTH:
        return ""
    used = len(completion.prompt_ids) + len(completion.token_ids)
    if used >= llm.plan.max_context:
        return f"cut: the context is full, {used} of {llm.plan.max_context} tokens"
    return f"cut after {len(completion.token_ids)} tokens (--max-tokens)"


def process_started() -> float:
    """When this process began, on the clock of time.perf_counter(): to 10 ms on Linux; elsewhere now."""
    try:
        stat = Path("/proc/self/stat").read_text("ascii", errors="replace")
        began = int(stat.rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")  # field 22, since boot
        up = float(Path("/proc/uptime").read_text("ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return time.perf_counter()
    return time.perf_counter() - (up - began)


def speeds(completion: Completion, load_s: float, first_after_start_s: float | None) -> dict[str, Any]:
    """The statistics of a run, in the types of JSON. None: there was no such moment."""
    timing = completion.timing
    return {
        "load_s": round(load_s, 4),
        "prompt_tokens": len(completion.prompt_ids),
        "cached_tokens": completion.num_cached,
        "prefill_tokens_per_s": round(timing.prefill_per_s, 2),
        "output_tokens": len(completion.token_ids),
        "decode_tokens_per_s": round(timing.decode_per_s, 2),
        "time_to_first_token_s": round(timing.first_token_s, 4) if completion.token_ids else None,
        "first_token_after_process_start_s": None if first_after_start_s is None else round(first_after_start_s, 4),
    }


def speeds_line(facts: dict[str, Any]) -> str:
    """The same for people, on one line."""
    prompt, output, first = facts["prompt_tokens"], facts["output_tokens"], facts["first_token_after_process_start_s"]
    return (
        f"load {facts['load_s']:.2f} s | prompt {prompt} tokens, {facts['prefill_tokens_per_s']:.0f} tok/s | "
        f"answer {output} tokens, {facts['decode_tokens_per_s']:.1f} tok/s"
    ) + ("" if first is None else f" | first token {first:.2f} s after process start")


def completion_facts(completion: Completion, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """A completion in the types of JSON."""
    return {
        "text": completion.text,
        "finish_reason": completion.finish_reason.value,
        "stop_reason": completion.stop_reason,
        "token_ids": list(completion.token_ids),
        "token_texts": [token_text(tokenizer, i) for i in completion.token_ids],
        "logprobs": [_logprob_facts(entry) for entry in completion.logprobs] or None,
        "seed": completion.seed,
    }


def _logprob_facts(entry: TokenLogprob) -> dict[str, Any]:
    top = [{"id": i, "text": text, "logprob": p} for (i, p), text in zip(entry.top, entry.top_texts, strict=True)]
    return {"id": entry.token_id, "text": entry.text, "logprob": entry.logprob, "top": top}


def tell_logprobs(completion: Completion, tokenizer: Tokenizer | None) -> None:
    """A line per token on stderr: the chosen one and the most likely."""

    def shown(token_id: int, logprob: float) -> str:
        piece = printable(tokenizer.piece(token_id)) if tokenizer else str(token_id)
        return f"{piece!r} {logprob:.4f}"

    for entry in completion.logprobs:
        tell("  ".join([shown(entry.token_id, entry.logprob), *(f"| {shown(i, p)}" for i, p in entry.top)]))


def end_line() -> None:
    """The newline after an answer."""
    sys.stdout.write("\n")
    sys.stdout.flush()
