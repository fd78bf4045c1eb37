"""Layer by layer: the logit lens and the attention of chosen positions of a run.

The kernels of a run show no hidden states, so the text passes through the model once more, by `backends/reference.py`, whose
ForwardPass tells a tap what it hears. The weights are made float32 one layer at a time.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self, get_args

import numpy as np
import numpy.typing as npt

from puna import checks
from puna.backends import backend_spec
from puna.backends.reference import ForwardPass, StreamedWeights, Tap, rms_norm, softcap
from puna.batch import Batch
from puna.completion import Completion
from puna.config import EngineConfig
from puna.errors import InsufficientMemoryError, UsageError
from puna.formats.base import Checkpoint
from puna.glassbox.recorder import StageRow, rank
from puna.glassbox.trace import Candidate, TracedLayer, TracedLayers, TracedPosition, TracedStep, TracedToken
from puna.lora import adapter_number
from puna.model.rotary import RotaryTables
from puna.model.spec import ModelConfig
from puna.model.weights import layer_of
from puna.plan import kv_bytes, placements_of, scratch_bytes
from puna.progress import SILENT, Reporter
from puna.request import NO_ADAPTER, Request, SamplingParams
from puna.resources import memory_bytes
from puna.sampling import Candidates, require_finite
from puna.scheduler import ScheduledChunk
from puna.units import counted, gib

Floats = npt.NDArray[np.float32]
Part = Literal["answer", "prompt", "all"]
LayerChoice = bool | Part | Sequence[int]

ARITHMETIC = "the reference: numpy, float32, the weights as the model's file has them"
MAX_NUMBERS = 4_000_000  # weights of attention and candidates that a trace keeps: some 150 MB of memory
NUMBERS_OF_CANDIDATE = 5
USUAL_STEPS = 8  # that are looked at if nobody chooses
ROWS_AT_ONCE = 256  # of the text, that a matrix multiplies together
HEAD_ROWS = 4096  # of the output matrix that are float32 at a time
LENS_NUMBERS = 1 << 25  # logits that are in memory at a time: 128 MB
PYTHON_NUMBER = 32  # bytes, with its place in a tuple
DEQUANTISING = 3  # times a matrix as float32: what making it takes, with the result (2.0 to 2.6 for GGUF's types)
DIGITS = 5  # of a weight of attention, after the point


# ---- which positions --------------------------------------------------------------------------------------------------------


def checked_choice(given: object) -> LayerChoice:
    """What `layers` of `LLM.trace` may be. UsageError for anything else."""
    if isinstance(given, bool) or (isinstance(given, str) and given in get_args(Part)):
        return given  # type: ignore[return-value]
    allowed = 'True, "answer", "prompt", "all", or a list of steps,'
    return [checks.whole("a step of layers", step, None, None) for step in checks.row("layers", given, allowed)]


def positions_of(choice: LayerChoice, num_prompt: int, num_tokens: int) -> list[int]:
    """The positions that a choice means, ascending: step 0 is the answer's first token, -1 the last one of the prompt.

    A position is looked at for the token that follows it. So the last of `num_tokens` is none, and steps beyond it are left out.

    >>> positions_of([0, 1, -2], num_prompt=4, num_tokens=6), positions_of("prompt", 4, 6), positions_of("answer", 4, 6)
    ([1, 3, 4], [0, 1, 2], [3, 4])
    """
    ranges = {
        "answer": range(num_prompt - 1, num_tokens - 1),
        "prompt": range(num_prompt - 1),
        "all": range(num_tokens - 1),
        "usual": range(num_prompt - 1, min(num_prompt - 1 + USUAL_STEPS, num_tokens - 1)),
    }
    if not isinstance(choice, bool | str):
        return sorted({num_prompt - 1 + step for step in choice} & set(ranges["all"]))
    return [] if choice is False else list(ranges["usual" if choice is True else choice])


def require_positions(choice: LayerChoice, num_prompt: int) -> None:
    """UsageError for a step before the prompt's second token, whose token nothing foretells."""
    least = 1 - num_prompt
    if not isinstance(choice, bool | str) and (early := [step for step in choice if step < least]):
        raise UsageError(
            f"layers has the step {early[0]}, and the prompt has {counted(num_prompt, 'token')}",
            hint=f"Give {least} or more: -1 is the last token of the prompt, 0 the first one of the answer.",
        )


# ---- the pass ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TracedText:
    """A text of which positions are looked at."""

    token_ids: Sequence[int]
    num_prompt: int  # rotary frequencies may depend on it
    adapter: int = NO_ADAPTER  # the LoRA adapter of the run

    @classmethod
    def of(cls, completion: Completion, checkpoint: Checkpoint, lora_name: str | None) -> Self:
        """Prompt and answer, for a model with the adapter of that name."""
        adapter = adapter_number(lora_name, [one.name for one in checkpoint.adapters])
        return cls((*completion.prompt_ids, *completion.token_ids), len(completion.prompt_ids), adapter)

    def batch(self, last: int) -> Batch:
        """The first `last` tokens in one step, on one page."""
        request = Request(
            0,
            list(self.token_ids[: self.num_prompt]),
            SamplingParams(),
            output_ids=list(self.token_ids[self.num_prompt :]),
            page_ids=[0],
            adapter=self.adapter,
        )
        return Batch.of([ScheduledChunk(request, 0, last, num_logits=0, is_last=False)])


@dataclass(eq=False)
class LayerTap:
    """Keeps what is heard at some rows: the hidden states, (rows, layers + 1, hidden_size), and the weights of attention."""

    model: ModelConfig
    rows: Sequence[int]
    report: Reporter = SILENT
    keeps_attention: bool = True
    attended: dict[tuple[int, int], tuple[tuple[float, ...], ...]] = field(default_factory=dict)  # (row, layer) -> by head

    def __post_init__(self) -> None:
        self._index = {row: index for index, row in enumerate(self.rows)}
        self.hidden_states = np.empty((len(self.rows), self.model.num_layers + 1, self.model.hidden_size), np.float32)

    def hidden(self, layer: int, row: int, x: Floats) -> None:
        if row == 0:
            self.report.progress("looking at layers", layer, self.model.num_layers)
        if row in self._index:
            self.hidden_states[self._index[row], layer] = x

    def attention(self, layer: int, row: int, weights: Floats) -> None:
        if self.keeps_attention and row in self._index:
            self.attended[row, layer] = tuple(map(tuple, weights.astype(np.float64).round(DIGITS).tolist()))


def pass_through(checkpoint: Checkpoint, text: TracedText, last: int, tap: Tap) -> StreamedWeights:
    """Run the first `last` tokens of a text through the reference. Returns the weights, for the lens."""
    weights = StreamedWeights(checkpoint)
    run = ForwardPass(checkpoint.config, weights, checkpoint.adapters, num_pages=1, page_size=last)
    run.run(text.batch(last), tap, ROWS_AT_ONCE)
    return weights


def lens(model: ModelConfig, weights: StreamedWeights, states: Floats) -> Floats:
    """What the model would answer after each hidden state.  # (states, hidden_size) -> (states, vocab_size)"""
    normed = np.stack([rms_norm(x, weights.final_norm, model.norm_eps) for x in states])
    logits = np.empty((len(states), model.vocab_size), np.float32)
    for first in range(0, model.vocab_size, HEAD_ROWS):
        rows = slice(first, min(first + HEAD_ROWS, model.vocab_size))
        logits[:, rows] = normed @ weights.head(rows.start, rows.stop).T
    return softcap(logits, model.logit_softcap)


# ---- what a trace says of it ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LayerLook:
    """What a traced run needs so that its layers can be looked at."""

    checkpoint: Checkpoint
    choice: LayerChoice
    report: Reporter = SILENT
    max_numbers: int = MAX_NUMBERS

    def require(self, num_prompt: int, params: SamplingParams) -> None:
        """UsageError or InsufficientMemoryError, before the run, for what cannot be looked at."""
        require_positions(self.choice, num_prompt)
        if params.context_shift:
            raise UsageError(
                "the layers of an answer that drops its oldest tokens cannot be shown", hint="Leave context_shift out."
            )
        require_memory(self.checkpoint, [num_prompt - 1])

    def of(
        self, completion: Completion, steps: Sequence[TracedStep], token: Callable[[int], TracedToken], top: int
    ) -> TracedLayers:
        """The chosen positions of a run. `top`: candidates that each layer shows."""
        started, model = time.perf_counter(), self.checkpoint.config
        text = TracedText.of(completion, self.checkpoint, None if completion.params is None else completion.params.lora_name)
        chosen = positions_of(self.choice, text.num_prompt, len(text.token_ids))
        rows = self._within_limit(chosen, top)
        positions: tuple[TracedPosition, ...] = ()
        if rows:
            require_memory(self.checkpoint, rows)
            tap = LayerTap(model, rows, self.report)
            weights = pass_through(self.checkpoint, text, rows[-1] + 1, tap)
            by_index = {step.index: step for step in steps}
            view = _View(model, text, by_index, token, top)
            positions = tuple(view.positions(tap, weights))
        distances = [one.distance for one in positions if one.distance is not None]
        return TracedLayers(
            arithmetic=ARITHMETIC,
            num_layers=model.num_layers,
            num_heads=model.num_heads,
            positions=positions,
            num_left_out=len(chosen) - len(rows),
            distance=max(distances, default=None),
            total_s=time.perf_counter() - started,
        )

    def _within_limit(self, chosen: Sequence[int], top: int) -> list[int]:
        """The first of the positions, as many as the trace has room for."""
        model, left, rows = self.checkpoint.config, self.max_numbers, list[int]()
        for row in chosen:
            left -= numbers_of(model, row, top)
            if left < 0:
                break
            rows.append(row)
        return rows


def numbers_of(model: ModelConfig, position: int, top: int) -> int:
    """How many numbers a trace holds of a position."""
    return attended_numbers(model, position) + NUMBERS_OF_CANDIDATE * (top + 1) * (model.num_layers + 1)


def attended_numbers(model: ModelConfig, position: int) -> int:
    """Weights of attention at a position, in all heads and layers."""
    return model.num_heads * sum(min(position + 1, layer.attention.window or position + 1) for layer in model.layers)


@dataclass(frozen=True, slots=True)
class _View:
    """Makes plain data of what the tap heard."""

    model: ModelConfig
    text: TracedText
    steps: dict[int, TracedStep]
    token: Callable[[int], TracedToken]
    top: int

    def positions(self, tap: LayerTap, weights: StreamedWeights) -> Iterator[TracedPosition]:
        """In groups, so that their logits fit in memory."""
        depth = self.model.num_layers + 1
        size = max(1, LENS_NUMBERS // (depth * self.model.vocab_size))
        for first in range(0, len(tap.rows), size):
            rows, states = tap.rows[first : first + size], tap.hidden_states[first : first + size]
            logits = lens(self.model, weights, states.reshape(-1, states.shape[-1])).reshape(len(rows), depth, -1)
            yield from (self._position(row, own, tap) for row, own in zip(rows, logits, strict=True))

    def _position(self, row: int, logits: Floats, tap: LayerTap) -> TracedPosition:
        ids, index = self.text.token_ids, row + 1 - self.text.num_prompt
        step = self.steps.get(index)
        return TracedPosition(
            position=row,
            step=index if index >= 0 else None,
            token=self.token(ids[row]),
            taken=self.token(ids[row + 1]),
            layers=tuple(self._layer(layer, row, one, tap) for layer, one in enumerate(logits)),
            distance=None if step is None else distance(logits[-1], step),
        )

    def _layer(self, layer: int, row: int, logits: Floats, tap: LayerTap) -> TracedLayer:
        require_finite(logits)
        taken, attention = self.text.token_ids[row + 1], tap.attended.get((row, layer))
        stage = StageRow(Candidates(logits), self.token).stage("", taken, self.top, None)
        assert stage.chosen is not None
        return TracedLayer(
            layer=layer,
            entropy_bits=stage.entropy_bits,
            top=stage.top,
            taken=stage.chosen,
            rank=rank(logits, taken),
            first=None if attention is None else row + 1 - len(attention[0]),
            attention=attention,
        )


def distance(logits: Floats, step: TracedStep) -> float | None:
    """The largest difference from the run's logits, over the candidates of the model that the step holds; None: it holds none."""
    held: list[Candidate] = [one for stage in step.stages[:1] for one in (*stage.top, stage.chosen) if one is not None]
    return max((abs(float(logits[one.id]) - one.logit) for one in held), default=None)


# ---- memory -----------------------------------------------------------------------------------------------------------------


def needed_bytes(checkpoint: Checkpoint, rows: Sequence[int], *, only_states: bool = False) -> int:
    """What the pass takes beside the loaded model to look at some positions: a layer as float32, K and V of the text, the hidden
    states, the logits, the weights of attention. `only_states`: without the last two."""
    model, num_tokens, depth = checkpoint.config, rows[-1] + 1, checkpoint.config.num_layers + 1
    group = min(len(rows), max(1, LENS_NUMBERS // (depth * model.vocab_size)))
    head = DEQUANTISING * min(HEAD_ROWS, model.vocab_size) * model.hidden_size
    lens_bytes = 4 * (head + (3 if model.logit_softcap else 1) * group * depth * model.vocab_size)
    states = 4 * model.hidden_size * 2 * (num_tokens + len(rows) * depth)
    attended = PYTHON_NUMBER * sum(attended_numbers(model, row) for row in rows)
    kv = kv_bytes(model, num_tokens, "f32")
    scratch = scratch_bytes(model, EngineConfig(chunk_tokens=min(num_tokens, ROWS_AT_ONCE), max_batch=1))
    layer = _layer_bytes(checkpoint) + scratch
    tables = 4 * num_tokens * len(RotaryTables(model)) * model.head_dim  # of cos and sin
    return (layer if only_states else max(layer, lens_bytes) + attended) + states + kv + tables


def _layer_bytes(checkpoint: Checkpoint) -> int:
    """The largest layer as float32, with what making its largest matrix takes beside it."""
    layers, largest = Counter[int](), 0
    for one in placements_of(checkpoint.tensors, backend_spec("reference").layouts["as-is"]):
        if (layer := layer_of(one.name)) is not None:
            layers[layer] += one.bytes
            largest = max(largest, one.bytes)
    return max(layers.values()) + (DEQUANTISING - 1) * largest


def require_memory(checkpoint: Checkpoint, rows: Sequence[int], *, only_states: bool = False) -> None:
    """InsufficientMemoryError, before anything is allocated, if the pass does not fit beside the loaded model."""
    needed, (_, free) = needed_bytes(checkpoint, rows, only_states=only_states), memory_bytes()
    if needed > free:
        raise InsufficientMemoryError(
            f"looking at layers needs {gib(needed)} beside the model, a layer of it as float32, and {gib(free)} are free",
            hint="Trace without layers (--layers), choose fewer positions, or take a smaller model.",
            needed_bytes=needed,
        )
