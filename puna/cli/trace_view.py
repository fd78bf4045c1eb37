"""A trace for a terminal: the prompt as the model gets it, what each filter left and removed at each step, and the draw."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from puna.cli.width import cut, display_width
from puna.cli.word_wrap import KEPT, wrapped
from puna.progress import printable
from puna.units import counted, kib, mib_or_gib

if TYPE_CHECKING:
    from puna.glassbox.trace import Candidate, Removal, Stage, Trace, TracedPrompt, TracedStep, TracedToken

TOKEN_WIDTH = 14  # cells of a token's text
NAME_WIDTH = 13
TERMS = (
    "left: tokens that can still be taken. bits: how open the choice is (0: one certain token; 1: two equally likely ones). "
    "log: the natural logarithm of a probability. Each row has the likeliest tokens, and their probabilities at that stage."
)


def trace_lines(trace: Trace, width: int) -> Iterator[str]:
    """The whole trace, in lines of at most `width` cells."""
    yield from _prompt(trace.prompt, width)
    yield from _batch(trace, width)
    yield from _filters(trace, width)
    for step in trace.steps:
        yield from _step(step, width)
    if trace.num_left_out:
        left_out = counted(trace.num_left_out, "further token")
        yield from _paragraph(
            f"The trace is full: {left_out} left out. A higher --limit, or a lower --top, leaves more room.", width
        )
    yield from ("", *wrapped(f"The answer: {quoted(trace.text)}", width, "", "  "))
    times = (
        f"{counted(len(trace.token_ids), 'token')}, the first after {trace.first_token_s:.2f} s, all after {trace.total_s:.2f} s"
    )
    yield from _paragraph(f"It ends because {trace.why}. {times}.", width)
    yield from _traffic(trace, width)


def _traffic(trace: Trace, width: int) -> Iterator[str]:
    """What a step waits for: memory. The kernels fuse matrices and attention, so the two cannot be timed apart."""
    kv_bytes = next((step.kv_bytes for step in reversed(trace.steps) if step.kv_bytes), 0)
    if kv_bytes:
        share = percent(kv_bytes / (kv_bytes + trace.weights_bytes))
        read = (
            f"{mib_or_gib(trace.weights_bytes)} of weights for its matrices and {mib_or_gib(kv_bytes)} of K and V for attention"
        )
        yield from _paragraph(f"The last step read {read}: {share} of it (by bytes; the two are not timed apart).", width)


# ---- before the first step --------------------------------------------------------------------------------------------------


def _prompt(prompt: TracedPrompt, width: int) -> Iterator[str]:
    yield "The prompt, as the model reads it"
    for line in prompt.text.split("\n"):
        yield from wrapped(printable(line), width, "  | ")
    cached = f"{prompt.num_cached} from the prefix cache, " if prompt.num_cached else ""
    yield from _paragraph(f"  {counted(prompt.num_tokens, 'token')}, {cached}{prompt.tokenizer_s * 1000:.1f} ms:", width)
    yield from wrapped(" ".join(map(_numbered, prompt.tokens)), width, "  ")
    if prompt.num_left_out:
        yield f"  and {prompt.num_left_out} more"
    yield ""


def _numbered(token: TracedToken) -> str:
    return f"{token.id}:{printable(token.piece) or '?'}"


def _batch(trace: Trace, width: int) -> Iterator[str]:
    first = trace.steps[0].computed if trace.steps else ()
    chunks = " and ".join(f"{one.first}..{one.last - 1}" for one in first)
    yield "The batch"
    yield from wrapped(_rectangle(trace.prompt), width, "  ", "    ")
    yield from wrapped(f"puna: no padding. It computes the tokens {chunks or 'none'}, then one a step.", width, "  ", "    ")
    yield ""


def _rectangle(prompt: TracedPrompt) -> str:
    """The batch of Meta's `generate`, in words."""
    padded, own = prompt.padded, prompt.num_tokens
    (rows, columns), pads = padded.shape, sum(padded.num_pads)
    shape = f"Meta's generate: {rows} x {columns} places, {rows * columns - pads} tokens and {pads} of padding ({padded.pad_id})"
    if rows == 1:
        return f"{shape}; the mask is true for the {own}."
    forced = padded.num_forced[padded.row]
    reads = f"; then it reads the other {forced} of this row, one a step, beside what the shorter ones generate" if forced else ""
    return (
        f"{shape}. This prompt is row {padded.row + 1}, whose mask is true for its {own}. "
        f"The first step computes {counted(padded.num_prefilled, 'column')}{reads}."
    )


def _filters(trace: Trace, width: int) -> Iterator[str]:
    taken = "the likeliest token is taken" if trace.seed is None else f"one number is drawn (seed {trace.seed})"
    yield from wrapped(f"At each step, {'in this order; then ' if trace.filters else ''}{taken}", width, "", "  ")
    for one in trace.filters:
        settings = ", ".join(f"{name} {json.dumps(value, ensure_ascii=False)}" for name, value in one.settings.items())
        yield from wrapped(printable(f"{one.name}: {settings}. {one.explanation}"), width, "  ", "    ")
    yield from wrapped(TERMS, width, "  ", "  ")


# ---- a step -----------------------------------------------------------------------------------------------------------------


def _step(step: TracedStep, width: int) -> Iterator[str]:
    yield ""
    yield from _paragraph(f"{step.index + 1}. {shown(step.token.text)}{_standing(step)}", width)
    if step.stages:
        yield f"  {'':{NAME_WIDTH}} {'left':>7} {'bits':>5}"
    for stage in step.stages:
        yield _row(stage, width)
        if stage.uniform is not None:
            yield f"    - for itself, {stage.name} drew {stage.uniform:.6f}"
        if stage.cut is not None:
            yield from wrapped(_removed(stage.cut), width, "    ", "    ")
    if step.draw is not None:
        draw = step.draw
        taken = f"{draw.uniform:.6f} was drawn; {shown(step.token.text)} has {draw.low:.6f} to {draw.high:.6f}"
        yield from wrapped(taken, width, "  ", "    ")


def _standing(step: TracedStep) -> str:
    """The token's place among the model's own candidates, and what it cost."""
    if step.logprob is None or step.model_s is None or step.sampling_s is None:
        return "  follows from the form of the answer: nothing was sampled"
    times = f"model {step.model_s * 1000:.1f} ms, sampling {step.sampling_s * 1000:.1f} ms"
    return f"  rank {step.rank}, log {step.logprob:.4f}; {times}, K/V {kib(step.kv_bytes or 0)}"


def _row(stage: Stage, width: int) -> str:
    line = f"  {cut(stage.name, NAME_WIDTH):{NAME_WIDTH}} {stage.num_candidates:>7} {stage.entropy_bits:>5.2f}"
    for candidate in stage.top:
        longer = f"{line}  {_likely(candidate)}"
        if display_width(longer) > width:
            break
        line = longer
    return line


def _likely(candidate: Candidate) -> str:
    return f"{shown(candidate.text)} {percent(candidate.probability)}"


def _removed(removed: Removal) -> str:
    first, last = (_likely(one).replace(" ", KEPT) for one in (removed.first_removed, removed.last_kept))
    count = counted(removed.num_removed, "token")
    return f"- {count}, together {percent(removed.probability)}: {first} and less. The last to stay: {last}"


def percent(probability: float) -> str:
    """A probability for people.

    >>> percent(0.2787), percent(0.00002), percent(1.0)
    ('27.9%', '<0.1%', '100.0%')
    """
    return f"{probability:.1%}" if probability >= 0.001 or probability == 0 else "<0.1%"


def shown(text: str) -> str:
    return cut(quoted(text), TOKEN_WIDTH)


def quoted(text: str) -> str:
    return printable(json.dumps(text, ensure_ascii=False))


def _paragraph(text: str, width: int) -> list[str]:
    return wrapped(printable(text.strip()), width, text[: len(text) - len(text.lstrip())])
