"""What a comparison of runs holds, as plain data. `as_json` makes JSON types of it; docs/diff.schema.json is made of this file.

Probabilities are shares of 1, logarithms natural.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from puna.glassbox.trace import Candidate, Draw

FORMAT = "puna-diff-1"


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """One of the runs.

    Fields:
        name: what was given, such as "kv-type=int8"; of the first run, its model
        model: the path of the model
        backend: what computed the logits
        weights: how the backend keeps the weights: "as-is", "int8", "int4"
        kv_type: how it keeps K and V
        settings: the sampling parameters that are not at their defaults
        seed: the seed of the draws; null if the most likely token is always taken
        token_ids: the ids of the answer
        text: the text of the answer
        finish_reason: why it ended: stop, length, abort, timeout, error
    """

    name: str
    model: str
    backend: str
    weights: str
    kv_type: str
    settings: dict[str, Any]
    seed: int | None
    token_ids: tuple[int, ...]
    text: str
    finish_reason: str


@dataclass(frozen=True, slots=True)
class SharedCandidate:
    """A token, as both models see it after the same text.

    Fields:
        first: as the first run's model has it
        other: as the other run's model has it
    """

    first: Candidate
    other: Candidate


@dataclass(frozen=True, slots=True)
class Parting:
    """The first token that is not the same. The probabilities are the models' own, before any filter.

    Fields:
        step: its place in the answer, from 0
        first: the first run's token; null if that run had ended
        other: the other run's token; null if that run had ended
        draw: the number that the other run drew, and the part in which it fell; null if it takes the most likely token
        margin: how little was missing in the other run: if the most likely token is taken, how far the two logarithms are apart;
            else how far the number was from the nearer end of the part in which it fell. Null if a run had ended, or nothing was
            sampled
        is_near_tie: whether the margin is so small that rounding may turn it
    """

    step: int
    first: SharedCandidate | None
    other: SharedCandidate | None
    draw: Draw | None
    margin: float | None
    is_near_tie: bool


@dataclass(frozen=True, slots=True)
class Divergence:
    """How far the other model's probabilities are from the first one's, token by token, with the first run's text.

    Fields:
        mean: the mean divergence of Kullback and Leibler, of the other model from the first, in nats
        max: the largest one
        at: the step of the largest one; null if there are none
        per_step: of each step of the first answer, in order; null where a form left no choice, and where it is left out
        num_left_out: steps that are not compared, because their logits would take too much memory
        same_top: the share of steps at which both have the same most likely token
    """

    mean: float
    max: float
    at: int | None
    per_step: tuple[float | None, ...]
    num_left_out: int
    same_top: float


@dataclass(frozen=True, slots=True)
class LayerErrors:
    """How far the hidden states of the two models are apart, layer by layer, over the positions of the first run's answer.

    Fields:
        errors: for the embedding, and after each layer: the largest relative error (the length of the difference, divided by that
            of the first model's state); null if one is not finite
        first: the first layer whose states differ, 0 for the embedding; null if none does
        at: the position at which that layer differs most; null if none does
        num_positions: how many positions were compared, the first ones
    """

    errors: tuple[float | None, ...]
    first: int | None
    at: int | None
    num_positions: int


@dataclass(frozen=True, slots=True)
class OtherRun:
    """A run that is compared with the first one.

    Fields:
        run: the run
        num_equal: tokens that are the same, from the first on
        parting: the first token that is not; null if the answers are equal
        divergence: how far the models are apart
        layers: how far their hidden states are apart; null if they were not compared
        why_no_layers: why they were not, in words; empty if they were
    """

    run: ComparedRun
    num_equal: int
    parting: Parting | None
    divergence: Divergence
    layers: LayerErrors | None
    why_no_layers: str


@dataclass(frozen=True, slots=True)
class RunDiff:
    """A comparison of runs of one prompt.

    Fields:
        format: the name of this format
        engine: the version of puna
        prompt_ids: the ids of the prompt, the same for all runs
        first: the first run
        others: the runs that are compared with it
    """

    format: str
    engine: str
    prompt_ids: tuple[int, ...]
    first: ComparedRun
    others: tuple[OtherRun, ...]

    def as_json(self) -> dict[str, Any]:
        """The comparison as JSON types, for docs/diff.schema.json."""
        return dataclasses.asdict(self)
