"""The tour of sampling: from one real row of logits to the token that is taken."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from puna import filters, philox, sampling
from puna.beam_search import logits_after
from puna.explain.code import code_of
from puna.explain.live import LiveModel
from puna.explain.parts import Bar, Bars, NumberLine, Segment, TextTable, TourPart
from puna.explain.words import Words
from puna.filters import REMOVED, masses_of
from puna.glassbox.recorder import entropy_bits
from puna.history import History, Row
from puna.request import SAMPLERS, SamplingParams

EXAMPLE = "My cat likes to"
TOP = 8  # tokens that are shown
TEMPERATURES = (0.5, 1.0, 1.5)
NUCLEUS, WIDE_NUCLEUS = 0.5, 0.9
WARM, HOT = 0.7, 1.5
SEED, DRAWS = 42, 1000


def tour(live: LiveModel, say: Words, text: str) -> Iterator[TourPart]:
    ids = live.ids(text)
    (logits,) = logits_after(live.llm.runner, ids)([()])
    yield _scores(live, say, text, logits)
    yield _temperature(live, say, logits)
    yield _nucleus(live, say, logits)
    yield _order(say, logits)
    yield _many(live, say, logits)
    yield _draw(live, say, logits)


def shares_of(logits: Row) -> Row:
    """Probabilities: e to the power of each logit, divided by their sum.  # (vocab_size,)"""
    masses = masses_of(logits).astype(np.float64)
    return np.asarray(masses / masses.sum())


def likeliest(logits: Row, count: int = TOP) -> list[int]:
    """The ids of the largest logits, the best first."""
    return [int(one) for one in np.argsort(-logits, kind="stable")[:count] if logits[one] > REMOVED]


def heated(logits: Row, temperature: float) -> Row:
    return filters.temperature(logits, SamplingParams(temperature=temperature), History())


def cut_at(logits: Row, top_p: float) -> Row:
    """The row after top-p: what it removes is at -inf."""
    return filters.top_p(logits, SamplingParams(temperature=1.0, top_p=top_p), History())


def num_left(logits: Row) -> int:
    return int((logits > REMOVED).sum())


def _scores(live: LiveModel, say: Words, text: str, logits: Row) -> TourPart:
    shares, best = shares_of(logits), likeliest(logits)
    bars = [
        Bar(
            live.quoted(one),
            float(shares[one] / shares[best[0]]),
            f"{say.number(logits[one], '6.2f')} {say.number(shares[one], '6.1%')}",
        )
        for one in best
    ]
    facts = {
        "text": text,
        "count": len(logits),
        "best": live.quoted(best[0]),
        "share": float(shares[best[0]]),
        "together": float(shares[best].sum()),
        "top": len(best),
        "bits": entropy_bits(logits),
        "as_many": 2 ** entropy_bits(logits),
    }
    return TourPart.of(
        say("scores.title"),
        say.prose("scores.text", **facts),
        Bars(tuple(bars)),
        say.prose("scores.after", **facts),
        code_of(masses_of),
    )


def _temperature(live: LiveModel, say: Words, logits: Row) -> TourPart:
    best = likeliest(logits)
    columns = [shares_of(heated(logits, temperature)) for temperature in TEMPERATURES]
    rows = [(live.quoted(one), *(say.number(shares[one], ".1%") for shares in columns)) for one in best]
    needed = [num_left(cut_at(heated(logits, temperature), WIDE_NUCLEUS)) for temperature in TEMPERATURES]
    head = (say("temperature.token"), *(f"T = {say.number(temperature, '.1f')}" for temperature in TEMPERATURES))
    last = (say("temperature.needed", share=WIDE_NUCLEUS), *map(str, needed))
    first, second = (float(logits[one]) for one in best[:2])
    return TourPart.of(
        say("temperature.title"),
        say.prose(
            "temperature.text", gap=first - second, ratio=float(np.exp(first - second)), half=float(np.exp(2 * (first - second)))
        ),
        TextTable(head, (*rows, last)),
        say.prose("temperature.after"),
        code_of(filters.temperature),
        code_of(filters._divided),
    )


def _nucleus(live: LiveModel, say: Words, logits: Row) -> TourPart:
    shares, kept = shares_of(logits), cut_at(logits, NUCLEUS)
    count = num_left(kept)
    order = likeliest(logits, count + 3)
    sums = np.cumsum(shares[order])
    rows = [
        (str(rank), live.quoted(one), say.number(shares[one], ".1%"), say.number(total, ".1%"), _fate(say, rank, count))
        for rank, (one, total) in enumerate(zip(order, sums), start=1)
    ]
    shown = rows if len(rows) <= 14 else [*rows[:5], ("", "...", "", "", ""), *rows[-7:]]
    return TourPart.of(
        say("nucleus.title"),
        say.prose("nucleus.text", top_p=NUCLEUS),
        TextTable(say.head("nucleus.head"), tuple(shown)),
        say.prose("nucleus.after", count=count, removed=len(logits) - count, lost=float(1 - shares[kept > REMOVED].sum())),
        code_of(filters.top_p),
        code_of(filters._nucleus),
    )


def _fate(say: Words, rank: int, count: int) -> str:
    return say("nucleus.stays" if rank < count else "nucleus.crosses" if rank == count else "nucleus.goes")


def _order(say: Words, logits: Row) -> TourPart:
    first, last = num_left(cut_at(heated(logits, HOT), WIDE_NUCLEUS)), num_left(heated(cut_at(logits, WIDE_NUCLEUS), HOT))
    order = ", ".join(SAMPLERS)
    return TourPart.of(
        say("order.title"),
        say.prose("order.text", top_p=WIDE_NUCLEUS, temperature=HOT, first=first, last=last, order=order),
        code_of(sampling.candidates),
    )


def filtered(logits: Row) -> Row:
    """As a request with top_p and temperature filters it."""
    params = SamplingParams(temperature=WARM, top_p=NUCLEUS, seed=SEED)
    return sampling.apply(filters.make_steps(params), logits, params, History())


def _many(live: LiveModel, say: Words, logits: Row) -> TourPart:
    row = filtered(logits)
    shares, best = shares_of(row), likeliest(row)
    drawn = np.bincount([sampling.draw(row, philox.uniform(SEED, index)) for index in range(DRAWS)], minlength=len(row))
    most = float(max(drawn[one] for one in best))
    bars = [
        Bar(live.quoted(one), drawn[one] / most, f"{drawn[one]:4}  {say('many.expected', count=round(shares[one] * DRAWS))}")
        for one in best
    ]
    return TourPart.of(
        say("many.title"),
        say.prose("many.text", draws=DRAWS, top_p=NUCLEUS, temperature=WARM),
        Bars(tuple(bars)),
        say.prose("many.after"),
    )


def _draw(live: LiveModel, say: Words, logits: Row) -> TourPart:
    row, number = filtered(logits), philox.uniform(SEED, 0)
    shares, taken = shares_of(row), sampling.draw(row, number)
    ids = [int(one) for one in np.flatnonzero(row > REMOVED)]
    ends = np.cumsum(shares[ids])
    place = ids.index(taken)
    segments = tuple(Segment(live.quoted(one), float(shares[one]), one == taken) for one in ids)
    low, high = float(ends[place] - shares[taken]), float(ends[place])
    return TourPart.of(
        say("draw.title"),
        say.prose("draw.text", count=len(ids), top_p=NUCLEUS, temperature=WARM),
        NumberLine(segments, number, say.number(number, ".4f")),
        say.prose("draw.after", seed=SEED, number=number, token=live.quoted(taken), low=low, high=high),
        code_of(philox.uniform),
        code_of(sampling.draw),
        say.prose("draw.end"),
    )
