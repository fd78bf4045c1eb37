"""The tour of rotary positions: how a model knows which word stands where."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from puna.backends.reference import StreamedWeights, rope
from puna.errors import UsageError
from puna.explain.code import code_of
from puna.explain.live import LiveModel
from puna.explain.looking import heads_of
from puna.explain.parts import Heights, Picture, TextTable, TourPart
from puna.explain.words import Words
from puna.model.rope import RopeConfig, _frequencies
from puna.model.rotary import RotaryTables
from puna.model.spec import ModelConfig

EXAMPLE = "The cat is thirsty"
ARROWS = "→↗↑↖←↙↓↘"
POSITIONS = 16  # of a row of arrows
SHIFTS = (0, 100, 1000)
DISTANCE = 3
FARTHEST = 64

Floats = npt.NDArray[np.float32]


class QueryAndKey(NamedTuple):
    """A query and a key of the first layer that rotates, before they are rotated."""

    layer: int
    q: Floats  # (head_dim,)
    k: Floats  # (head_dim,)


def tour(live: LiveModel, say: Words, text: str) -> Iterator[TourPart]:
    ids, model = live.ids(text), live.config
    layer = next((number for number, one in enumerate(model.layers) if one.attention.rope is not None), None)
    if layer is None:
        raise UsageError(f"{live.name} has no rotary positions", hint="Leave --model out.")
    config = model.ropes[model.layers[layer].attention.rope or 0]
    key_id = ids[min(1, len(ids) - 1)]
    pair = pair_of(live, layer, ids[-1], key_id)
    yield _angles(say, model, config)
    yield _turned(say, model, config, pair, live.quoted(ids[-1]))
    yield _distance(say, model, pair, live.quoted(ids[-1]), live.quoted(key_id))
    yield _curve(say, model, pair)
    yield _context(say, model, config)


def pair_of(live: LiveModel, layer: int, query_id: int, key_id: int) -> QueryAndKey:
    """The first head's query of one token and key of another, made from their embeddings."""
    weights = StreamedWeights(live.checkpoint)
    x = weights.embed(np.array([query_id, key_id])) * np.float32(live.config.embedding_scale)
    w = weights.layer(layer)
    return QueryAndKey(layer, heads_of(live.config, layer, w, x[0], "q")[0], heads_of(live.config, layer, w, x[1], "k")[0])


def turned(model: ModelConfig, layer: int, x: Floats, position: int) -> Floats:
    """A vector as it stands at a position.  # (head_dim,) -> (head_dim,)"""
    tables = RotaryTables(model)
    cos_sin = tables.cos_sin(np.array([position]), np.array([position + 1]))[tables.of_k[layer], 0]
    (row,) = rope(x[None], *cos_sin)
    return np.asarray(row)


def score(model: ModelConfig, pair: QueryAndKey, query_at: int, key_at: int) -> float:
    """q.k / sqrt(d) of the query at one position and the key at another."""
    q, k = turned(model, pair.layer, pair.q, query_at), turned(model, pair.layer, pair.k, key_at)
    return float(q.astype(np.float64) @ k.astype(np.float64)) / math.sqrt(model.head_dim)


def frequencies_of(model: ModelConfig, config: RopeConfig) -> npt.NDArray[np.float64]:
    """By how much each pair turns from one position to the next, in radians."""
    return np.asarray(config.frequencies(model.head_dim))


def arrow(angle: float) -> str:
    """
    >>> "".join(map(arrow, (0.0, math.pi / 2, math.pi, -0.1)))
    '→↑←→'
    """
    return ARROWS[round(angle / (2 * math.pi) * 8) % 8]


def _angles(say: Words, model: ModelConfig, config: RopeConfig) -> TourPart:
    frequencies = frequencies_of(model, config)
    shown = sorted({0, 1, 2, *(len(frequencies) * part // 6 for part in range(1, 6)), len(frequencies) - 1})
    rows = tuple(
        (
            str(number + 1),
            say.number(float(frequencies[number]), ".6f"),
            say.number(2 * math.pi / float(frequencies[number]), ".1f"),
        )
        for number in shown
        if frequencies[number] > 0
    )
    lines = [f"{'':>5}{''.join(f'{position:>3}' for position in range(POSITIONS))}"]
    for number in shown:
        lines.append(f"{number + 1:>5}" + "".join(f"{arrow(frequencies[number] * p):>3}" for p in range(POSITIONS)))
    return TourPart.of(
        say("angles.title"),
        say.prose("angles.text", dim=model.head_dim, pairs=len(frequencies), theta=float(config.theta)),
        TextTable(say.head("angles.head"), rows),
        say.prose("angles.arrows"),
        Picture(tuple(lines)),
        say.prose("angles.after"),
        code_of(_frequencies),
    )


def _turned(say: Words, model: ModelConfig, config: RopeConfig, pair: QueryAndKey, token: str) -> TourPart:
    rows = []
    for position in (0, 1, 2, 3, 10):
        x, y = (float(one) for one in turned(model, pair.layer, pair.q, position)[:2])
        degrees = math.degrees(math.atan2(y, x)) % 360
        rows.append(
            (
                str(position),
                say.number(x, ".4f"),
                say.number(y, ".4f"),
                say.number(degrees, ".1f"),
                say.number(math.hypot(x, y), ".4f"),
            )
        )
    return TourPart.of(
        say("turned.title"),
        say.prose("turned.text", token=token, layer=pair.layer + 1),
        TextTable(say.head("turned.head"), tuple(rows)),
        say.prose("turned.after", degrees=math.degrees(float(frequencies_of(model, config)[0]))),
        code_of(rope),
    )


def _distance(say: Words, model: ModelConfig, pair: QueryAndKey, query: str, key: str) -> TourPart:
    shifts = [shift for shift in SHIFTS if shift + DISTANCE < model.max_context]
    places = [(shift + DISTANCE, shift) for shift in shifts] + [(shift + 2 * DISTANCE, shift) for shift in shifts]
    rows = tuple((str(at), str(other), str(at - other), say.number(score(model, pair, at, other), ".5f")) for at, other in places)
    same = [score(model, pair, shift + DISTANCE, shift) for shift in shifts]
    return TourPart.of(
        say("distance.title"),
        say.prose("distance.text", query=query, key=key),
        TextTable(say.head("distance.head"), rows),
        say.prose("distance.after", spread=f"{max(same) - min(same):.0e}"),
        code_of(RotaryTables.cos_sin),
    )


def _curve(say: Words, model: ModelConfig, pair: QueryAndKey) -> TourPart:
    farthest = min(FARTHEST, model.max_context)
    scores = [score(model, pair, distance, 0) for distance in range(farthest)]
    return TourPart.of(
        say("curve.title"),
        say.prose("curve.text", count=farthest - 1),
        Heights(("",), (tuple(scores),)),
        say.prose("curve.after", first=scores[0], low=min(scores), high=max(scores)),
    )


def _context(say: Words, model: ModelConfig, config: RopeConfig) -> TourPart:
    slowest = 2 * math.pi / float(min(one for one in frequencies_of(model, config) if one > 0))
    scaled = say(
        "context.plain" if config.scaling == "none" else "context.scaled", scaling=config.scaling, factor=float(config.factor)
    )
    return TourPart.of(
        say("context.title"),
        say.prose("context.text", slowest=slowest, context=model.max_context, turns=model.max_context / slowest),
        say.prose("context.after", scaled=scaled),
    )
