"""The tour of attention: what one head does with the words of a sentence, with its real numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from puna.backends.reference import attend, softmax
from puna.errors import UsageError
from puna.explain.code import code_of
from puna.explain.live import LiveModel
from puna.explain.looking import Floats, InnerView
from puna.explain.parts import Bar, Bars, HeatMap, TextTable, TourPart
from puna.explain.words import Words
from puna.units import counted

EXAMPLE = "The cat sat on the mat because it"
LEAST_TOKENS, MOST_TOKENS = 4, 32
NUMBERS = 4  # of a vector that a table shows
HEADS = 5  # that the last part lists


@dataclass(frozen=True, slots=True)
class Head:
    """A head, and the position that it weighs most among those that are neither near nor the first."""

    layer: int
    number: int
    position: int
    weight: float


def tour(live: LiveModel, say: Words, text: str) -> Iterator[TourPart]:
    ids = live.ids(text)
    if not LEAST_TOKENS <= len(ids) <= MOST_TOKENS:
        allowed = f"the tour of attention takes {LEAST_TOKENS} to {MOST_TOKENS}"
        raise UsageError(f"TEXT has {counted(len(ids), 'token')}; {allowed}", hint="Give another sentence.")
    view = live.inner_view(ids)
    heads = telling_heads(view)
    yield _question(live, say, view, heads[0])
    yield _scores(live, say, view, heads[0])
    yield _map(live, say, view, heads[0])
    yield _mix(live, say, view, heads[0])
    yield _others(live, say, view, heads)


def telling_heads(view: InnerView) -> list[Head]:
    """All heads, by how much of the last token's attention goes to one that is neither the first, nor it, nor next to it."""
    row, found = len(view.ids) - 1, []
    for layer in range(view.model.num_layers):
        weights = view.weights(layer, row)
        first = row + 1 - weights.shape[1]  # a window may hide the beginning
        far = weights[:, max(0, 1 - first) : -2]
        for number in range(len(weights)):
            if far.shape[1]:
                at = int(far[number].argmax())
                found.append(Head(layer, number, at + max(1, first), float(far[number, at])))
    return sorted(found, key=lambda head: -head.weight)


def scores_of(view: InnerView, head: Head) -> tuple[Floats, Floats]:
    """(q.k, weight) of each position that the last one sees.  # (positions,) twice"""
    row = len(view.ids) - 1
    query, keys = view.query(head.layer, row)[head.number], view.keys(head.layer, row)
    group = view.model.num_heads // view.model.num_kv_heads
    return keys[head.number // group] @ query, view.weights(head.layer, row)[head.number]


def scale_of(view: InnerView, head: Head) -> float:
    """What q.k is multiplied by: 1 / sqrt(head_dim), unless the model has its own."""
    return view.model.layers[head.layer].attention.scale or 1 / math.sqrt(view.model.head_dim)


def _question(live: LiveModel, say: Words, view: InnerView, head: Head) -> TourPart:
    row = len(view.ids) - 1
    query, keys = view.query(head.layer, row)[head.number], view.keys(head.layer, row)
    group = view.model.num_heads // view.model.num_kv_heads
    own = keys[head.number // group]
    shown = [(say("question.query", token=live.quoted(view.ids[row])), say.numbers(query[:NUMBERS], "7.2f"))]
    first = row + 1 - len(own)
    for at, key in enumerate(own, start=first):
        if at in (head.position, row) or at < 2:
            shown.append((say("question.key", token=live.quoted(view.ids[at])), say.numbers(key[:NUMBERS], "7.2f")))
    facts = {
        "last": live.quoted(view.ids[row]),
        "layers": view.model.num_layers,
        "heads": view.model.num_heads,
        "total": view.model.num_layers * view.model.num_heads,
        "dim": view.model.head_dim,
        "layer": head.layer + 1,
        "head": head.number + 1,
        "kv": view.model.num_kv_heads,
        "share": group,
    }
    return TourPart.of(
        say("question.title"),
        say.prose("question.text", **facts),
        TextTable(say.head("question.head"), tuple((name, f"{numbers}  ...") for name, numbers in shown)),
        say.prose("question.after", **facts),
    )


def _scores(live: LiveModel, say: Words, view: InnerView, head: Head) -> TourPart:
    products, weights = scores_of(view, head)
    scale, first = scale_of(view, head), len(view.ids) - len(weights)
    rows = tuple(
        (
            live.quoted(view.ids[at]),
            say.number(float(product)),
            say.number(float(product) * scale),
            say.number(float(weight), ".1%"),
        )
        for at, (product, weight) in enumerate(zip(products, weights), start=first)
    )
    bars = tuple(
        Bar(live.quoted(view.ids[at]), float(weight), say.number(float(weight), ".1%"), is_marked=at == head.position)
        for at, weight in enumerate(weights, start=first)
    )
    facts = {
        "dim": view.model.head_dim,
        "root": 1 / scale,
        "sum": float(weights.sum()),
        "token": live.quoted(view.ids[head.position]),
    }
    return TourPart.of(
        say("scores.title"),
        say.prose("scores.text", **facts),
        TextTable(say.head("scores.head"), rows),
        Bars(bars),
        say.prose("scores.after", **facts, weight=head.weight),
        code_of(attend),
        code_of(softmax),
    )


def _map(live: LiveModel, say: Words, view: InnerView, head: Head) -> TourPart:
    shares = view.head(head.layer, head.number)
    labels = tuple(f"{number:>2} {live.quoted(one)}" for number, one in enumerate(view.ids, start=1))
    return TourPart.of(
        say("map.title", layer=head.layer + 1, head=head.number + 1),
        say.prose("map.text"),
        HeatMap(labels, (), tuple(map(tuple, shares))),
        say.prose("map.after"),
    )


def _mix(live: LiveModel, say: Words, view: InnerView, head: Head) -> TourPart:
    row = len(view.ids) - 1
    weights, values = view.weights(head.layer, row), view.values(head.layer, row)
    group = view.model.num_heads // view.model.num_kv_heads
    own, mixed = values[head.number // group], view.attended(head.layer, row)[head.number]
    heaviest = [int(at) for at in np.argsort(-weights[head.number])[:3]]
    first = len(view.ids) - len(own)
    rows = [
        (
            say.number(float(weights[head.number, at]), ".3f"),
            live.quoted(view.ids[at + first]),
            say.numbers(own[at, :NUMBERS], "7.3f"),
        )
        for at in heaviest
    ]
    rows.append(("", say("mix.sum"), say.numbers(mixed[:NUMBERS], "7.3f")))
    return TourPart.of(
        say("mix.title"),
        say.prose("mix.text"),
        TextTable(say.head("mix.head"), tuple(rows)),
        say.prose("mix.after", heads=view.model.num_heads, dim=view.model.head_dim, hidden=view.model.hidden_size),
    )


def _others(live: LiveModel, say: Words, view: InnerView, heads: list[Head]) -> TourPart:
    row = len(view.ids) - 1
    kinds, to_first = Counter[str](), []
    for layer in range(view.model.num_layers):
        weights = view.weights(layer, row)
        first = row + 1 - weights.shape[1]
        kinds.update(kind_of(int(own.argmax()) + first, row) for own in weights)
        to_first += [float(own[0]) for own in weights if first == 0]
    total = sum(kinds.values())
    bars = tuple(Bar(say(f"others.{kind}"), kinds[kind] / total, str(kinds[kind])) for kind in ("first", "self", "before", "far"))
    rows = tuple(
        (str(one.layer + 1), str(one.number + 1), live.quoted(view.ids[one.position]), say.number(one.weight, ".0%"))
        for one in heads[:HEADS]
    )
    share = sum(to_first) / len(to_first) if to_first else 0.0
    return TourPart.of(
        say("others.title"),
        say.prose("others.text", total=total, last=live.quoted(view.ids[row])),
        Bars(bars),
        say.prose("others.sink", share=share, token=live.quoted(view.ids[0])),
        TextTable(say.head("others.head"), rows),
        say.prose("others.after"),
    )


def kind_of(position: int, row: int) -> str:
    """Where a head looks most, from the position `row`."""
    if position == 0:
        return "first"
    return "self" if position == row else "before" if position == row - 1 else "far"
