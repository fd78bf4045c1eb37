"""A comparison of runs for a terminal: where they part, how far apart the models are for each token, and in which layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from puna.cli.trace_view import percent, quoted
from puna.cli.width import cut, pad
from puna.cli.word_wrap import wrapped
from puna.progress import printable
from puna.units import counted

if TYPE_CHECKING:
    from puna.glassbox.diff import ComparedRun, LayerErrors, OtherRun, Parting, RunDiff, SharedCandidate

TOKEN = 16  # cells of a token's text
STEPS = " ▁▂▃▄▅▆▇█"
KL_WORDS = "How far the models are apart (KL, in nats: 0 where they agree), token by token with the first run's text:"


def diff_lines(diff: RunDiff, width: int) -> Iterator[str]:
    """The whole comparison, in lines of at most `width` cells."""
    first = diff.first
    yield from wrapped(f"The first run: {printable(first.model)} on {_how(first)}", width, "", "  ")
    yield from _answer(first, _settings(first), width)
    for other in diff.others:
        model = "" if other.run.model == first.model or other.run.model in other.run.name else f"{other.run.model} "
        yield from ("", *wrapped(printable(f"Against {other.run.name}: {model}on {_how(other.run)}"), width, "", "  "))
        settings = _settings(other.run)
        yield from _answer(other.run, settings if settings != _settings(first) else "", width)
        yield from _parting(first, other, width)
        yield from _divergence(other, width)
        yield from _layers(other, width)


def _how(run: ComparedRun) -> str:
    return f"{run.backend}, weights {run.weights}, K and V {run.kv_type}"


def _settings(run: ComparedRun) -> str:
    """The sampling parameters that a person set."""
    return printable(", ".join(f"{name} {value}" for name, value in run.settings.items() if name != "separate_reasoning"))


def _answer(run: ComparedRun, settings: str, width: int) -> Iterator[str]:
    if settings:
        yield from wrapped(settings, width, "  ", "    ")
    yield from wrapped(f"{quoted(run.text)}  ({counted(len(run.token_ids), 'token')}, {run.finish_reason})", width, "  ", "    ")


# ---- where they part --------------------------------------------------------------------------------------------------------


def _parting(first: ComparedRun, other: OtherRun, width: int) -> Iterator[str]:
    parting = other.parting
    if parting is None:
        yield from wrapped(f"The answers are the same, all {counted(other.num_equal, 'token')}.", width, "  ")
        return
    yield from wrapped(
        f"They part at token {parting.step + 1}. By the models' own probabilities, before any filter:", width, "  "
    )
    if parting.first is not None or parting.other is not None:
        yield cut(f"    {'':{TOKEN}} {'first run':>10} {'this run':>10}", width)
    for pair, whose in ((parting.first, "the first run takes it"), (parting.other, "this run takes it")):
        if pair is not None:
            yield cut(_row(pair, whose), width)
    yield from wrapped(_why(first, other, parting), width, "    ", "    ")


def _row(pair: SharedCandidate, whose: str) -> str:
    text = pad(cut(quoted(pair.first.text), TOKEN), TOKEN)
    return f"    {text} {percent(pair.first.probability):>10} {percent(pair.other.probability):>10}  {whose}"


def _why(first: ComparedRun, other: OtherRun, parting: Parting) -> str:
    """What lies between the two."""
    if parting.margin is None:
        ended = "the first run" if parting.step >= len(first.token_ids) else "this run"
        is_end = parting.step >= min(len(first.token_ids), len(other.run.token_ids))
        return f"{ended} has ended" if is_end else "nothing was sampled there: a form left no choice"
    near = "a near-tie: rounding can turn it" if parting.is_near_tie else "no near-tie"
    if parting.draw is None:
        return f"Margin {parting.margin:.2g} between their logarithms in this run: {near}"
    draw = parting.draw
    return (
        f"This run drew {draw.uniform:.6f}, and its token has {draw.low:.6f} to {draw.high:.6f}: "
        f"margin {parting.margin:.2g}, {near}"
    )


# ---- how far apart ----------------------------------------------------------------------------------------------------------


def _divergence(other: OtherRun, width: int) -> Iterator[str]:
    found = other.divergence
    if found.at is None:
        return
    if found.max == 0:
        yield from wrapped("The models agree on each token of the first answer: KL 0.", width, "  ", "  ")
    else:
        yield from wrapped(KL_WORDS, width, "  ", "  ")
        same = f"the same token is the likeliest for {percent(found.same_top)}"
        yield from wrapped(
            f"mean {found.mean:.2g}, largest {found.max:.2g} at token {found.at + 1}; {same}", width, "    ", "    "
        )
        yield from _marks(shares_of(found.per_step), width)
    if found.num_left_out:
        yield from wrapped(
            f"{counted(found.num_left_out, 'token')} were not compared: their logits do not fit.", width, "  ", "  "
        )


def _layers(other: OtherRun, width: int) -> Iterator[str]:
    layers = other.layers
    if layers is None:
        yield from wrapped(f"Layers are not compared: {printable(other.why_no_layers)}.", width, "  ", "  ")
    elif layers.first is None:
        yield from wrapped(f"Hidden states: no layer differs, at {counted(layers.num_positions, 'position')}.", width, "  ", "  ")
    else:
        yield from wrapped(f"{_first_layer(layers)}; layer by layer, from the embedding:", width, "  ", "  ")
        yield from _marks(shares_of(layers.errors), width)


def _first_layer(layers: LayerErrors) -> str:
    assert layers.first is not None
    name = "the embedding" if layers.first == 0 else f"layer {layers.first}"
    error, last = layers.errors[layers.first], layers.errors[-1]
    told = "" if error is None else f" by {error:.1g} of their size"
    end = "" if last is None or layers.first == len(layers.errors) - 1 else f", in the end by {last:.1g}"
    return f"Hidden states differ from {name} on{told}{end}"


def _marks(marks: str, width: int) -> Iterator[str]:
    """Marks in lines."""
    size = max(1, width - 6)
    for first in range(0, len(marks), size):
        yield f"    {marks[first : first + size]}"


def shares_of(values: Sequence[float | None]) -> str:
    """A mark for each value, as high as its share of the largest; a blank for 0.

    >>> shares_of([0.0, 0.01, 0.5, 1.0, None])
    ' ▁▄█?'
    """
    largest = max((value for value in values if value is not None), default=0.0)
    return "".join("?" if value is None else STEPS[math.ceil(value / largest * 8) if value else 0] for value in values)
