"""Hidden states, attention and lens of tiny models are transformers' within 1e-4; what a trace shows of them is bounded."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from puna.errors import InsufficientMemoryError, UsageError
from puna.formats.base import Checkpoint
from puna.glassbox import layers
from puna.glassbox.layers import LayerLook, LayerTap, TracedText, lens, needed_bytes, pass_through, positions_of
from puna.glassbox.record import record
from puna.glassbox.schema import trace_schema
from puna.glassbox.trace import Trace, TracedLayers
from puna.llm import LLM
from puna.progress import SILENT
from puna.request import SamplingParams
from tests.fakes import random_checkpoint, tiny_config
from tests.families import FAMILIES, VOCAB_SIZE, WINDOW
from tests.glassbox.test_record import make_llm
from tests.test_lora import Case, expected

TOLERANCE = 1e-4
LENGTH = 60
ROWS = [0, 1, 17, WINDOW, LENGTH - 1]
KINDS = ["llama-3.1", "qwen3", "mistral", "gemma2", "gemma3", "olmo2", "qwen3_moe"]


@lru_cache(maxsize=1)
def seen(kind: str) -> tuple[Any, Checkpoint, list[int]]:
    """A tiny model's answer with all that is inside (of transformers), our checkpoint, and the text."""
    import torch

    model = FAMILIES[kind].transformers_model(seed=6)
    ids = np.random.default_rng(6).integers(0, VOCAB_SIZE, LENGTH).tolist()
    with torch.no_grad():
        out = model(torch.tensor([ids]), output_hidden_states=True, output_attentions=True)
        lenses = [model.lm_head(model.model.norm(states[0, ROWS])) for states in out.hidden_states[:-1]]
        cap = getattr(model.config, "final_logit_softcapping", None)
        lenses = [cap * torch.tanh(logits / cap) if cap else logits for logits in lenses] + [out.logits[0, ROWS]]
    hidden = [states[0].numpy() for states in out.hidden_states]
    attentions = [weights[0].numpy() for weights in out.attentions]
    return (hidden, attentions, [logits.numpy() for logits in lenses]), FAMILIES[kind].checkpoint(model), ids


def require_near(found: Any, wanted: Any, what: str) -> None:
    error = float(np.abs(found - wanted).max() / np.abs(wanted).max())
    assert error < TOLERANCE, f"{what}: largest relative error {error:.2e}"


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_states_attention_and_lens_are_those_of_transformers(kind: str) -> None:
    (hidden, attentions, lenses), checkpoint, ids = seen(kind)
    model = checkpoint.config
    tap = LayerTap(model, ROWS)
    weights = pass_through(checkpoint, TracedText(ids, LENGTH), LENGTH, tap)
    for layer in range(model.num_layers):  # transformers norms the last one, and the lens below holds that
        require_near(tap.hidden_states[:, layer], hidden[layer][ROWS], f"hidden states after layer {layer}")
    for layer, window in enumerate((spec.attention.window for spec in model.layers), start=1):
        for row in ROWS:
            found, wanted = np.array(tap.attended[row, layer]), attentions[layer - 1][:, row]
            first = row + 1 - found.shape[1]
            assert first == (max(0, row + 1 - window) if window else 0) and found.shape[0] == model.num_heads
            assert np.abs(wanted[:, first : row + 1] - found).max() < TOLERANCE
            assert not wanted[:, :first].any() and np.abs(found.sum(axis=1) - 1).max() < 1e-3
    for layer, wanted in enumerate(lenses):
        require_near(lens(model, weights, tap.hidden_states[:, layer]), wanted, f"lens after layer {layer}")


def test_an_adapter_of_the_run_is_one_of_its_layers_too(tmp_path: Path) -> None:
    case = Case("llama-3.1", tmp_path)
    prompt = case.prompts[1]
    with LLM(case.path, device="reference", lora_modules=case.modules, report=SILENT) as llm:
        plain, adapted = (llm.trace(prompt, max_tokens=2, layers=[0], lora_name=name).layers for name in (None, "one"))
    assert plain is not None and adapted is not None and plain.distance is not None and adapted.distance is not None
    assert max(plain.distance, adapted.distance) < TOLERANCE
    wanted = expected(case.model, case.one, case.scales[0], prompt)
    last = adapted.positions[0].layers[-1]
    assert abs(last.taken.logit - wanted[last.taken.id]) < 1e-3 and last.taken.id == wanted.argmax()


# ---- in a trace -------------------------------------------------------------------------------------------------------------

PROMPT = "the llama"
SETTINGS: dict[str, Any] = {"max_tokens": 12, "ignore_eos": True, "temperature": 0.9, "seed": 7}


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with make_llm() as it:
        yield it


def look(trace: Trace) -> TracedLayers:
    assert trace.layers is not None
    return trace.layers


def test_the_last_layer_says_what_the_run_says(llm: LLM) -> None:
    trace = llm.trace(PROMPT, layers="all", top=5, **SETTINGS)
    found, num_prompt = look(trace), trace.prompt.num_tokens
    ids = [*(token.id for token in trace.prompt.tokens), *trace.token_ids]
    assert [one.position for one in found.positions] == list(range(len(ids) - 1)) and found.num_left_out == 0
    assert [(one.token.id, one.taken.id) for one in found.positions] == list(pairwise(ids))
    assert found.distance is not None and found.distance < TOLERANCE
    for one in found.positions[num_prompt - 1 :]:
        assert one.step is not None and one.distance is not None
        step, last = trace.steps[one.step], one.layers[-1]
        assert (last.rank, last.taken.id) == (step.rank, step.token.id) and abs(
            last.taken.logprob - (step.logprob or 0)
        ) < TOLERANCE
        assert [token.id for token in last.top] == [token.id for token in step.stages[0].top]
    assert all(one.step is None and one.distance is None for one in found.positions[: num_prompt - 1])
    for one in found.positions:
        assert [layer.layer for layer in one.layers] == list(range(found.num_layers + 1))
        assert one.layers[0].attention is None and one.layers[0].first is None
        assert all(
            layer.first == 0 and [len(head) for head in layer.attention or ()] == [one.position + 1] * found.num_heads
            for layer in one.layers[1:]
        )
    jsonschema.validate(json.loads(json.dumps(trace.as_json(), allow_nan=False)), trace_schema())


def test_nothing_passes_through_the_model_again_unless_it_is_asked_for(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = llm.trace(PROMPT, layers=True, **SETTINGS)
    monkeypatch.setattr(layers, "pass_through", None)
    plain = llm.trace(PROMPT, **SETTINGS)
    assert plain.layers is None and plain.token_ids == looked.token_ids
    assert [step.logprob for step in plain.steps] == [step.logprob for step in looked.steps]


CHOICES = [
    (True, list(range(8))),
    ("answer", list(range(12))),
    ("prompt", list(range(-8, 0))),
    ([3, 0, -1, 3, 99], [-1, 0, 3]),
    ([], []),
]


@pytest.mark.parametrize(("choice", "steps"), CHOICES, ids=lambda given: str(given)[:12])
def test_a_choice_names_steps_of_the_answer_and_tokens_of_the_prompt(choice: Any, steps: list[int]) -> None:
    assert [position - 8 for position in positions_of(choice, num_prompt=9, num_tokens=21)] == steps


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"layers": [-99]}, "layers has the step -99, and the prompt has 10 tokens"),
        ({"layers": "some"}, 'True, "answer", "prompt", "all", or a list of steps'),
        ({"layers": [0.5]}, "a step of layers is 0.5"),
        ({"layers": None}, "layers is None"),
        ({"layers": [0], "context_shift": True}, "drops its oldest tokens"),
    ],
)
def test_what_cannot_be_looked_at_is_refused_before_the_run(llm: LLM, settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        llm.trace(PROMPT, **settings)


def test_a_trace_with_layers_is_bounded_and_says_so(llm: LLM) -> None:
    (job,) = llm.jobs(PROMPT, SamplingParams(**SETTINGS), {})
    looking = LayerLook(llm._opened(), "answer", max_numbers=1200)
    found = look(record(llm.runner, llm.traced_model, *job, given=PROMPT, tokenizer_s=0.0, top=10, look=looking))
    numbers = sum(sum(map(len, layer.attention or ())) + 5 * 11 for one in found.positions for layer in one.layers)
    assert 0 < len(found.positions) < 12 == len(found.positions) + found.num_left_out and numbers <= 1200


def test_a_layer_that_does_not_fit_is_refused_before_anything_is_allocated(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "memory_bytes", lambda: (1 << 30, 1000))
    monkeypatch.setattr(layers, "pass_through", None)
    with pytest.raises(InsufficientMemoryError, match="looking at layers needs"):
        llm.trace(PROMPT, layers=True)


@pytest.mark.parametrize("quant", ["Q4_0", "Q8_0"])
def test_the_pass_takes_no_more_memory_than_is_foretold(quant: str) -> None:
    sizes = {"num_layers": 4, "hidden_size": 256, "ffn_size": 1024, "num_heads": 8, "num_kv_heads": 2, "head_dim": 32}
    checkpoint = random_checkpoint(tiny_config(vocab_size=2000, **sizes), quant)
    rows, text = list(range(90, 100)), TracedText([5] * 101, 100)
    tracemalloc.start()
    try:
        tap = LayerTap(checkpoint.config, rows)
        weights = pass_through(checkpoint, text, rows[-1] + 1, tap)
        lens(checkpoint.config, weights, tap.hidden_states.reshape(-1, 256))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    whole = sum(4 * int(np.prod(tensor.shape)) for tensor in checkpoint.tensors.values())
    assert peak <= needed_bytes(checkpoint, rows) < whole, f"{peak} bytes, {whole} for the whole model"
