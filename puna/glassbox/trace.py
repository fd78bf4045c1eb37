"""What a trace holds: one run of a prompt, from its text to the last token, as plain data. `as_json` makes JSON types of it.

Probabilities are shares of 1, logarithms natural, times seconds of wall-clock time. docs/trace.schema.json is made of this file.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

FORMAT = "puna-trace-1"


@dataclass(frozen=True, slots=True)
class TracedToken:
    """A token: its number, and what the number stands for.

    Fields:
        id: its number in the vocabulary
        piece: the vocabulary's own spelling, in which a space may be another sign
        text: its text; U+FFFD for a part of a character
        bytes: the exact bytes that it adds to a text, in hexadecimal; empty for a control token
        is_control: whether it is a mark of the format, which no text can write
    """

    id: int
    piece: str
    text: str
    bytes: str
    is_control: bool


@dataclass(frozen=True, slots=True)
class PaddedBatch:
    """The prompts of a call as Meta's `generate` lays them out: one rectangle of tokens, filled up with padding.

    Fields:
        shape: rows (prompts), and columns: the longest prompt and the new tokens
        pad_id: what fills the places that hold no token yet
        num_pads: padding at the start, for each row; the mask is true for the places before it
        num_prefilled: columns that the first step computes: the length of the shortest prompt
        num_forced: tokens of each longer prompt that further steps then read one by one
        row: the row of this prompt
    """

    shape: tuple[int, int]
    pad_id: int
    num_pads: tuple[int, ...]
    num_prefilled: int
    num_forced: tuple[int, ...]
    row: int = 0


@dataclass(frozen=True, slots=True)
class TracedPrompt:
    """The prompt on its way to the model.

    Fields:
        given: the text that the caller gave; of a conversation, its last message; null if there is none
        text: what the model reads: the text of the ids, with the template's control tokens
        num_tokens: its length
        tokens: its tokens, the first ones if there are very many
        num_left_out: tokens that the trace leaves out
        num_cached: tokens whose K and V came from the prefix cache
        tokenizer_s: time of the chat template and the tokenizer, for all prompts of the call
        padded: how Meta's `generate` would lay it out, with the other prompts of the call; puna pads nothing
            (`TracedStep.computed`)
    """

    given: str | None
    text: str
    num_tokens: int
    tokens: tuple[TracedToken, ...]
    num_left_out: int
    num_cached: int
    tokenizer_s: float
    padded: PaddedBatch


@dataclass(frozen=True, slots=True)
class UsedFilter:
    """A filter that runs at each step.

    Fields:
        name: its name
        settings: the parameters that it reads, and their values
        explanation: what it does
    """

    name: str
    settings: dict[str, Any]
    explanation: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token that could be taken at some stage.

    Fields:
        id: its number in the vocabulary
        text: its text
        logit: the number that the model, or the filter, gave it
        probability: its share of all that can be taken at this stage
        logprob: the logarithm of that
    """

    id: int
    text: str
    logit: float
    probability: float
    logprob: float


@dataclass(frozen=True, slots=True)
class Removal:
    """What a filter removed; the probabilities are those before it.

    Fields:
        num_removed: tokens that it removed
        probability: their probability together
        last_kept: the least likely token that stayed: for top-p, the one that crosses the line
        first_removed: the most likely token that it removed
    """

    num_removed: int
    probability: float
    last_kept: Candidate
    first_removed: Candidate


@dataclass(frozen=True, slots=True)
class Stage:
    """The candidates after the model or after a filter. What was there before is the stage before.

    Fields:
        name: "model", "constraint", or the filter's name
        num_candidates: tokens that can be taken
        entropy_bits: how open the choice is: 0 for one certain token, 1 for two equally likely ones
        top: the most likely tokens, the best first
        chosen: the token that is taken in the end, as it stands here; null if it was removed
        cut: what the filter removed; null if nothing
        uniform: the number that the filter drew for itself, in 0..1, before it filtered; null if it draws none. XTC acts where
            it is below `xtc_probability`
    """

    name: str
    num_candidates: int
    entropy_bits: float
    top: tuple[Candidate, ...]
    chosen: Candidate | None
    cut: Removal | None
    uniform: float | None = None


@dataclass(frozen=True, slots=True)
class Draw:
    """The number that was drawn. The candidates lie on 0..1 side by side, in the order of their ids, as wide as they are likely.

    Fields:
        uniform: the number, in 0..1; it depends on the seed and the step only
        low: where the chosen token's part begins
        high: where it ends
        starts: where the parts of the last stage's `top` begin, in the order of `top`
    """

    uniform: float
    low: float
    high: float
    starts: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class ComputedTokens:
    """Tokens that passed through the model in one step of the engine, in a row with those of other requests: nothing is padded.

    Fields:
        first: the position of the first one
        last: the position after the last one
        num_drafts: guesses of further tokens that were computed with them
    """

    first: int
    last: int
    num_drafts: int


@dataclass(frozen=True, slots=True)
class TracedStep:
    """How one token came to be.

    Fields:
        index: its place in the answer, from 0
        token: the token that was taken
        logprob: the logarithm of its probability under the model's logits, before any filter; null if nothing was sampled
        rank: its place among the model's logits, 1 for the most likely; null if nothing was sampled
        is_given: whether it was given, as a part of the answer's opening, and the filters and the draw would have taken another
        stages: the model's candidates, then what each filter left; empty if nothing was sampled, or none are asked for
        draw: the number that was drawn; null if the most likely candidate was taken
        computed: what passed through the model since the token before
        kv_bytes: memory of the K and V of all tokens before it
        model_s: time from the token before (or the request) until the logits were there
        sampling_s: time of the filters and the draw
    """

    index: int
    token: TracedToken
    logprob: float | None = None
    rank: int | None = None
    is_given: bool = False
    stages: tuple[Stage, ...] = ()
    draw: Draw | None = None
    computed: tuple[ComputedTokens, ...] = ()
    kv_bytes: int | None = None
    model_s: float | None = None
    sampling_s: float | None = None


@dataclass(frozen=True, slots=True)
class TracedLayer:
    """What is known at one position after a layer. The candidates are those of the logit lens (nostalgebraist 2020): the final
    norm and the output matrix, applied to this layer's hidden state as if it were the last one.

    Fields:
        layer: 0 for the embedding, then 1 for the first layer, up to the number of layers, whose lens is the model's own answer
        entropy_bits: how open the choice would be: 0 for one certain token, 1 for two equally likely ones
        top: the most likely tokens, the best first
        taken: the token that follows in the text, as it stands here
        rank: its place among all tokens, 1 for the most likely
        first: the first position that the layer's heads see here, above 0 with a sliding window; null for the embedding
        attention: for each head, how it weighs the positions from `first` to this one, to 5 digits; each head's weights sum to 1.
            Heads follow each other as in q_proj. Null for the embedding
    """

    layer: int
    entropy_bits: float
    top: tuple[Candidate, ...]
    taken: Candidate
    rank: int
    first: int | None = None
    attention: tuple[tuple[float, ...], ...] | None = None


@dataclass(frozen=True, slots=True)
class TracedPosition:
    """One position of prompt and answer, seen after each layer.

    Fields:
        position: its place in prompt and answer together, from 0
        step: the step of the answer whose token follows (`TracedStep.index`); null if the prompt goes on
        token: the token that the model reads here
        taken: the token that follows in the text
        layers: after the embedding, and after each layer
        distance: the largest difference between the last layer's logits and those of the run, over the candidates that the trace
            holds of the run; null where it holds none
    """

    position: int
    step: int | None
    token: TracedToken
    taken: TracedToken
    layers: tuple[TracedLayer, ...]
    distance: float | None


@dataclass(frozen=True, slots=True)
class TracedLayers:
    """Layer by layer, some positions of a run. A run shows no hidden states: the text passed through the model once more, by the
    definition of the forward pass (`puna/backends/reference.py`), float32, with the weights as the model's file has them. The
    backend of the run rounds otherwise: `distance` says how far apart the two are.

    Fields:
        arithmetic: what computed these numbers, in words
        num_layers: layers of the model
        num_heads: heads of each layer
        positions: the chosen positions, in order
        num_left_out: chosen positions that the trace leaves out, because it would grow too large
        distance: the largest of the positions' distances; null if none has one
        total_s: time of this pass
    """

    arithmetic: str
    num_layers: int
    num_heads: int
    positions: tuple[TracedPosition, ...]
    num_left_out: int
    distance: float | None
    total_s: float


@dataclass(frozen=True, slots=True)
class Trace:
    """One run.

    Fields:
        format: the name of this format
        engine: the version of puna
        model: the path of the model
        backend: what computed the logits
        settings: the sampling parameters that are not at their defaults
        seed: the seed of the draws; null if the most likely token is always taken
        filters: what runs at each step, in this order
        prompt: the prompt
        steps: one for each token of the answer
        num_left_out: tokens of the answer whose steps the trace leaves out, because it would grow too large
        token_ids: the ids of the answer, all of them
        text: the text of the answer
        finish_reason: why it ended: stop, length, abort, timeout, error
        stop_reason: the caller's stop text or stop id that ended it
        why: why it ended, in words
        first_token_s: time from the request to its first token
        total_s: time from the request to its end
        weights_bytes: the weights that computing one token reads. Decoding waits for memory, so their size beside that of the K
            and V (`TracedStep.kv_bytes`) tells the matrices' share of a step's time from attention's; neither was timed apart
        layers: layer by layer, the chosen positions; null if none were
    """

    format: str
    engine: str
    model: str
    backend: str
    settings: dict[str, Any]
    seed: int | None
    filters: tuple[UsedFilter, ...]
    prompt: TracedPrompt
    steps: tuple[TracedStep, ...]
    num_left_out: int
    token_ids: tuple[int, ...]
    text: str
    finish_reason: str
    stop_reason: int | str | None
    why: str
    first_token_s: float
    total_s: float
    weights_bytes: int
    layers: TracedLayers | None = None

    def as_json(self) -> dict[str, Any]:
        """The trace as JSON types, for docs/trace.schema.json."""
        return dataclasses.asdict(self)
