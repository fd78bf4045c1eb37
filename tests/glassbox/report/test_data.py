"""The small JSON is the trace: unpacked, it differs by the digits left out only; and it is small."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from puna.glassbox import report
from puna.glassbox.report import trace_page
from puna.glassbox.report.data import packed
from puna.glassbox.trace import TracedStep
from tests.glassbox.report.traces import DRAWN, layers_of, sampled, word
from tests.node import evaluated, needs_node

DATA = Path(report.__file__).parent / "data.js"
MAX_BYTES = 1_000_000
FURTHER_TEXTS = 80_000  # bytes: of a larger vocabulary, a trace names more tokens
# Twelve filters: more than anybody switches on at once.
EVERY_FILTER: dict[str, Any] = {
    "logit_bias": {5: 1.0},
    "repetition_penalty": 1.1,
    "dry_multiplier": 0.8,
    "top_n_sigma": 8.0,
    "top_k": 500,
    "typical_p": 0.99,
    "bad_words_ids": [[7]],
    "min_p": 0.0001,
    "xtc_probability": 0.1,
    "xtc_threshold": 0.3,
    "adaptive_target": 0.4,
    **DRAWN,
}


def check_same(found: Any, expected: Any, where: str = "trace") -> None:
    """Numbers are equal to about five digits, and everything else is the same."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key, value in expected.items():
            check_same(found[key], value, f"{where}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for index, value in enumerate(expected):
            check_same(found[index], value, f"{where}[{index}]")
    elif isinstance(expected, float):
        assert math.isclose(found, expected, rel_tol=2e-5, abs_tol=2e-5), where
    else:
        assert found == expected, where


@needs_node()
def test_what_the_page_unpacks_is_the_trace() -> None:
    trace = sampled(6, {**DRAWN, "top_k": 40, "min_p": 0.05})
    nothing_sampled = replace(trace.steps[3], logprob=None, rank=None, stages=(), draw=None, computed=(), kv_bytes=None)
    given = replace(trace.steps[4], is_given=True, draw=None)
    steps = (*trace.steps[:3], nothing_sampled, given, TracedStep(5, word(9)))
    trace = replace(trace, steps=steps, layers=layers_of(trace))
    data = packed(trace)
    check_same(evaluated(DATA, "unpacked", "unpacked(given)", as_json(data)), as_json(trace.as_json()))


def as_json(value: Any) -> Any:
    """As JSON has it: keys are texts."""
    return json.loads(json.dumps(value))


@pytest.mark.parametrize("settings", [DRAWN, EVERY_FILTER], ids=["usual", "every filter"])
def test_256_steps_are_less_than_a_megabyte(settings: dict[str, Any]) -> None:
    trace = sampled(256, settings, lambda token_id: word(11 * token_id))
    assert len(trace_page(trace).encode()) < MAX_BYTES - FURTHER_TEXTS


@pytest.mark.full
@pytest.mark.parametrize("settings", [DRAWN, EVERY_FILTER], ids=["usual", "every filter"])
def test_256_steps_of_a_vocabulary_of_the_usual_size_are_less_than_a_megabyte(settings: dict[str, Any]) -> None:
    assert len(trace_page(sampled(256, settings, vocab_size=49_152)).encode()) < MAX_BYTES


def test_a_text_stands_once() -> None:
    trace = sampled(3, DRAWN)
    data = packed(trace)
    named = {one.id for step in trace.steps for stage in step.stages for one in stage.top}
    assert named <= data["texts"].keys() and data["texts"][trace.token_ids[0]] == trace.steps[0].token.text
    assert word(trace.token_ids[0]).text not in str(data["trace"]["steps"])


def test_a_trace_without_steps_is_packed() -> None:
    trace = replace(sampled(1, DRAWN), steps=(), token_ids=(), text="")
    assert packed(trace)["trace"]["steps"] == []
