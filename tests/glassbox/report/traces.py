"""Traces without a model: puna's own sampler and recorder, on random logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from puna.glassbox.record import padded, settings_of, used_filters
from puna.glassbox.recorder import StepRecorder
from puna.glassbox.trace import (
    FORMAT,
    Candidate,
    Trace,
    TracedLayer,
    TracedLayers,
    TracedPosition,
    TracedPrompt,
    TracedStep,
    TracedToken,
)
from puna.history import History
from puna.request import SamplingParams
from puna.sampling import Sampler

VOCAB_SIZE = 4096
DRAWN = {"temperature": 0.8, "top_p": 0.9, "seed": 42}
MARK = TracedToken(1, "<|im_start|>", "", "", is_control=True)


def word(token_id: int) -> TracedToken:
    """Some word for each id.

    >>> word(300).text
    ' lubaba'
    """
    syllables = ["ba", "do", "ki", "lu", "me", "no", "ra", "si", "ty", "vu"]
    text = " " + "".join(syllables[int(digit)] for digit in str(token_id))
    return TracedToken(token_id, text.replace(" ", "Ġ"), text, text.encode().hex(), is_control=False)


def sampled(
    num_steps: int, settings: dict[str, Any], token: Callable[[int], TracedToken] = word, vocab_size: int = VOCAB_SIZE
) -> Trace:
    """A trace of `num_steps` tokens, drawn from random logits (seed 11)."""
    params, rng = SamplingParams(**settings), np.random.default_rng(11)
    recorder = StepRecorder(token, kv_bytes_per_token=23_040, top=10)
    sampler = Sampler(params, vocab_size, watcher=recorder)
    history = History([1, 2, 3], output := list[int]())
    for index in range(num_steps):
        recorder.computed(0 if index == 0 else 2 + index, 3 + index, 0)
        logits = (rng.standard_normal(vocab_size) * 2).astype(np.float32)
        logits[rng.integers(vocab_size, size=20)] += rng.uniform(4, 14, 20).astype(np.float32)
        recorder.begin(logits, history)
        recorder.end(token_id := sampler.sample(logits, history))
        output.append(token_id)
    steps = tuple(recorder.steps[index] for index in range(num_steps))
    return whole(steps, params, (MARK, token(2), token(3)))


def whole(steps: tuple[TracedStep, ...], params: SamplingParams, prompt: tuple[TracedToken, ...]) -> Trace:
    """The trace around some steps."""
    text = "".join(token.text for token in prompt)
    return Trace(
        format=FORMAT,
        engine="0.0",
        model="/models/small.gguf",
        backend="cpu",
        settings=settings_of(params),
        seed=params.seed,
        filters=tuple(used_filters(params, has_processors=False)),
        prompt=TracedPrompt(
            given="a question",
            text=text,
            num_tokens=len(prompt),
            tokens=prompt,
            num_left_out=0,
            num_cached=0,
            tokenizer_s=0.001,
            padded=padded([len(prompt)], len(steps), 4096),
        ),
        steps=steps,
        num_left_out=0,
        token_ids=tuple(step.token.id for step in steps),
        text="".join(step.token.text for step in steps),
        finish_reason="length",
        stop_reason=None,
        why=f"max_tokens is {len(steps)}",
        first_token_s=0.05,
        total_s=0.5,
        weights_bytes=100_000_000,
    )


def layers_of(trace: Trace, num_layers: int = 3, num_heads: int = 2) -> TracedLayers:
    """Layers for the first two steps of a trace, whose attention is random (seed 12)."""
    rng, prompt = np.random.default_rng(12), trace.prompt.tokens
    tokens = [*prompt, *(step.token for step in trace.steps)]
    positions = []
    for step in trace.steps[:2]:
        place = len(prompt) - 1 + step.index
        top = step.stages[0].top[:4]
        taken = step.stages[0].chosen
        assert taken is not None
        weights = rng.dirichlet(np.ones(place + 1), (num_layers, num_heads)).round(6)
        layers = [TracedLayer(0, 3.0, top, taken, 9)]
        layers += [layer(number, top, taken, weights[number - 1]) for number in range(1, num_layers + 1)]
        positions.append(TracedPosition(place, step.index, tokens[place], step.token, tuple(layers), 0.001))
    return TracedLayers("numpy, float32", num_layers, num_heads, tuple(positions), 0, 0.001, 0.2)


def layer(number: int, top: tuple[Candidate, ...], taken: Candidate, weights: Any) -> TracedLayer:
    return TracedLayer(number, 2.0, top, taken, 1, 0, tuple(tuple(map(float, head)) for head in weights))
