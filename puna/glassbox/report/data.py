"""A trace as small JSON, for the page: each token's text stands once, and numbers have the digits that the page shows.

`unpacked` of data.js makes `Trace.as_json` of it, but for the digits left out. A candidate is its id and its logarithm;
its logit is that and the stage's `total`, the logarithm of the sum over all candidates.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from puna.glassbox.trace import (
    Candidate,
    Draw,
    Removal,
    Stage,
    Trace,
    TracedLayer,
    TracedLayers,
    TracedPosition,
    TracedPrompt,
    TracedStep,
    TracedToken,
)

DIGITS = 6  # of a logarithm, a share or a time
TOTAL_DIGITS = 8  # of a stage's total, which is some tens
WEIGHT_SCALE = 65535  # attention is kept in 16 bits

Cells = list[Any]  # a row; its cells stand where its function says


def packed(trace: Trace) -> dict[str, Any]:
    """The trace without repetitions. `texts`: id -> text; `spelled`: id -> piece, bytes, is_control."""
    texts = _Texts()
    whole = {field.name: getattr(trace, field.name) for field in dataclasses.fields(Trace)}
    whole |= {
        "filters": [dataclasses.asdict(one) for one in trace.filters],
        "prompt": _prompt(trace.prompt, texts),
        "steps": [_step(step, texts) for step in trace.steps],
        "layers": None if trace.layers is None else _layers(trace.layers, texts),
    }
    return {"trace": whole, "texts": texts.texts, "spelled": texts.spelled}


class _Texts:
    """The tokens that the trace names. Each method returns an id."""

    def __init__(self) -> None:
        self.texts: dict[int, str] = {}
        self.spelled: dict[int, Cells] = {}

    def token(self, token: TracedToken) -> int:
        self.texts[token.id] = token.text
        self.spelled[token.id] = [token.piece, token.bytes, int(token.is_control)]
        return token.id

    def candidate(self, candidate: Candidate) -> int:
        self.texts[candidate.id] = candidate.text
        return candidate.id


def _prompt(prompt: TracedPrompt, texts: _Texts) -> dict[str, Any]:
    whole = {field.name: getattr(prompt, field.name) for field in dataclasses.fields(TracedPrompt)}
    return whole | {"tokens": [texts.token(token) for token in prompt.tokens], "padded": dataclasses.asdict(prompt.padded)}


def _step(step: TracedStep, texts: _Texts) -> Cells:
    """Token, logprob, rank, is_given, stages, draw, computed, kv_bytes, model_s, sampling_s; the index is the row's own."""
    return [
        texts.token(step.token),
        short(step.logprob),
        step.rank,
        int(step.is_given),
        [_stage(stage, texts) for stage in step.stages],
        None if step.draw is None else _draw(step.draw),
        [[one.first, one.last, one.num_drafts] for one in step.computed],
        step.kv_bytes,
        short(step.model_s),
        short(step.sampling_s),
    ]


def _stage(stage: Stage, texts: _Texts) -> Cells:
    """Name, num_candidates, entropy_bits, total, ids, logprobs, the chosen token's [id, logprob], cut, uniform."""
    total = stage.top[0].logit - stage.top[0].logprob
    chosen = None if stage.chosen is None else _row(stage.chosen, texts)
    cut = None if stage.cut is None else _cut(stage.cut, texts)
    entropy = short(stage.entropy_bits)
    own = [] if stage.uniform is None else [stage.uniform]
    return [stage.name, stage.num_candidates, entropy, short(total, TOTAL_DIGITS), *_columns(stage.top, texts), chosen, cut, *own]


def _cut(cut: Removal, texts: _Texts) -> Cells:
    """num_removed, probability, last_kept, first_removed; the logarithms are those of the stage before."""
    return [cut.num_removed, short(cut.probability), _row(cut.last_kept, texts), _row(cut.first_removed, texts)]


def _draw(draw: Draw) -> Cells:
    """uniform, low, high, starts"""
    return [draw.uniform, short(draw.low), short(draw.high), [short(start) for start in draw.starts]]


def _row(candidate: Candidate, texts: _Texts) -> Cells:
    return [texts.candidate(candidate), short(candidate.logprob)]


def _columns(candidates: Iterable[Candidate], texts: _Texts) -> tuple[Cells, Cells]:
    """Ids, and logarithms."""
    rows = [_row(one, texts) for one in candidates]
    return [token_id for token_id, _ in rows], [logprob for _, logprob in rows]


# ---- layers -----------------------------------------------------------------------------------------------------------------


def _layers(layers: TracedLayers, texts: _Texts) -> dict[str, Any]:
    whole = {field.name: getattr(layers, field.name) for field in dataclasses.fields(TracedLayers)}
    return whole | {"positions": [_position(one, texts) for one in layers.positions]}


def _position(position: TracedPosition, texts: _Texts) -> Cells:
    """Position, step, token, taken, distance, layers."""
    token, taken = texts.token(position.token), texts.token(position.taken)
    rows = [_layer(layer, texts) for layer in position.layers]
    return [position.position, position.step, token, taken, short(position.distance), rows]


def _layer(layer: TracedLayer, texts: _Texts) -> Cells:
    """entropy_bits, total, ids, logprobs, the taken token's logprob, rank, first, num_heads, attention; its place is the layer.

    attention: (heads, positions) of 16 bits, little-endian, in base64.
    """
    total = layer.taken.logit - layer.taken.logprob
    columns, taken = _columns(layer.top, texts), short(layer.taken.logprob)
    row = [short(layer.entropy_bits), short(total, TOTAL_DIGITS), *columns, taken, layer.rank, layer.first]
    if layer.attention is None:
        return [*row, 0, None]
    weights = np.rint(np.array(layer.attention) * WEIGHT_SCALE).astype("<u2")
    return [*row, len(weights), base64.b64encode(weights.tobytes()).decode("ascii")]


def short(number: float | None, digits: int = DIGITS) -> float | None:
    """A number with as many digits as are kept.

    >>> short(-0.39574787), short(26.671123456, 8), short(None), short(3.0)
    (-0.395748, 26.671123, None, 3.0)
    """
    return None if number is None else float(f"{number:.{digits}g}")
