"""The layers of a trace for a terminal: the logit lens as a table of layers and positions, attention as bars and shades."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from puna.cli.signs import bar_of, shade_of
from puna.cli.trace_view import percent, quoted, shown
from puna.cli.width import cut, display_width, pad
from puna.cli.word_wrap import wrapped
from puna.units import counted

if TYPE_CHECKING:
    from puna.glassbox.trace import Trace, TracedLayer, TracedLayers, TracedPosition

Floats = npt.NDArray[np.float64]

LABEL = 6  # cells of a layer's number
CELL = 14  # of a token and its probability
TOKEN = 8  # of those, of the token
MAX_ROWS = 33  # of a table; of a deeper model, layers at equal distances are shown
NUM_SOURCES = 6  # positions that a picture of attention names
NUM_OF_HEAD = 3  # the same for one head
BAR = 8  # cells
STRIP_AT = 39  # where the title of the strips of shades stands
LENS_WORDS = (
    "What the model would say if it ended after a layer (the logit lens): the likeliest token there and its probability. Read a "
    "column downwards, from the embedding (0) to the model's own answer. * marks the token that was taken; the last row says "
    "from which layer on it is the likeliest."
)
ATTENTION_WORDS = (
    "Where the heads looked: the weight of a position, as the mean of all heads, then layer by layer from the first to the last: "
    "blank below 2%, ░ from 2%, ▒ from 10%, ▓ from 25%, █ from 50%. Weights of a head sum to 100%; a head that needs nothing "
    "mostly looks at the very first token."
)


def layers_lines(trace: Trace, width: int, heads_of: int | None = None) -> Iterator[str]:
    """What a trace knows of the layers, in lines of at most `width` cells. `heads_of`: show each head of this layer."""
    layers = trace.layers
    if layers is None:
        return
    yield from ("", *wrapped("Inside: layer by layer", width))
    if layers.positions:
        yield from wrapped(LENS_WORDS, width, "  ", "  ")
        size = max(1, (width - LABEL) // CELL)
        for first in range(0, len(layers.positions), size):
            yield from ("", *_lens(layers.positions[first : first + size]))
        yield from ("", *wrapped(ATTENTION_WORDS, width, "  ", "  "))
        texts = _texts(trace)
        for position in layers.positions:
            title = f"{_name(position)} {shown(position.taken.text)} after {shown(position.token.text)}"
            yield from ("", *wrapped(title if heads_of else f"{pad(title, STRIP_AT)} layers 1 to {layers.num_layers}", width))
            yield from _heads(position, heads_of, texts, width) if heads_of else _attention(position, texts, width)
    yield from ("", *_foot(layers, width))


def _foot(layers: TracedLayers, width: int) -> Iterator[str]:
    if layers.num_left_out:
        yield from wrapped(f"The trace is full: {counted(layers.num_left_out, 'further position')} left out.", width)
    elif not layers.positions:
        yield from wrapped("None of the chosen positions is in this answer.", width)
    told = "" if layers.distance is None else f" Its logits differ from the run's by {layers.distance:.2g} at most."
    source = f"These numbers come from a second pass of {layers.total_s:.1f} s by {layers.arithmetic}; the run rounds otherwise."
    yield from wrapped(source + told, width)


def _texts(trace: Trace) -> list[str]:
    """The text of each token of prompt and answer, as far as the trace holds them."""
    known = {one.position: one.token.text for one in trace.layers.positions} if trace.layers else {}
    texts = [token.text for token in trace.prompt.tokens]
    texts += ["?"] * (trace.prompt.num_tokens - len(texts)) + [step.token.text for step in trace.steps]
    texts += ["?"] * (trace.prompt.num_tokens + len(trace.token_ids) - len(texts))  # of steps that the trace has no room for
    return [known.get(position, text) for position, text in enumerate(texts)]


def _name(position: TracedPosition) -> str:
    """The number of the token that follows, as the steps are numbered; of the prompt's tokens, their places from 0."""
    return f"prompt {position.position + 1}:" if position.step is None else f"{position.step + 1}."


# ---- the lens ---------------------------------------------------------------------------------------------------------------


def _lens(positions: Sequence[TracedPosition]) -> Iterator[str]:
    """One table."""
    yield _row("layer", (f"{_name(one).replace('prompt ', '@')} {cut(quoted(one.taken.text), TOKEN)}" for one in positions))
    depth = len(positions[0].layers)
    for layer in _some(depth):
        yield _row(str(layer), (_cell(one.layers[layer]) for one in positions))
    yield _row("first", (_settled(one) for one in positions))


def _row(label: str, cells: Iterable[str]) -> str:
    return "".join([f"{label:>{LABEL - 1}} ", *(pad(cut(cell, CELL), CELL) for cell in cells)]).rstrip()


def _cell(layer: TracedLayer) -> str:
    if not layer.top:
        return ""
    best = layer.top[0]
    mark = "*" if best.id == layer.taken.id else " "
    return f"{pad(cut(quoted(best.text), TOKEN), TOKEN)}{best.probability:>4.0%}{mark}"


def _settled(position: TracedPosition) -> str:
    """From which layer on the taken token is the likeliest, to the end."""
    depth = len(position.layers)
    first = next((n for n in range(depth, 0, -1) if position.layers[n - 1].rank != 1), 0)
    return "not first" if first == depth else f"from {first} on"


def _some(depth: int) -> list[int]:
    """All layers, or as many as a table shows, always the first and the last.

    >>> _some(3), len(_some(81)), _some(81)[:3], _some(81)[-1]
    ([0, 1, 2], 33, [0, 2, 5], 80)
    """
    return sorted({round(number) for number in np.linspace(0, depth - 1, min(depth, MAX_ROWS)).tolist()})


# ---- attention --------------------------------------------------------------------------------------------------------------


def _weights(position: TracedPosition) -> Floats:
    """The weight of each position, as the mean of the heads of each layer.  # (layers, positions)"""
    seen = np.zeros((len(position.layers) - 1, position.position + 1))
    for own, layer in zip(seen, position.layers[1:], strict=True):
        own[layer.first or 0 :] = np.mean(layer.attention or ((0.0,),), axis=0)
    return seen


def _attention(position: TracedPosition, texts: Sequence[str], width: int) -> Iterator[str]:
    """The positions that weigh most, each with a bar and a strip of its weight in each layer."""
    seen = _weights(position)
    means = seen.mean(axis=0)
    for source in _largest(means, NUM_SOURCES):
        line = f"{_source(source, texts, float(means[source]))}  "
        yield cut(f"{line}{_strip(seen[:, source], max(1, width - display_width(line)))}".rstrip(), width)


def _source(source: int, texts: Sequence[str], share: float) -> str:
    text = pad(cut(quoted(texts[source]), CELL), CELL)
    return f"  {source:>5} {text} {pad(bar_of(share, BAR), BAR)} {percent(share):>6}"


def _largest(shares: Floats, count: int) -> list[int]:
    return [int(place) for place in np.argsort(-shares, kind="stable")[:count]]


def _strip(shares: Floats, cells: int) -> str:
    """A shade for each layer; where there are more layers than cells, for the largest of some neighbours.

    >>> _strip(np.array([0.01, 0.05, 0.2, 0.3, 0.9]), 5), _strip(np.array([0.01, 0.05, 0.2, 0.9]), 2)
    (' ░▒▓█', '░█')
    """
    parts = np.array_split(shares, min(cells, len(shares)))
    return "".join(shade_of(float(part.max())) for part in parts)


def _heads(position: TracedPosition, layer: int, texts: Sequence[str], width: int) -> Iterator[str]:
    """Each head of a layer, with the positions that weigh most for it."""
    own = position.layers[layer]
    for number, weights in enumerate(own.attention or (), start=1):
        shares = np.array(weights)
        line = f"  layer {layer} head {number:<3}"
        for source in _largest(shares, NUM_OF_HEAD):
            place = source + (own.first or 0)
            longer = f"{line} {bar_of(float(shares[source]), BAR) or '▏'} {percent(float(shares[source]))} {shown(texts[place])}"
            if display_width(longer) > width:
                break
            line = longer
        yield line
