"""Every family computes what transformers computes: logits of random tiny models within 1e-4, relative to the row's largest."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from puna.batch import Logits
from puna.formats.base import Checkpoint
from tests.conformance.test_backends import forward, loaded
from tests.families import FAMILIES, ORIGINAL_CONTEXT, VOCAB_SIZE, WINDOW

TOLERANCE = 1e-4
LENGTHS = (1, 17, 300)
CHUNK = 128
PAGES = list(range(20))  # of 16 tokens
assert max(LENGTHS) > 4 * max(ORIGINAL_CONTEXT, WINDOW)
CASES = [(name, device) for name, family in FAMILIES.items() for device in family.devices]


@lru_cache(maxsize=1)
def made(name: str) -> tuple[Any, Checkpoint]:
    model = FAMILIES[name].transformers_model(seed=5)
    return model, FAMILIES[name].checkpoint(model)


def ids_of(length: int) -> list[int]:
    ids: list[int] = np.random.default_rng(length).integers(0, VOCAB_SIZE, length).tolist()
    return ids


def expected_logits(model: Any, ids: list[int], prompt: int) -> Logits:
    """Of every token: those of the prompt in one pass, then one by one with the keys and values kept."""
    import torch

    with torch.no_grad():
        out = model(torch.tensor([ids[:prompt]]), use_cache=True)
        rows = [out.logits[0].numpy()]
        for token in ids[prompt:]:
            out = model(torch.tensor([[token]]), past_key_values=out.past_key_values, use_cache=True)
            rows.append(out.logits[0].numpy())
    return np.concatenate(rows)


def require_equal(found: Logits, expected: Logits) -> None:
    error = np.abs(found - expected).max(axis=1) / np.abs(expected).max(axis=1)
    print("largest relative error:", error.max(), "at row", error.argmax())
    assert error.max() < TOLERANCE


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(("name", "device"), CASES)
def test_a_prompt_has_the_logits_of_transformers(name: str, device: str, length: int) -> None:
    oracle, checkpoint = made(name)
    ids = ids_of(length)
    with loaded(device, checkpoint, kv="f32") as backend:
        found = [
            forward(backend, (ids[first : first + CHUNK], first, PAGES), prompt_length=length)
            for first in range(0, length, CHUNK)
        ]
    require_equal(np.concatenate(found), expected_logits(oracle, ids, length))


@pytest.mark.parametrize(("name", "device"), CASES)
def test_tokens_after_the_prompt_have_the_logits_of_transformers(name: str, device: str) -> None:
    """Steps begin before the window and the original context are full, and end past both."""
    oracle, checkpoint = made(name)
    prompt, ids = 30, ids_of(110)
    with loaded(device, checkpoint, kv="f32") as backend:
        rows = [forward(backend, (ids[:prompt], 0, PAGES), prompt_length=prompt)]
        rows += [forward(backend, ([ids[i]], i, PAGES), prompt_length=prompt) for i in range(prompt, len(ids))]
    require_equal(np.concatenate(rows), expected_logits(oracle, ids, prompt))
